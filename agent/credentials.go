package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
)

// The files of an agent's identity in its state directory, each 0600.
const (
	keyFile      = "key.pem"
	svidFile     = "svid.pem"
	bundleFile   = "bundle.pem"
	identityFile = "identity.json"
)

// Credentials are who an agent is: its key, made here and never sent, its SVID, the roots of its own trust domain as it
// got them at enrolment, and how the mesh reads SPIFFE IDs.
type credentials struct {
	id      identity.WorkloadID
	mapping identity.Mapping
	bundle  identity.Bundle
	leaf    *x509.Certificate
	chain   [][]byte // DER, leaf first
	key     *ecdsa.PrivateKey
}

var (
	// errNoCredentials says that the state directory holds none yet.
	errNoCredentials = errors.New("no SVID in the state directory")
	// errExpiredSVID says that the SVID on disk is of no use any more.
	errExpiredSVID = errors.New("the SVID has expired")
)

// certificate is the SVID as TLS presents it.
func (c *credentials) certificate() *tls.Certificate {
	return &tls.Certificate{Certificate: c.chain, PrivateKey: c.key, Leaf: c.leaf}
}

// chainPEM is the SVID as Envoy's SDS takes it.
func (c *credentials) chainPEM() []byte {
	var out []byte
	for _, der := range c.chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// keyPEM is the key in PKCS #8.
func (c *credentials) keyPEM() ([]byte, error) { return encodeKey(c.key) }

// identityJSON is what identity.json holds: how to read the SPIFFE ID in svid.pem.
type identityJSON struct {
	Workload string                 `json:"workload"`
	Platform string                 `json:"platformTrustDomain"`
	Mapping  []identity.MappingRule `json:"mapping"`
}

// newCredentials checks what the issuer gave, or the disk kept: the leaf is of our key, of our ID, by our own roots, now.
func newCredentials(want string, m identity.Mapping, key *ecdsa.PrivateKey, chain, roots [][]byte, now time.Time) (*credentials, error) {
	id, err := m.Parse(want)
	if err != nil {
		return nil, fmt.Errorf("own ID: %w", err)
	}
	bundle, err := identity.NewBundle(id.Tenant().TrustDomain(), roots...)
	if err != nil {
		return nil, fmt.Errorf("own roots: %w", err)
	}
	bundles, err := identity.NewBundles(bundle)
	if err != nil {
		return nil, fmt.Errorf("own roots: %w", err)
	}
	if len(chain) == 0 {
		return nil, errors.New("the SVID holds no certificate")
	}
	peer, err := identity.NewVerifier(m, bundles).VerifyLeaf(chain[0], chain[1:], now)
	switch {
	case errors.Is(err, identity.ErrExpired):
		return nil, fmt.Errorf("%w: %w", errExpiredSVID, err)
	case err != nil:
		return nil, fmt.Errorf("own SVID: %w", err)
	case !peer.ID().Same(id):
		return nil, fmt.Errorf("own SVID is of %s, not of %s", peer.ID(), id)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("own SVID: %w", err)
	}
	if public, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(key.Public()) {
		return nil, errors.New("own SVID is of another key")
	}
	return &credentials{id: id, mapping: m, bundle: bundle, leaf: leaf, chain: chain, key: key}, nil
}

// loadCredentials reads what an earlier start has left. The errors errNoCredentials and errExpiredSVID say that a new
// enrolment is needed.
func loadCredentials(dir, want string, now time.Time) (*credentials, error) {
	meta, err := os.ReadFile(filepath.Join(dir, identityFile)) //nolint:gosec // the operator's own directory
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoCredentials
	}
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	var about identityJSON
	if err := json.Unmarshal(meta, &about); err != nil {
		return nil, fmt.Errorf("%s: %w", identityFile, err)
	}
	if about.Workload != want {
		return nil, fmt.Errorf("the state directory belongs to %q, not to %q: give each workload its own", about.Workload, want)
	}
	mapping, err := mappingOf(about.Platform, about.Mapping)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", identityFile, err)
	}
	key, err := loadKey(dir)
	if err != nil {
		return nil, err
	}
	chain, err := readPEM(filepath.Join(dir, svidFile))
	if err != nil {
		return nil, err
	}
	roots, err := readPEM(filepath.Join(dir, bundleFile))
	if err != nil {
		return nil, err
	}
	return newCredentials(want, mapping, key, chain, roots, now)
}

// save writes the credentials; identity.json comes last, so what is whole is what has it.
func (c *credentials) save(dir string) error {
	about := identityJSON{Workload: c.id.String(), Platform: c.mapping.Platform().String(), Mapping: c.mapping.Rules()}
	meta, err := json.MarshalIndent(about, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", identityFile, err)
	}
	key, err := c.keyPEM()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{keyFile, key}, {svidFile, c.chainPEM()}, {bundleFile, c.bundle.PEM()}, {identityFile, append(meta, '\n')}} {
		if err := writeFile(filepath.Join(dir, f.name), f.data); err != nil {
			return err
		}
	}
	return nil
}

func mappingOf(platform string, rules []identity.MappingRule) (identity.Mapping, error) {
	td, err := identity.ParseTrustDomain(platform)
	if err != nil {
		return identity.Mapping{}, fmt.Errorf("platform trust domain: %w", err)
	}
	m, err := identity.NewMapping(td, rules)
	if err != nil {
		return identity.Mapping{}, fmt.Errorf("mapping: %w", err)
	}
	return m, nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return key, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func loadKey(dir string) (*ecdsa.PrivateKey, error) {
	blocks, err := readPEM(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, err
	}
	if len(blocks) != 1 {
		return nil, fmt.Errorf("%s holds %d keys", keyFile, len(blocks))
	}
	parsed, err := x509.ParsePKCS8PrivateKey(blocks[0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds no ECDSA key", keyFile)
	}
	return key, nil
}

func readPEM(path string) ([][]byte, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the operator's own directory
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	var blocks [][]byte
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		blocks = append(blocks, block.Bytes)
	}
	if len(blocks) == 0 {
		return nil, fmt.Errorf("%s holds no PEM", path)
	}
	return blocks, nil
}

// writeFile replaces a file as a whole, 0600: a reader and a crash see the old bytes or the new ones.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600 by itself
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // what is left of a failed write is of no use
		return fmt.Errorf("write: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
