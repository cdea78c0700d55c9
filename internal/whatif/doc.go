// Package whatif asks the decision point about calls that nobody made: a configuration directory is built, compiled and
// proved as the control plane does, and the caller and the token of a question are proved to it as on a real call.
//
// Nothing here is trusted by a mesh. The roots that sign a caller's certificate are made for the question and die with it,
// and so does the key that signs a token; its public half takes the place of every token issuer's key set, in the copy of
// the documents that is asked and nowhere else. What follows is that a question tells nothing about certificates and
// signatures, and everything about what comes after them.
package whatif
