package tenancy

import (
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// What a TokenIssuer means where it does not say it.
const (
	defaultTenantClaim = "tenant"
	defaultRolesClaim  = "roles"
	defaultLifetime    = 15 * time.Minute
	maxLifetime        = 24 * time.Hour
)

// readIssuers drafts the token issuers of every tenant.
func (b *builder) readIssuers() {
	type key struct{ issuer, tenant string }
	first := map[key]v1alpha1.Pos{}
	for _, doc := range ofKind[*v1alpha1.TokenIssuer](b, v1alpha1.PlatformOwner) {
		if broken(doc) {
			continue
		}
		before := len(b.problems)
		config := b.issuerConfig(doc)
		b.unique(doc.Spec.Tenants, "tenant")
		var tenants []*draft
		for _, name := range doc.Spec.Tenants {
			d := b.tenant(name)
			if d == nil {
				continue
			}
			k := key{config.Issuer, name.Value}
			if at, dup := first[k]; dup && at.Compare(doc.Pos) != 0 {
				b.reportAt(doc.Spec.Issuer.Pos, v1alpha1.CodeIssuerClash, "", "the TokenIssuer at %s has the same issuer and speaks of tenant %s too", at, name.Value)
				continue
			}
			first[k] = doc.Pos
			tenants = append(tenants, d)
		}
		if len(b.problems) > before {
			continue
		}
		b.issue(config, doc, tenants)
	}
}

// issue gives each tenant its own issuer that can assert this tenant and no other, so that a tenant's handle tells
// nothing of who else trusts the same issuer.
func (b *builder) issue(config identity.TokenIssuerConfig, doc *v1alpha1.TokenIssuer, tenants []*draft) {
	for _, d := range tenants {
		if d.id.IsZero() {
			continue
		}
		config.Tenants = []identity.TenantID{d.id}
		issuer, err := identity.NewTokenIssuer(config)
		if err != nil {
			b.reportAt(doc.Spec.JWKS.File.Pos, v1alpha1.CodeKeySet, "", "token issuer not accepted: %s", err)
			return
		}
		d.issuers = append(d.issuers, issuer)
	}
}

func (b *builder) issuerConfig(doc *v1alpha1.TokenIssuer) identity.TokenIssuerConfig {
	c := identity.TokenIssuerConfig{
		Name: doc.Metadata.Name.Value, Issuer: doc.Spec.Issuer.Value, Audiences: values(doc.Spec.Audiences),
		TenantClaim: defaultTenantClaim, RolesClaim: defaultRolesClaim, MaxLifetime: defaultLifetime,
	}
	b.issuerURL(doc.Spec.Issuer)
	b.unique(doc.Spec.Audiences, "audience")
	for _, a := range doc.Spec.Audiences {
		if !visible(a.Value) {
			b.reportAt(a.Pos, v1alpha1.CodeClaim, "", "an audience is visible ASCII, not %s", v1alpha1.Quote(a.Value))
		}
	}
	if claims := doc.Spec.Claims; claims != nil {
		b.claim(claims.Tenant, &c.TenantClaim)
		b.claim(claims.Roles, &c.RolesClaim)
		if c.TenantClaim == c.RolesClaim {
			b.reportAt(claims.Pos, v1alpha1.CodeClaim, "", "one claim cannot hold both the tenant and the roles")
		}
	}
	if l := doc.Spec.MaxLifetime; l.IsSet() {
		c.MaxLifetime = l.Value
		if l.Value < time.Second || l.Value > maxLifetime {
			b.reportAt(l.Pos, v1alpha1.CodeClaim, "", "maxLifetime is between 1s and 24h")
		}
	}
	c.JWKS = b.keySet(doc)
	return c
}

func (b *builder) claim(s v1alpha1.String, into *string) {
	if !s.IsSet() {
		return
	}
	if !visible(s.Value) {
		b.reportAt(s.Pos, v1alpha1.CodeClaim, "", "the name of a claim is visible ASCII, not %s", v1alpha1.Quote(s.Value))
	}
	*into = s.Value
}

// visible reports whether s is 1 to 255 characters of ASCII without spaces and controls.
func visible(s string) bool {
	const limit = 255
	return s != "" && len(s) <= limit && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

func (b *builder) issuerURL(s v1alpha1.String) {
	u, err := url.Parse(s.Value)
	// Compared with its own parse, so that a text which two programs could read as two URLs is none.
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.ContainsAny(s.Value, "?#") ||
		u.String() != s.Value || !visible(s.Value) {
		b.reportAt(s.Pos, v1alpha1.CodeIssuerURL, "write it as the iss claim of its tokens says it, for example https://idp.example.com",
			"an issuer is an https URL without user, query and fragment, not %s", v1alpha1.Quote(s.Value))
	}
}

// keySet finds the JWKS file beside the document. Only files below the document's own directory can be named.
func (b *builder) keySet(doc *v1alpha1.TokenIssuer) []byte {
	file := doc.Spec.JWKS.File
	if file.Value == "" || path.IsAbs(file.Value) || path.Clean(file.Value) != file.Value || strings.HasPrefix(file.Value, "..") || strings.Contains(file.Value, `\`) {
		b.reportAt(file.Pos, v1alpha1.CodeUnknownReference, "",
			"a key set is a file beside its document, not %s", v1alpha1.Quote(file.Value))
		return nil
	}
	at := path.Join(path.Dir(file.Pos.File()), file.Value)
	data, ok := b.in.Files[at]
	if !ok {
		b.reportAt(file.Pos, v1alpha1.CodeUnknownReference, v1alpha1.Suggest(at, keys(b.in.Files)),
			"there is no file %s", v1alpha1.Quote(at))
	}
	return data
}
