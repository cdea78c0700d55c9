package agent

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/xds"
)

const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"

	// ownSecret is the name of the workload's SVID, as SPIRE's agent serves it.
	ownSecret = "default"
)

var (
	errSVID = errors.New("SVID")
	errKey  = errors.New("not a key that was written here")
)

// svid is the workload's own identity: everything that the agent knows without the control plane. It never changes.
type svid struct {
	id      identity.WorkloadID
	mapping identity.Mapping
	bundle  identity.Bundle // of the workload's own trust domain
	// notBefore is the certificate's, notAfter the chain's.
	notBefore, notAfter time.Time

	cert   tls.Certificate
	secret xds.Resource // what Envoy gets
}

// storedIdentity is identity.json.
type storedIdentity struct {
	Workload            string       `json:"workload"`
	PlatformTrustDomain string       `json:"platformTrustDomain"`
	Mapping             []storedRule `json:"mapping"`
	// Sum tells a damaged disk: it is the SHA-256, in hex, of the rest. Earlier versions wrote none.
	Sum string `json:"sum,omitempty"`
}

type storedRule struct {
	TrustDomain string `json:"trustDomain"`
	Path        string `json:"path"`
}

func (s storedIdentity) sum() string {
	s.Sum = ""
	text, _ := json.Marshal(s) //nolint:errchkjson // texts can always be written
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// parseStored reads identity.json, and believes nothing of a damaged one.
func parseStored(data []byte) (storedIdentity, error) {
	var stored storedIdentity
	if err := json.Unmarshal(data, &stored); err != nil {
		return storedIdentity{}, err
	}
	if stored.Sum != "" && stored.Sum != stored.sum() {
		return storedIdentity{}, fmt.Errorf("%w: the checksum is wrong", errSVID)
	}
	return stored, nil
}

func (s storedIdentity) mapping() (identity.Mapping, error) {
	platform, err := identity.ParseTrustDomain(s.PlatformTrustDomain)
	if err != nil {
		return identity.Mapping{}, fmt.Errorf("platform trust domain: %w", err)
	}
	var rules []identity.MappingRule
	for _, r := range s.Mapping {
		rules = append(rules, identity.MappingRule{TrustDomain: r.TrustDomain, Path: r.Path})
	}
	return identity.NewMapping(platform, rules)
}

// newSVID checks that the parts belong together and to the workload. now must lie within the validity.
func newSVID(id string, key *ecdsa.PrivateKey, chain [][]byte, bundleDER [][]byte, stored storedIdentity, now time.Time) (svid, error) {
	mapping, err := stored.mapping()
	if err != nil {
		return svid{}, fmt.Errorf("%w: %w", errSVID, err)
	}
	s := svid{mapping: mapping}
	if s.id, err = mapping.Parse(id); err != nil {
		return svid{}, fmt.Errorf("%w: %w", errSVID, err)
	}
	if s.bundle, err = identity.NewBundle(s.id.Tenant().TrustDomain(), bundleDER...); err != nil {
		return svid{}, fmt.Errorf("%w: %w", errSVID, err)
	}
	bundles, err := identity.NewBundles(s.bundle)
	if err != nil {
		return svid{}, fmt.Errorf("%w: %w", errSVID, err)
	}
	if len(chain) == 0 {
		return svid{}, fmt.Errorf("%w: no certificate", errSVID)
	}
	peer, err := identity.NewVerifier(mapping, bundles).VerifyLeaf(chain[0], chain[1:], now)
	if err != nil {
		return svid{}, fmt.Errorf("%w: %w", errSVID, err)
	}
	if !peer.ID().Same(s.id) {
		return svid{}, fmt.Errorf("%w: it is of %s", errSVID, peer.ID())
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return svid{}, fmt.Errorf("%w: %w", errSVID, err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return svid{}, fmt.Errorf("%w: it is of another key", errSVID)
	}
	s.notBefore, s.notAfter = leaf.NotBefore, peer.NotAfter()
	s.cert = tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}
	s.secret, err = newSecret(key, chain)
	return s, err
}

// newSecret is the SVID as Envoy takes it.
func newSecret(key *ecdsa.PrivateKey, chain [][]byte) (xds.Resource, error) {
	keyPEM, err := encodeKey(key)
	if err != nil {
		return xds.Resource{}, err
	}
	inline := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(&tlsv3.Secret{
		Name: ownSecret,
		Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(encodePEM(chain)), PrivateKey: inline(keyPEM),
		}},
	})
	if err != nil {
		return xds.Resource{}, fmt.Errorf("own secret: %w", err)
	}
	return xds.NewResource(xds.SecretType, ownSecret, value), nil
}

// loadSVID reads what an earlier start has left. It is false where there is none.
func loadSVID(d *stateDir, id string, now time.Time) (svid, bool, error) {
	files := map[string][]byte{}
	for _, name := range []string{keyFile, svidFile, bundleFile, identityFile} {
		data, err := d.read(name)
		if err != nil {
			return svid{}, false, err
		}
		if data == nil {
			return svid{}, false, nil // svid.pem is written last: without all of them nobody has joined
		}
		files[name] = data
	}
	stored, err := parseStored(files[identityFile])
	if err != nil {
		return svid{}, false, fmt.Errorf("%s: %w", d.file(identityFile), err)
	}
	if stored.Workload != id {
		return svid{}, false, fmt.Errorf("%w: %s belongs to %s", errStateDir, d.path, stored.Workload)
	}
	bundle, err := decodePEM(files[bundleFile])
	if err != nil {
		return svid{}, false, fmt.Errorf("%s: %w", bundleFile, err)
	}
	if err := selfSigned(bundle); err != nil {
		return svid{}, false, fmt.Errorf("%w: %s: %w", errSVID, d.file(bundleFile), err)
	}
	assemble := func(keyPEM, chainPEM []byte) (svid, error) {
		key, err := decodeKey(keyPEM)
		if err != nil {
			return svid{}, err
		}
		chain, err := decodePEM(chainPEM)
		if err != nil {
			return svid{}, fmt.Errorf("%s: %w", svidFile, err)
		}
		return newSVID(id, key, chain, bundle, stored, now)
	}
	next, err := d.read(nextFile)
	if err != nil {
		return svid{}, false, err
	}
	if keyPEM, chainPEM := splitNext(next); next != nil {
		if s, err := assemble(keyPEM, chainPEM); err == nil {
			return s, true, s.settle(d)
		} // else the files beside it hold, or say themselves why not
	}
	s, err := assemble(files[keyFile], files[svidFile])
	return s, err == nil, err
}

// selfSigned tells damage to roots: the issuer's bear their own signature, and a changed bit anywhere breaks it.
func selfSigned(roots [][]byte) error {
	for _, der := range roots {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if err := root.CheckSignature(root.SignatureAlgorithm, root.RawTBSCertificate, root.Signature); err != nil {
			return errors.New("a root does not bear its own signature")
		}
	}
	return nil
}

// splitNext takes next.pem apart: the key stands first.
func splitNext(data []byte) (keyPEM, chainPEM []byte) {
	_, rest := pem.Decode(data)
	return data[:len(data)-len(rest)], rest
}

// replace keeps a renewed SVID. Key and certificate are two files, and a crash between them must not leave a pair that does
// not fit: so both are written into a third one first, which counts while it is there.
func (s svid) replace(d *stateDir) error {
	keyPEM, err := encodeKey(s.key())
	if err != nil {
		return err
	}
	// The roots first: those that come with a renewal also vouch for the SVID before it, for as long as that holds.
	if err := d.write(bundleFile, s.bundle.PEM()); err != nil {
		return err
	}
	if err := d.write(nextFile, append(keyPEM, encodePEM(s.cert.Certificate)...)); err != nil {
		return err
	}
	return s.settle(d)
}

func (s svid) settle(d *stateDir) error {
	keyPEM, err := encodeKey(s.key())
	if err != nil {
		return err
	}
	if err := errors.Join(d.write(keyFile, keyPEM), d.write(svidFile, encodePEM(s.cert.Certificate))); err != nil {
		return err
	}
	return d.remove(nextFile)
}

func (s svid) key() *ecdsa.PrivateKey {
	key, _ := s.cert.PrivateKey.(*ecdsa.PrivateKey) // newSVID puts no other in
	return key
}

// stored is identity.json's content.
func (s svid) stored() storedIdentity {
	stored := storedIdentity{Workload: s.id.String(), PlatformTrustDomain: s.mapping.Platform().String()}
	for _, r := range s.mapping.Rules() {
		stored.Mapping = append(stored.Mapping, storedRule(r))
	}
	return stored
}

// saveIdentity keeps what the control plane said beside the SVID.
func (s svid) saveIdentity(d *stateDir) error {
	stored := s.stored()
	stored.Sum = stored.sum()
	text, err := json.MarshalIndent(stored, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", identityFile, err)
	}
	return d.write(identityFile, append(text, '\n'))
}

// save keeps a new SVID; the key is there already.
func (s svid) save(d *stateDir) error {
	// svid.pem last: a crash in between leaves "not joined".
	if err := errors.Join(d.write(bundleFile, s.bundle.PEM()), s.saveIdentity(d)); err != nil {
		return err
	}
	return d.write(svidFile, encodePEM(s.cert.Certificate))
}

// loadKey gives the workload's private key, which is made here and never leaves the host.
func loadKey(d *stateDir, kind identity.KeyKind) (*ecdsa.PrivateKey, error) {
	data, err := d.read(keyFile)
	if err != nil {
		return nil, err
	}
	if data != nil {
		return decodeKey(data)
	}
	key, err := newKey(kind)
	if err != nil {
		return nil, err
	}
	text, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, d.write(keyFile, text)
}

func newKey(kind identity.KeyKind) (*ecdsa.PrivateKey, error) {
	curve := elliptic.P256()
	if kind == identity.ECDSAP384 {
		curve = elliptic.P384()
	}
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
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
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

func decodeKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != keyBlock {
		return nil, fmt.Errorf("%s: %w: no %s block", keyFile, errKey, keyBlock)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", keyFile, errKey, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: %w: it is of another kind", keyFile, errKey)
	}
	return key, nil
}

func encodePEM(ders [][]byte) []byte {
	var out bytes.Buffer
	for _, der := range ders {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der}))
	}
	return out.Bytes()
}

func decodePEM(data []byte) ([][]byte, error) {
	var ders [][]byte
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return ders, nil
		}
		if block.Type != certificateBlock {
			return nil, fmt.Errorf("a %q block where only certificates belong", block.Type)
		}
		ders = append(ders, block.Bytes)
	}
}
