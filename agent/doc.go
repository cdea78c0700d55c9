// Package agent stands beside one Envoy and between it and everything else.
//
// It makes the workload's private key, gets the SVID from the issuer against a one-time join token, and holds the one
// discovery stream to the control plane. What arrives there is judged resource by resource (prove.Relayed), collected, and
// only a whole that its own Table names is committed: kept on disk and offered to Envoy on a Unix socket, together with
// the SVID, over the same delta protocol. On that socket it also answers Envoy's ext_authz checks from the Table. It
// starts Envoy and keeps it running.
//
// What it promises:
//   - What is not the workload's own tenant's is refused, and the old configuration stays.
//   - From the arrival of a new Table until Envoy has acknowledged everything that belongs to it, a call must be allowed by
//     the old and by the new one.
//   - With the control plane away it goes on, also after a restart, until the SVID expires. Then, and before the first
//     coherent configuration, every call is denied.
//   - A response is acknowledged to the control plane when Envoy has acknowledged what was in it.
//   - No Envoy outlives its agent.
//
// One goroutine, the relay's, owns what is collected, committed and acknowledged; the others send it events.
package agent
