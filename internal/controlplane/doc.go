// Package controlplane joins the parts of the control plane into one that runs: the pipeline over a source, the xDS
// server, the issuer, the operators' admin socket, and the HTTP endpoint for health and metrics.
//
// It is used by `ringfence serve`, by the demo and by end-to-end tests alike, so what they run is the same. It holds
// wiring, the file in which accepted documents outlive the process, and no rules.
package controlplane
