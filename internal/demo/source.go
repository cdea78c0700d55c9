package demo

import (
	"context"
	"path"
	"strings"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/pipeline"
)

// overlay is a configuration directory as this machine can run it: every port is one that is free here, and every token
// issuer's key set is the one whose private half the demo holds. The user's own files are read live and never written.
type overlay struct {
	pipeline.Source
	ports *portMap
	idps  map[string]*idp // by the tenant that the issuer may assert
	jwks  map[string][]byte
}

func newOverlay(ctx context.Context, under pipeline.Source, keepPorts bool) (*overlay, error) {
	o := &overlay{Source: under, ports: newPortMap(keepPorts), idps: map[string]*idp{}, jwks: map[string][]byte{}}
	files, _, _, err := under.Load(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if !isYAML(f) {
			continue
		}
		docs, _ := v1alpha1.Decode(f)
		for _, d := range docs {
			if issuer, ok := d.(*v1alpha1.TokenIssuer); ok {
				if err := o.adopt(issuer); err != nil {
					return nil, err
				}
			}
		}
	}
	return o, nil
}

// adopt puts a key of the demo's own in the place of an issuer's.
func (o *overlay) adopt(issuer *v1alpha1.TokenIssuer) error {
	if len(issuer.Spec.Audiences) == 0 || !issuer.Spec.JWKS.File.IsSet() {
		return nil
	}
	p, err := newIDP(issuer.Spec.Issuer.Value, issuer.Spec.Audiences[0].Value)
	if err != nil {
		return err
	}
	for _, tenant := range issuer.Spec.Tenants {
		o.idps[tenant.Value] = p
	}
	o.jwks[path.Join(path.Dir(issuer.Pos.File()), issuer.Spec.JWKS.File.Value)] = p.jwks
	return nil
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
