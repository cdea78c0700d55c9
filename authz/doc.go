// Package authz decides whether a call is allowed. Compile turns one tenant's services, rules, grants and token issuers
// into a Table; Decide answers a call from a Table.
//
// A call passes only if all of this holds, and the first that does not is the Reason of the refusal:
//
//  1. the caller is known: its certificate was verified and has not expired; or it comes through an asker of which the Mesh
//     says that it is believed, or that its callers are whom their tokens name; and neither it nor its certificate is revoked;
//  2. the destination is a service of the Table;
//  3. guard: caller and destination are of one tenant, or the destination is the platform's and an unexpired Grant names
//     the caller's tenant; one whom only a token names is of the token's tenant, which must be the service's own;
//  4. the token, where the service reads tokens, is there if it must be, asserts the caller's own tenant, and neither it nor
//     its subject or session is revoked;
//  5. the token says of its user's authentication what the service's class of data demands;
//  6. a rule, or the Grant, names the caller (of one whom only a token names: the asker through which it comes), its
//     roles, the method and the path.
//
// Rules can only allow, and only behind the guard: nothing that a user writes widens steps 1 to 3. Everything that is
// absent, unknown or unreadable denies, and so does the zero value of every type.
//
// The package does no I/O, reads no clock and starts no goroutine. It holds one tenant at a time: no function takes a
// Model or two Tenants.
package authz
