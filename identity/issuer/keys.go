package issuer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"go.step.sm/crypto/kms/apiv1"
	"go.step.sm/crypto/kms/pkcs11"
	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/durable"
)

// ErrKeys says that root keys cannot be had where they are said to be.
var ErrKeys = errors.New("root keys")

// errElsewhere says that they are somewhere else.
var errElsewhere = fmt.Errorf("%w are elsewhere", ErrKeys)

// Keys says where root keys are made and used. The zero value is the state directory.
type Keys struct {
	manager apiv1.KeyManager
	scheme  string
	// name is what a new key of that kind will be called, for that trust domain.
	name func(td identity.TrustDomain, kind string) (string, error)
}

// Kinds of keys, as they stand in the names of their files.
const (
	rootKind = "key"
	jwtKind  = "jwt." // and the name of the tenant, which may share its trust domain with others
)

// IsZero reports whether they are in the state directory.
func (k Keys) IsZero() bool { return k.manager == nil }

// Close lets go of them.
func (k Keys) Close() error {
	if k.IsZero() {
		return nil
	}
	return k.manager.Close()
}

// PKCS11 opens a PKCS #11 token: pkcs11:module-path=/usr/lib/…/libsofthsm2.so;token=NAME?pin-source=/path/to/pin (RFC 7512).
// Keys are made in it and never leave it. It fails in a binary that was built without cgo.
func PKCS11(ctx context.Context, uri string) (Keys, error) {
	if !strings.HasPrefix(uri, "pkcs11:") {
		return Keys{}, fmt.Errorf("%w: %q is no pkcs11: URI", ErrKeys, uri)
	}
	if strings.Contains(uri, "pin-value") {
		return Keys{}, fmt.Errorf("%w: everybody on the machine can read a pin-value; write the PIN into a file and name it as pin-source", ErrKeys)
	}
	manager, err := pkcs11.New(ctx, apiv1.Options{URI: uri})
	if err != nil {
		return Keys{}, fmt.Errorf("%w: %w", ErrKeys, err)
	}
	return Keys{manager: manager, scheme: "pkcs11:", name: func(td identity.TrustDomain, kind string) (string, error) {
		const size = 16 // random, so that a key which a crash left without a root is in nobody's way
		id := make([]byte, size)
		if _, err := rand.Read(id); err != nil {
			return "", fmt.Errorf("%w: %w", ErrKeys, err)
		}
		object := "ringfence-"
		if kind != rootKind {
			object += kind + "-"
		}
		return "pkcs11:id=" + hex.EncodeToString(id) + ";object=" + url.PathEscape(object+td.String()), nil
	}}, nil
}

const fileScheme = "file:"

// files are keys in files below a directory, sealed where there is a sealing key.
type files struct {
	dir  string
	seal SealingKey
	log  *zap.Logger
}

var _ apiv1.KeyManager = files{}

func fileKeys(f files) Keys {
	return Keys{manager: f, scheme: fileScheme, name: func(td identity.TrustDomain, kind string) (string, error) {
		const size = 4
		id := make([]byte, size)
		if _, err := rand.Read(id); err != nil {
			return "", fmt.Errorf("%w: %w", ErrKeys, err)
		}
		return fileScheme + td.String() + "/" + kind + "-" + hex.EncodeToString(id) + ".pem", nil
	}}
}

func (f files) path(name string) (relative, path string, err error) {
	relative, ok := strings.CutPrefix(name, fileScheme)
	if !ok || !filepath.IsLocal(relative) {
		return "", "", fmt.Errorf("%w: %q is no file of the state directory", ErrKeys, name)
	}
	return relative, filepath.Join(f.dir, relative), nil
}

// GetPublicKey implements apiv1.KeyManager.
func (f files) GetPublicKey(req *apiv1.GetPublicKeyRequest) (crypto.PublicKey, error) {
	s, err := f.CreateSigner(&apiv1.CreateSignerRequest{SigningKey: req.Name})
	if err != nil {
		return nil, err
	}
	return s.Public(), nil
}

// CreateKey implements apiv1.KeyManager. The key is durable when it returns.
func (f files) CreateKey(req *apiv1.CreateKeyRequest) (*apiv1.CreateKeyResponse, error) {
	key, err := generate(req.SignatureAlgorithm)
	if err != nil {
		return nil, err
	}
	if err := f.put(req.Name, key); err != nil {
		return nil, err
	}
	return &apiv1.CreateKeyResponse{
		Name: req.Name, PublicKey: key.Public(), CreateSignerRequest: apiv1.CreateSignerRequest{SigningKey: req.Name},
	}, nil
}

func (f files) put(name string, key crypto.Signer) error {
	relative, path, err := f.path(name)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKeys, err)
	}
	if err := durable.PrivateDir(filepath.Dir(path)); err != nil {
		return err
	}
	return durable.Replace(path, f.seal.encode(relative, der), fileMode)
}

// CreateSigner implements apiv1.KeyManager. A key that lies unsealed although there is a sealing key is sealed by this.
func (f files) CreateSigner(req *apiv1.CreateSignerRequest) (crypto.Signer, error) {
	relative, path, err := f.path(req.SigningKey)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeys, err)
	}
	der, sealed, err := f.seal.decode(relative, text)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(relative, der)
	if err != nil {
		return nil, err
	}
	if !sealed && !f.seal.IsZero() {
		if err := f.put(req.SigningKey, key); err != nil {
			return nil, err
		}
		f.log.Info("a root key that lay unsealed is sealed now", zap.String("key", relative))
	}
	return key, nil
}

// Close implements apiv1.KeyManager.
func (files) Close() error { return nil }

// loose are keys that end with the process.
type loose struct {
	mu   sync.Mutex
	keys map[string]crypto.Signer
}

var _ apiv1.KeyManager = (*loose)(nil)

func looseKeys() Keys {
	var made atomic.Int64
	name := func(td identity.TrustDomain, kind string) (string, error) {
		return fmt.Sprintf("memory:%s-%s-%d", kind, td, made.Add(1)), nil
	}
	return Keys{manager: &loose{keys: map[string]crypto.Signer{}}, scheme: "memory:", name: name}
}

// GetPublicKey implements apiv1.KeyManager.
func (l *loose) GetPublicKey(req *apiv1.GetPublicKeyRequest) (crypto.PublicKey, error) {
	s, err := l.CreateSigner(&apiv1.CreateSignerRequest{SigningKey: req.Name})
	if err != nil {
		return nil, err
	}
	return s.Public(), nil
}

// CreateKey implements apiv1.KeyManager.
func (l *loose) CreateKey(req *apiv1.CreateKeyRequest) (*apiv1.CreateKeyResponse, error) {
	key, err := generate(req.SignatureAlgorithm)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys[req.Name] = key
	return &apiv1.CreateKeyResponse{
		Name: req.Name, PublicKey: key.Public(), CreateSignerRequest: apiv1.CreateSignerRequest{SigningKey: req.Name},
	}, nil
}

// CreateSigner implements apiv1.KeyManager.
func (l *loose) CreateSigner(req *apiv1.CreateSignerRequest) (crypto.Signer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key, ok := l.keys[req.SigningKey]
	if !ok {
		return nil, fmt.Errorf("%w: no key %q", ErrKeys, req.SigningKey)
	}
	return key, nil
}

// Close implements apiv1.KeyManager.
func (*loose) Close() error { return nil }

func generate(a apiv1.SignatureAlgorithm) (key crypto.Signer, err error) {
	switch a {
	case apiv1.ECDSAWithSHA256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case apiv1.ECDSAWithSHA384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case apiv1.PureEd25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = fmt.Errorf("%w: %v", identity.ErrKeyKind, a)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeys, err)
	}
	return key, nil
}

func parseKey(name string, der []byte) (crypto.Signer, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKeys, name, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: %s: a key that cannot sign", ErrKeys, name)
	}
	return key, nil
}
