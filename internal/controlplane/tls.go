package controlplane

import (
	"crypto/x509"
	"errors"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
)

var errNoCertificate = errors.New("no certificate")

// VerifyPeer refuses, in the handshake, everybody who does not show an SVID that the verifier in force proves. The code
// that serves the connection reads from it again who that is.
func VerifyPeer(verifier func() identity.Verifier, clock func() time.Time) func([][]byte, [][]*x509.Certificate) error {
	return func(chain [][]byte, _ [][]*x509.Certificate) error {
		if len(chain) == 0 {
			return errNoCertificate
		}
		_, err := verifier().VerifyLeaf(chain[0], chain[1:], clock())
		return err
	}
}
