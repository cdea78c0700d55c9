// Package archtest holds the tests of the rules that no compiler checks: which package may import which, where nothing
// reads a clock, that tenants are compared in one way only, what must not compile, and that the documentation speaks of
// things that exist. It has no code that anything could import.
package archtest
