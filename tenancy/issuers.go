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
				b.reportAt(place(doc.Spec.Issuer, doc.Spec.Pos), v1alpha1.CodeIssuerClash, "", "the TokenIssuer at %s has the same issuer and speaks of tenant %s too", at, name.Value)
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
			b.reportAt(place(doc.Spec.JWKS.File, doc.Spec.JWKS.Pos), v1alpha1.CodeKeySet, "", "token issuer not accepted: %s", err)
			return
		}
		d.issuers = append(d.issuers, issuer)
	}
}

func (b *builder) issuerConfig(doc *v1alpha1.TokenIssuer) identity.TokenIssuerConfig {
	c := identity.TokenIssuerConfig{
		Name: doc.Metadata.Name.Value, Audiences: values(doc.Spec.Audiences), MaxLifetime: defaultLifetime,
	}
	if doc.Spec.Format.Value == v1alpha1.FormatSVID {
		c.Format, c.Mapping = identity.FormatSVID, b.mapping
		b.onlyWorkloads(doc)
	} else {
		b.users(doc, &c)
	}
	b.unique(doc.Spec.Audiences, "audience")
	for _, a := range doc.Spec.Audiences {
		if !visible(a.Value) {
			b.reportAt(a.Pos, v1alpha1.CodeClaim, "", "an audience is visible ASCII, not %s", v1alpha1.Quote(a.Value))
		}
	}
	if l := doc.Spec.MaxLifetime; l.IsSet() {
		c.MaxLifetime = l.Value
		if l.Value < time.Second || l.Value > maxLifetime {
			b.reportAt(l.Pos, v1alpha1.CodeClaim, "", "maxLifetime is between 1s and 24h")
		}
	}
	c.JWKS = b.keySet(doc, c.Format)
	return c
}

// place is where a text stands, or what holds it where it is not written.
func place(s v1alpha1.String, holder v1alpha1.Pos) v1alpha1.Pos {
	if s.IsSet() {
		return s.Pos
	}
	return holder
}

// users reads what an issuer of users' tokens says of these.
func (b *builder) users(doc *v1alpha1.TokenIssuer, c *identity.TokenIssuerConfig) {
	c.Issuer, c.TenantClaim, c.RolesClaim = doc.Spec.Issuer.Value, defaultTenantClaim, defaultRolesClaim
	if doc.Spec.Issuer.IsSet() {
		b.issuerURL(doc.Spec.Issuer)
	} else {
		b.reportAt(doc.Spec.Pos, v1alpha1.CodeIssuerURL, "write the iss claim of its tokens, for example https://idp.example.com", "there is no issuer")
	}
	if claims := doc.Spec.Claims; claims != nil {
		b.claim(claims.Tenant, &c.TenantClaim)
		b.claim(claims.Roles, &c.RolesClaim)
		if c.TenantClaim == c.RolesClaim {
			b.reportAt(claims.Pos, v1alpha1.CodeClaim, "", "one claim cannot hold both the tenant and the roles")
		}
	}
}

// onlyWorkloads refuses what an issuer of JWT-SVIDs cannot say: these name a workload, and so one tenant, by the rules of
// the Mesh alone.
func (b *builder) onlyWorkloads(doc *v1alpha1.TokenIssuer) {
	if s := doc.Spec.Issuer; s.IsSet() {
		b.reportAt(s.Pos, v1alpha1.CodeIssuerURL, "remove it", "a JWT-SVID is known by the SPIFFE ID in sub: iss is not read")
	}
	if claims := doc.Spec.Claims; claims != nil {
		b.reportAt(claims.Pos, v1alpha1.CodeClaim, "remove it", "the SPIFFE ID of a JWT-SVID says the tenant, and there are no roles")
	}
	if len(doc.Spec.Tenants) > 1 {
		b.reportAt(doc.Spec.Tenants[1].Pos, v1alpha1.CodeIssuerClash, "write a TokenIssuer for each tenant",
			"JWT-SVIDs name the workloads of one tenant")
	}
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
	if u, ok := httpsURL(s.Value); !ok || u.RawQuery != "" || u.ForceQuery {
		b.reportAt(s.Pos, v1alpha1.CodeIssuerURL, "write it as the iss claim of its tokens says it, for example https://idp.example.com",
			"an issuer is an https URL without user, query and fragment, not %s", v1alpha1.Quote(s.Value))
	}
}

// httpsURL compares a text with its own parse, so that one which two programs could read as two URLs is none.
func httpsURL(s string) (*url.URL, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Contains(s, "#") ||
		u.String() != s || !visible(s) {
		return nil, false
	}
	return u, true
}

// keySet finds the issuer's keys: in a file beside the document, or among those that were published.
func (b *builder) keySet(doc *v1alpha1.TokenIssuer, format identity.TokenFormat) []byte {
	file, uri := doc.Spec.JWKS.File, doc.Spec.JWKS.URI
	switch {
	case file.IsSet() == uri.IsSet():
		b.reportAt(doc.Spec.JWKS.Pos, v1alpha1.CodeKeySet, "", "jwks says where the keys are: either file or uri")
	case file.IsSet():
		return b.keyFile(file)
	default:
		if _, ok := httpsURL(uri.Value); !ok {
			b.reportAt(uri.Pos, v1alpha1.CodeKeySet, "write the jwks_uri of the issuer, for example https://idp.example.com/jwks.json",
				"a key set is published at an https URL without user and fragment, not %s", v1alpha1.Quote(uri.Value))
		}
		return b.in.KeySets[uri.Value].JWKS(format)
	}
	return nil
}

// keyFile finds the JWKS file beside the document. Only files below the document's own directory can be named.
func (b *builder) keyFile(file v1alpha1.String) []byte {
	if file.Value == "" || path.IsAbs(file.Value) || path.Clean(file.Value) != file.Value || strings.HasPrefix(file.Value, "..") || strings.Contains(file.Value, `\`) {
		b.reportAt(file.Pos, v1alpha1.CodeUnknownReference, "",
			"a key set is a file beside its document, not %s", v1alpha1.Quote(file.Value))
		return nil
	}
	at := path.Join(path.Dir(file.Pos.File()), file.Value)
	data, ok := b.in.Files[at]
	switch {
	case !ok:
		b.reportAt(file.Pos, v1alpha1.CodeUnknownReference, v1alpha1.Suggest(at, keys(b.in.Files)),
			"there is no file %s", v1alpha1.Quote(at))
	case len(data) == 0:
		b.reportAt(file.Pos, v1alpha1.CodeKeySet, "", "the file %s is empty", v1alpha1.Quote(at))
	}
	return data
}

// KeySetURIs says, by the name of its TokenIssuer, where each key set is published that a model of these documents needs.
// What is no URL of a key set is left out.
func KeySetURIs(docs []v1alpha1.Document) map[string]string {
	uris := map[string]string{}
	for _, doc := range docs {
		i, ok := doc.(*v1alpha1.TokenIssuer)
		if !ok || i.Owner() != v1alpha1.PlatformOwner || broken(i) {
			continue
		}
		if _, ok := httpsURL(i.Spec.JWKS.URI.Value); ok {
			uris[i.Metadata.Name.Value] = i.Spec.JWKS.URI.Value
		}
	}
	return uris
}
