// Package pipeline turns what a source holds into what the mesh serves: load, decode, build, compile, prove, and one
// swap of a pointer.
//
// Each owner of documents (the platform, every tenant) stands for itself. An owner whose newest documents have a problem
// stays on those that were last accepted, and the others move on; a tenant that never had any is served nothing. The
// platform's documents come first: a tenant whose accepted documents no longer fit them loses them, so no tenant can hold
// up the platform. Where the platform's own are broken, or the prover finds a counterexample, the whole old Generation
// stays.
//
// xDS resources and authorization tables always belong to one Generation, and a Generation cannot be made without the
// Proof that covers it. What a tenant's digest says is unchanged is not compiled again. Compiling happens in the one
// goroutine of Run, under no lock that a decision or a push needs: those read the pointer.
//
// A Memory keeps the accepted documents for the next process, which starts as if this one had never stopped: with a
// broken document its owner stays on them, and who held an address keeps it. Without a Memory they end with the process.
package pipeline
