package identity

import (
	"slices"
	"time"
)

// maxMethods bounds the list of authentication methods.
const maxMethods = 32

// authentication is what a token says of how and when its user was authenticated.
type authentication struct {
	class   string
	methods []string
	at      time.Time
}

// ACR is the authentication context class of the token ("acr", OpenID Connect Core section 2); empty where it names none.
// Classes have no order: none is more than another.
func (c Claims) ACR() string { return c.get().authenticated.class }

// HasMethod reports whether the token names the authentication method ("amr", RFC 8176).
func (c Claims) HasMethod(method string) bool {
	return slices.Contains(c.get().authenticated.methods, method)
}

// AuthTime is when the user was authenticated ("auth_time", OpenID Connect Core section 2); false where the token does not
// say it.
func (c Claims) AuthTime() (time.Time, bool) {
	at := c.get().authenticated.at
	return at, !at.IsZero()
}

// readAuthentication reads the three claims. Each may be absent, or null, and then says nothing. What is there must be of
// its type, and nobody was authenticated in the future.
func readAuthentication(m map[string]any, now time.Time) (a authentication, ok bool) {
	if acr := m["acr"]; acr != nil {
		if a.class, _ = acr.(string); !visible(a.class, maxClaimText) {
			return a, false
		}
	}
	if amr := m["amr"]; amr != nil {
		list, isList := amr.([]any)
		if !isList || len(list) > maxMethods {
			return a, false
		}
		for _, entry := range list {
			method, _ := entry.(string)
			if !visible(method, maxClaimText) {
				return a, false
			}
			a.methods = append(a.methods, method)
		}
	}
	if m["auth_time"] != nil {
		if a.at, ok = date(m, "auth_time"); !ok || now.Add(clockLeeway).Before(a.at) {
			return a, false
		}
	}
	return a, true
}
