// Package tenancy makes the Model of a mesh out of documents, and is the only code that ever sees two tenants' documents
// together. What leaves it is a Model that is whole and valid, and for each tenant a handle, Tenant, that can reach that
// tenant alone: its own things, the shared services that are granted to it, and for the platform the callers of its
// shared services.
//
// Build says who owns what. The owner of a document follows from the path of its file, and a document can only speak of
// its owner: what it says of others is a problem of its own owner, found with its position, and told without naming them.
// Every problem bears the owner whose documents must change, so one tenant's mistakes never hold up another.
//
// A handle's Digest covers everything that the handle can reach and nothing else. Whatever is compiled from a Tenant is
// therefore the same as long as its Digest is, and no change at one tenant's can alter another's digest.
//
// The package does no I/O, reads no clock and starts no goroutine; models and all values from them are immutable and
// safe for concurrent use. It does not decide calls (package authz) and knows nothing of Envoy beyond resource names.
package tenancy
