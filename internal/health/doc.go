// Package health judges what is known of a mesh: which checks are well, which failed, by a code that stays the same, and which
// cannot be answered. It gathers nothing itself: facts come in, a Report goes out, and the time is one of the facts. What is
// not known is never reported as well.
package health
