// Package filters builds every piece of Envoy configuration that Ringfence generates, and checks it.
//
// The builders (chain.go, extauthz.go, rbac.go, tls.go, protocol.go, routes.go) are the only code that writes Envoy
// messages for a mesh: closed, typed, with no way through for anybody's own Envoy configuration. The one order of the
// filters is written out in chain.go.
//
// The linter (Lint) is the guard of these builders and shares nothing with them but Envoy's own names. It reads serialised
// bytes, as Envoy will, and refuses whatever is not on its closed list: an unknown field, an unknown extension, a field that
// Ringfence never sets, a setting that differs from what Settings lists. It knows shapes and settings; whose the names,
// identities and addresses are is the business of package prove.
//
// Sources: Envoy's API (go-control-plane/envoy 1.40), behaviour measured on Envoy 1.40.0.
package filters
