package issuer

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.step.sm/crypto/kms/apiv1"

	"github.com/ringfence-mesh/ringfence/identity"
)

// role is what a root is there for. All of an authority's roots are trusted; the current one signs.
type role string

const (
	roleCurrent  role = "current"
	roleNext     role = "next"     // will sign once everybody trusts it
	rolePrevious role = "previous" // has signed what still lives
)

// authority is the roots of one trust domain: a current one, and while it is rotated a next or a previous one. It never
// changes.
type authority struct {
	td       identity.TrustDomain
	roots    []*root   // the current one first
	last     int       // the highest generation that ever was
	begun    time.Time // the last rotation; zero: there was none
	underway *underway // nil: no rotation is
	// compromised are the SHA-256 of roots that were withdrawn as that, in their order.
	compromised [][sha256.Size]byte
}

func (a *authority) current() *root { return a.roots[0] }

// bundle is what others trust. Its order does not change with the root that signs, so that nobody is sent it again.
func (a *authority) bundle() (identity.Bundle, error) {
	var ders [][]byte
	for _, r := range slices.SortedFunc(slices.Values(a.roots), func(x, y *root) int { return x.generation - y.generation }) {
		ders = append(ders, r.cert.Raw)
	}
	b, err := identity.NewBundle(a.td, ders...)
	if err != nil {
		return identity.Bundle{}, err
	}
	return b.Without(a.compromised...)
}

// has reports whether a root of that fingerprint is trusted.
func (a *authority) has(fingerprint [sha256.Size]byte) bool {
	return slices.ContainsFunc(a.roots, func(r *root) bool { return r.fingerprint() == fingerprint })
}

// signed reports whether a root that is trusted has signed the certificate.
func (a *authority) signed(leaf *x509.Certificate) bool {
	return slices.ContainsFunc(a.roots, func(r *root) bool { return leaf.CheckSignatureFrom(r.cert) == nil })
}

const (
	rootsVersion = 1
	maxRoots     = 64 << 20
)

// storedRoots is roots.json: one file, replaced as a whole, says which root signs, so that a change of it happens at once
// or not at all. Generations count up and are never used again.
type storedRoots struct {
	Version int          `json:"version"`
	Roots   []storedRoot `json:"roots"`
	// Last is the highest generation that ever was, where no root has it any more.
	Last     int       `json:"last,omitempty"`
	Rotation *underway `json:"rotation,omitempty"`
	// Begun is when the last rotation began.
	Begun time.Time `json:"begun,omitzero"`
	// Compromised are the SHA-256, in hex, of roots that were withdrawn as that.
	Compromised []string `json:"compromised,omitempty"`
}

type storedRoot struct {
	Generation  int    `json:"generation"`
	Role        role   `json:"role"`
	Key         string `json:"key"`         // what the key is called where root keys are
	Certificate string `json:"certificate"` // PEM
}

func (a *authority) encode() ([]byte, error) {
	s := storedRoots{Version: rootsVersion, Last: a.last, Rotation: a.underway, Begun: a.begun}
	for _, c := range a.compromised {
		s.Compromised = append(s.Compromised, hex.EncodeToString(c[:]))
	}
	for _, r := range a.roots {
		text := pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: r.cert.Raw})
		s.Roots = append(s.Roots, storedRoot{Generation: r.generation, Role: r.role, Key: r.keyName, Certificate: string(text)})
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("roots of %s: %w", a.td, err)
	}
	if len(text) >= maxRoots {
		return nil, fmt.Errorf("roots of %s: more than can be read again", a.td)
	}
	return append(text, '\n'), nil
}

// parseAuthority reads what encode wrote, and gets the keys. It refuses a root that could vouch for another trust domain,
// and a key that is not its certificate's.
func parseAuthority(td identity.TrustDomain, text []byte, keys Keys) (*authority, error) {
	var s storedRoots
	d := json.NewDecoder(io.LimitReader(bytes.NewReader(text), maxRoots))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return nil, fmt.Errorf("roots of %s: %w", td, err)
	}
	if s.Version != rootsVersion {
		return nil, fmt.Errorf("roots of %s: version %d, this program reads version %d", td, s.Version, rootsVersion)
	}
	a := &authority{td: td, last: s.Last, begun: s.Begun, underway: s.Rotation}
	for _, text := range s.Compromised {
		raw, err := hex.DecodeString(text)
		if err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("roots of %s: a compromised root is not named by its SHA-256", td)
		}
		a.compromised = append(a.compromised, [sha256.Size]byte(raw))
	}
	seen := map[role]bool{}
	for _, kept := range s.Roots {
		known := kept.Role == roleCurrent || kept.Role == roleNext || kept.Role == rolePrevious
		if !known || seen[kept.Role] || kept.Generation < 1 {
			return nil, fmt.Errorf("roots of %s: root %d has the role %q, which is unknown or taken", td, kept.Generation, kept.Role)
		}
		seen[kept.Role] = true
		a.last = max(a.last, kept.Generation)
		r, err := kept.open(td, keys)
		if err != nil {
			return nil, err
		}
		if r.role == roleCurrent {
			a.roots = append([]*root{r}, a.roots...)
		} else {
			a.roots = append(a.roots, r)
		}
	}
	if !seen[roleCurrent] {
		return nil, fmt.Errorf("roots of %s: none is current", td)
	}
	var roles []role
	for _, r := range a.roots {
		roles = append(roles, r.role)
	}
	if !a.underway.fits(roles) {
		return nil, fmt.Errorf("roots of %s: the roots are not those of the rotation's step", td)
	}
	return a, nil
}

func (s storedRoot) open(td identity.TrustDomain, keys Keys) (*root, error) {
	if !strings.HasPrefix(s.Key, keys.scheme) {
		return nil, fmt.Errorf("%w: the key of a root of %s is %q, and keys are looked for in %s: a key cannot be moved, start as before",
			errElsewhere, td, s.Key, strings.TrimSuffix(keys.scheme, ":"))
	}
	der, err := onePEM([]byte(s.Certificate), certificateBlock)
	if err != nil {
		return nil, fmt.Errorf("root of %s: %w", td, err)
	}
	signer, err := keys.manager.CreateSigner(&apiv1.CreateSignerRequest{SigningKey: s.Key})
	if err != nil {
		return nil, fmt.Errorf("root of %s: %w", td, err)
	}
	r, err := checkedRoot(td, der, signer)
	if err != nil {
		return nil, err
	}
	r.generation, r.role, r.keyName = s.Generation, s.Role, s.Key
	return r, nil
}

func onePEM(data []byte, kind string) ([]byte, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != kind || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("expected exactly one PEM block of type " + kind)
	}
	return block.Bytes, nil
}
