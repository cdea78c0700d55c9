package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/pflag"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

// sealingEnv holds the sealing key where no file does.
const sealingEnv = "RINGFENCE_SEALING_KEY"

// rootKeys are the flags that say what is issued, and where root keys are.
type rootKeys struct{ kind, kms, sealing string }

func addIssuer(f *pflag.FlagSet, o *issuer.Options) *rootKeys {
	var k rootKeys
	f.DurationVar(&o.TTL, "svid-ttl", issuer.DefaultTTL, "life of the SVIDs that are issued; agents renew them at half of it")
	f.IntVar(&o.MaxOutstanding, "svids-per-tenant", issuer.DefaultMaxOutstanding, "how many SVIDs of one tenant may live at a time")
	f.StringVar(&k.kind, "root-key", identity.ECDSAP256.String(), "kind of key that new roots get: ecdsa-p256, ecdsa-p384 or ed25519")
	f.StringVar(&k.sealing, "key-sealing-file", "", "file with the key that root keys are encrypted with (default $"+sealingEnv+", else unencrypted)")
	f.StringVar(&k.kms, "root-kms", "", "PKCS #11 token for root keys, pkcs11:module-path=…;token=…?pin-source=FILE (default: files in STATE)")
	return &k
}

// open checks what was said and opens the token, which the issuer closes.
func (k *rootKeys) open(ctx context.Context, p process, o *issuer.Options) (err error) {
	if o.TTL < issuer.MinTTL || o.TTL > issuer.MaxTTL {
		return usage("--svid-ttl is between %s and %s", issuer.MinTTL, issuer.MaxTTL)
	}
	if o.MaxOutstanding < 1 {
		return usage("--svids-per-tenant is at least 1")
	}
	if o.RootKey, err = identity.ParseKeyKind(k.kind); err != nil {
		return usage("--root-key: %w", err)
	}
	if o.Seal, err = k.sealingKey(p); err != nil {
		return err
	}
	if k.kms == "" {
		return nil
	}
	if !o.Seal.IsZero() {
		return usage("--root-kms and a sealing key exclude each other: sealing is for keys in files")
	}
	if o.Keys, err = issuer.PKCS11(ctx, k.kms); err != nil {
		return usage("--root-kms: %w", err)
	}
	return nil
}

// sealingKey is the one in the file, else the one in the environment, else none.
func (k *rootKeys) sealingKey(p process) (issuer.SealingKey, error) {
	text, given := p.lookupEnv(sealingEnv)
	from := sealingEnv
	if k.sealing != "" {
		data, err := os.ReadFile(k.sealing)
		if err != nil {
			return issuer.SealingKey{}, usage("--key-sealing-file: %w", err)
		}
		text, given, from = string(data), true, "--key-sealing-file"
	}
	if !given || (text == "" && k.sealing == "") {
		return issuer.SealingKey{}, nil
	}
	key, err := issuer.ParseSealingKey([]byte(text))
	if errors.Is(err, issuer.ErrSealingKey) {
		return issuer.SealingKey{}, usage("%s: %w", from, err)
	}
	return key, err
}
