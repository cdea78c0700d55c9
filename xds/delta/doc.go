// Package delta is one incremental (delta) xDS conversation: what a client asked for, what it may see, and therefore what
// to tell it next.
//
// Conversation is a pure state machine: requests and targets go in, responses come out; it reads no clock and starts no
// goroutine. Serve runs one over a gRPC stream. Who may see what is not decided here: a Target is a client's whole visible
// set, made by somebody who knows who the client is, and names are only ever looked up in it. So an unknown name and a
// name of somebody else get the same answer, byte for byte, because there is no difference here.
//
// What it promises:
//   - New and changed resources come in the order table, clusters, endpoints, secrets, listeners, routes; listeners and
//     routes not before the endpoints that new clusters wait for.
//   - Removals come last, in reverse order, after everything new was acknowledged.
//   - Listeners, clusters and route configurations come one per response, so that a refusal (NACK) means one resource.
//   - A refused version is not sent again by itself; a later version is.
//   - Any number of responses may be unanswered, in any order: an agent acknowledges late, when its Envoy did.
//   - Secrets that are not there are answered by silence: Envoy would go live without them and reset every connection.
//
// A client that asks for the table is an agent. It collects and commits a set as a whole, so for it nothing is held back.
//
// It uses go-control-plane's Subscription for what a request means, and not its delta server, whose watches say nothing
// before the last response is acknowledged and know no order between additions and removals.
package delta
