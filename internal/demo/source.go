package demo

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/pipeline"
)

// overlay is a configuration directory as this machine can run it: every port is one that is free here, and every token
// issuer's key set is the one whose private half the demo holds. The user's own files are read live and never written.
type overlay struct {
	pipeline.Source
	idPs

	ports *portMap
}

func newOverlay(ctx context.Context, under pipeline.Source, keepPorts bool) (*overlay, error) {
	// The keys live as long as this process.
	idps, err := newIDPs(ctx, under, func(string) (*ecdsa.PrivateKey, error) { return newIDPKey() })
	if err != nil {
		return nil, err
	}
	return &overlay{Source: under, ports: newPortMap(keepPorts), idPs: idps}, nil
}

// idPs are the identity providers that a configuration names.
type idPs struct {
	byTenant map[string]*idp   // by the tenant that the issuer may assert
	jwks     map[string][]byte // their key sets, by the path of the file that the configuration reads them from
}

// newIDPs plays every TokenIssuer that takes its keys from a file, with the key that is given for that file.
func newIDPs(ctx context.Context, under pipeline.Source, key func(file string) (*ecdsa.PrivateKey, error)) (idPs, error) {
	all := idPs{byTenant: map[string]*idp{}, jwks: map[string][]byte{}}
	files, _, _, err := under.Load(ctx)
	if err != nil {
		return all, err
	}
	for _, f := range files {
		if !isYAML(f) {
			continue
		}
		docs, _ := v1alpha1.Decode(f)
		for _, d := range docs {
			if issuer, ok := d.(*v1alpha1.TokenIssuer); ok {
				if err := all.adopt(issuer, key); err != nil {
					return all, err
				}
			}
		}
	}
	return all, nil
}

func (i idPs) adopt(issuer *v1alpha1.TokenIssuer, key func(string) (*ecdsa.PrivateKey, error)) error {
	if len(issuer.Spec.Audiences) == 0 || !issuer.Spec.JWKS.File.IsSet() {
		return nil
	}
	file := path.Join(path.Dir(issuer.Pos.File()), issuer.Spec.JWKS.File.Value)
	k, err := key(file)
	if err != nil {
		return err
	}
	p, err := newIDP(issuer.Spec.Issuer.Value, issuer.Spec.Audiences[0].Value, k)
	if err != nil {
		return err
	}
	for _, tenant := range issuer.Spec.Tenants {
		i.byTenant[tenant.Value] = p
	}
	i.jwks[file] = p.jwks
	return nil
}

func (i idPs) mint(t Token) (string, error) {
	p, ok := i.byTenant[t.Issuer]
	if !ok {
		return "", fmt.Errorf("no token issuer speaks of tenant %q", t.Issuer)
	}
	return p.sign(t, time.Now())
}

// Load implements pipeline.Source. The revision is the underlying one: what is replaced stays the same for the life of
// the overlay.
func (o *overlay) Load(ctx context.Context) ([]v1alpha1.File, []v1alpha1.Problem, string, error) {
	files, problems, revision, err := o.Source.Load(ctx)
	if err != nil {
		return nil, nil, "", err
	}
	for i, f := range files {
		if jwks, ok := o.jwks[f.Path]; ok {
			files[i].Data = jwks
			continue
		}
		if !isYAML(f) {
			continue
		}
		if files[i], err = o.ports.rewrite(ctx, f); err != nil {
			return nil, nil, "", err
		}
	}
	return files, problems, revision, nil
}

func isYAML(f v1alpha1.File) bool {
	return strings.HasSuffix(f.Path, ".yaml") || strings.HasSuffix(f.Path, ".yml")
}
