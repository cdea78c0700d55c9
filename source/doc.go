// Package source finds the documents of a mesh: a directory of YAML files, read whole, with a revision and a notice when
// something in it changed.
//
// The directory is untrusted input of several owners. What is wrong with one owner's part (a link that leaves it, a file
// that cannot be read, too many files) is a problem of that owner and keeps nobody else's files back. A source does not
// decode: it gives bytes and paths, and the path alone says the owner.
//
// Package sourcetest holds what every source must do.
package source
