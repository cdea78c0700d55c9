// Package jwks fetches the key sets that token issuers publish on the web, and goes on with the last good ones while they
// cannot be had.
//
// Who writes a TokenIssuer says where this process connects to, so a key set is never fetched from inside: the address is
// judged when the connection is made, after every resolver, and only public ones are taken, or those that whoever runs
// the process allows. HTTPS with a verified certificate, no redirects, no proxy, no cookies, no compression, one
// connection for each fetch; a bounded time, a bounded answer. Each set has a goroutine of its own: an issuer that hangs,
// floods or lies keeps no other waiting, and what it lies is not a key set or is one of its own keys.
//
// There is no key that is not published: no default, no fallback. A set that could not be fetched again for a day is
// forgotten.
package jwks
