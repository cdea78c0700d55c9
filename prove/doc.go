// Package prove decides whether compiled configuration keeps every tenant to itself, and is the only maker of a Proof,
// without which nothing is served.
//
// For now the method is "lint": every resource passes the linter of package filters, and everything in it that says whose
// it is — names, identities, roots, addresses, labels, hosts, rules — is compared with the Model, from the bytes and
// without the compilers' code. A request-by-request decision procedure comes later.
//
// Prove is for the control plane, which has the Model. Relayed is for an agent, which has none: it refuses what cannot be
// its own tenant's, so that a hostile control plane cannot make a sidecar trust or call another tenant.
package prove
