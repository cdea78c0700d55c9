// Package server is the control plane's discovery service: Envoy's aggregated discovery over mutual TLS, incremental for agents,
// incremental or state of the world for Envoys without one.
//
// Who asks decides what is visible. The workload is read from the verified certificate of the connection before a byte of
// the stream is read; from then on the stream knows that workload's snapshot and table only, and names are looked up in
// nothing else. The request's node is a hint for logs. A name of another tenant and a name that does not exist are the
// same to it, and so are the answers.
//
// A workload that the current generation does not know keeps its stream and sees nothing: the same answers as for a
// workload that has nothing, and what it had before is taken from it. It is not told that it is unknown. Without a
// generation there is no trust bundle, so no handshake succeeds and nobody's configuration is taken away.
//
// Nothing is served in plaintext; there is no reflection and no debug service on this port.
package server
