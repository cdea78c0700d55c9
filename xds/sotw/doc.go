// Package sotw is one state-of-the-world xDS conversation, for Envoys that open their discovery stream without an agent.
//
// It is package delta's elder sister: the same Target, the same order, the same limits and the same loop, with the wire
// form in which a response holds a whole type and an absence is a removal. Conversation is a pure state machine.
//
// What it promises:
//   - New and changed resources come in the order clusters, endpoints, secrets, listeners, routes; listeners and routes not
//     before the client asked for the endpoints of its new clusters.
//   - Clusters and listeners that shall go stay in their type's responses until everything new was acknowledged; then they
//     are left out, listeners first.
//   - Clusters and listeners come all at once at first and then one new one per response, so that a refusal (NACK) means one
//     resource; its last good version stands in for it. Only a refusal of the very first response is about any of them.
//   - A refused version is not sent again by itself; a later version is.
//   - One response of a type is unanswered at a time, because the protocol only knows the newest nonce. Answers to older
//     ones are ignored.
//   - An unknown name and a name of somebody else get the same answer: none.
//
// The table is never served here: a client that has no agent has nobody who could read it.
package sotw
