// Package workloadapi serves the SPIFFE Workload API (X.509 and JWT profiles) to the applications of one workload.
//
// Every caller that reaches the socket is that workload: the operating system decides who may connect, by the socket's mode
// and the caller's user. What is served comes from a Source and follows it: a renewed SVID or a changed bundle is sent on
// the open streams. JWT-SVIDs come from and are verified by Tokens; JWT bundles are those of the workload's own trust domain.
//
// Follow is the other side: it takes a workload's SVID from the Workload API of another issuer, such as SPIRE's agent. It gives what
// was sent, for the caller to verify, and leaves waiting and asking again to it: the caller knows until when it can do without.
//
// Source: the SPIFFE Workload API standard, sections 3 to 6 (SPIFFE_Workload_API.md of the SPIFFE project).
package workloadapi
