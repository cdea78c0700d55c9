// Package extauthz is the Envoy ext_authz v3 gRPC server around authz.Decide. It reads a CheckRequest, proves the caller
// by its certificate and the token by its issuer's keys, asks the Table, and turns the Decision into Envoy's answer.
//
// What it believes:
//   - who asks: the Asker says it, from the socket or from the asking proxy's own certificate;
//   - who calls: the leaf certificate that Envoy passes on, verified here again, byte for byte equal to the principal that
//     Envoy read;
//   - whom: the context that Ringfence's own filters write, as far as the asker runs that service;
//     of a TCP connection, which has no context, the port at which the asker took it;
//   - askers that the Mesh names, gateways above all: only what their entry says. They may ask about its services, each by
//     the Table of the service's own tenant; and where the entry says so, who calls is what such an asker says, in
//     Envoy's principal or in x-forwarded-client-cert;
//   - for whom: the one bearer token of the request.
//
// A CheckRequest is not unmarshalled: scan reads the few fields above from its bytes, as proto.Unmarshal would, and all that
// follows sees these fields only. Answers are written as bytes as well.
//
// Headers of the request other than Authorization are never read, but for that one of an asker that is believed. The
// answer to a refused call names no tenant, service or rule, and is the same for everything that could reveal one.
//
// Whatever cannot be read, is missing or goes wrong here is a refusal: 503 where the decision point itself is at fault.
package extauthz
