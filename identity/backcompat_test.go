//go:build spiffeid_charset_backcompat

package identity_test

import (
	"errors"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/ringfence-mesh/ringfence/identity"
)

// TestTheLibrarysOldAlphabetIsNone: a build tag of go-spiffe lets SPIFFE IDs hold more characters. Here it changes nothing, because
// identities are read from their bytes, by a grammar of our own, before the library sees them. internal/archtest runs this.
func TestTheLibrarysOldAlphabetIsNone(t *testing.T) {
	t.Parallel()
	tr := newTrust(t)
	for _, uri := range []string{
		"spiffe://globex.demo.test/ns/globex/sa/w~b", "spiffe://globex.demo.test/ns/globex/sa/w:b", "spiffe://globex.demo.test/ns/globex/sa/w@b",
		"spiffe://globex.demo.test/ns/globex/sa/[web]", "spiffe://globex.demo.test/ns/globex/sa/w;b", "spiffe://globex.demo.test/ns/globex/sa/w*b",
		"spiffe://glo~bex.demo.test/ns/globex/sa/web", "spiffe://glo$bex.demo.test/ns/globex/sa/web",
	} {
		if _, err := spiffeid.FromString(uri); err != nil {
			t.Fatalf("the library does not take %s, so nothing is shown: %v", uri, err)
		}
		if _, err := identity.ParseSPIFFEID(uri); !errors.Is(err, identity.ErrInvalidID) {
			t.Errorf("%s: %v", uri, err)
		}
		if w, err := mapping(t, perTenant).Parse(uri); err == nil || !w.IsZero() {
			t.Errorf("%s is %s", uri, w)
		}
		svid := tr.globex.SVID(uri)
		if p, err := tr.verifier.VerifyLeaf(svid.TLS().Certificate[0], nil, time.Now()); err == nil || !p.IsZero() {
			t.Errorf("a certificate proves %s", uri)
		}
		if _, _, err := tr.verifier.VerifyID(svid.TLS().Certificate[0], nil, time.Now()); err == nil {
			t.Errorf("a certificate proves %s", uri)
		}
	}
}
