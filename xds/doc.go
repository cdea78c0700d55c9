// Package xds turns one tenant into the Envoy configuration of each of its workloads: Compile, a pure function from a
// tenancy.Tenant to a Part of frozen, serialised resources.
//
// It promises: the same tenant gives the same bytes, and a change in one tenant changes no byte of another. A changed rule,
// role or path of a Grant changes route configurations only; a first Grant adds one filter chain to the shared service and
// leaves the bytes of the others as they are, so no connection is drained.
//
// It does not check what it makes: the linter of package filters and package prove do, from the bytes. It also holds the
// bootstrap that a sidecar starts with (Bootstrap).
package xds
