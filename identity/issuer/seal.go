package issuer

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	sealedBlock = "RINGFENCE SEALED KEY"
	plainBlock  = "PRIVATE KEY"
	sealingSize = 32
)

var (
	// ErrSealed says that a root key on the disk cannot be opened: there is no sealing key, or another one.
	ErrSealed = errors.New("sealed root key")
	// ErrSealingKey says that a text is no sealing key.
	ErrSealingKey = errors.New("bad sealing key")
)

// SealingKey is what root keys on the disk are encrypted with (AES-256-GCM). The zero value is none.
type SealingKey struct{ aead cipher.AEAD }

// ParseSealingKey reads a sealing key: 32 random bytes in base64, as `openssl rand -base64 32` makes them. It takes no
// passphrase: nothing here makes guessing one slow.
func ParseSealingKey(text []byte) (SealingKey, error) {
	raw, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(raw) != sealingSize {
		return SealingKey{}, fmt.Errorf("%w: it is %d random bytes in base64, make one with: openssl rand -base64 %d",
			ErrSealingKey, sealingSize, sealingSize)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return SealingKey{}, fmt.Errorf("%w: %w", ErrSealingKey, err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return SealingKey{}, fmt.Errorf("%w: %w", ErrSealingKey, err)
	}
	return SealingKey{aead}, nil
}

// IsZero reports whether there is none: keys then lie unsealed.
func (k SealingKey) IsZero() bool { return k.aead == nil }

// bound keeps a sealed key from being taken for another root's.
func bound(name string) []byte { return []byte("ringfence root key 1\x00" + name) }

// encode is the text of a key file: sealed where there is a sealing key.
func (k SealingKey) encode(name string, der []byte) []byte {
	if k.IsZero() {
		return pem.EncodeToMemory(&pem.Block{Type: plainBlock, Bytes: der})
	}
	sealed := k.aead.Seal(nil, nil, der, bound(name)) //nolint:gosec // this AEAD makes its nonce itself, and takes none
	return pem.EncodeToMemory(&pem.Block{Type: sealedBlock, Bytes: sealed})
}

// decode reads a key file. sealed says whether it was.
func (k SealingKey) decode(name string, text []byte) (der []byte, sealed bool, err error) {
	block, rest := pem.Decode(text)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 || (block.Type != plainBlock && block.Type != sealedBlock) {
		return nil, false, fmt.Errorf("%s: expected exactly one PEM block, a %s or a %s", name, plainBlock, sealedBlock)
	}
	if block.Type == plainBlock {
		return block.Bytes, false, nil
	}
	if k.IsZero() {
		return nil, true, fmt.Errorf("%w: %s: no sealing key was given", ErrSealed, name)
	}
	der, err = k.aead.Open(nil, nil, block.Bytes, bound(name))
	if err != nil {
		return nil, true, fmt.Errorf("%w: %s: it was sealed with another key, or is damaged", ErrSealed, name)
	}
	return der, true, nil
}
