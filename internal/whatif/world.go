package whatif

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// Call is one question.
type Call struct {
	// From is the caller's SPIFFE ID, To the destination as TENANT/SERVICE.
	From, To string
	// Asker is the name of the Mesh's asker through which the call comes; empty: it comes to the service's own proxy. Where the
	// token alone names the callers of that asker, From is empty.
	Asker string
	// Method and Path are the request's; GET and / where they are empty, and none of a TCP connection.
	Method, Path string
	// Token holds the claims of the bearer token; nil: there is none. Of aud, iat and exp what is absent is filled in, so
	// that the token holds.
	Token map[string]any
}

// World is a configuration that can be asked, by one goroutine at a time.
type World struct {
	at        time.Time
	mesh      *pipeline.Generation
	roots     *issuer.Issuer
	signer    jose.Signer
	audiences map[string]string // by iss
	rules     []Rule
	svids     map[string]string // audiences of JWT-SVIDs by tenant
	grants    map[string]string // file:line:col by name
	chains    map[identity.WorkloadID][][]byte
}

// Open builds what a source holds, as of a time. The World is nil where the Report is not clean.
func Open(ctx context.Context, s pipeline.Source, at time.Time) (*World, pipeline.Report, error) {
	w := &World{
		at: at, audiences: map[string]string{}, svids: map[string]string{}, grants: map[string]string{},
		chains: map[identity.WorkloadID][][]byte{},
	}
	var err error
	if w.roots, err = issuer.OpenMemory(issuer.Options{Unlimited: true}); err != nil {
		return nil, pipeline.Report{}, fmt.Errorf("throw-away roots: %w", err)
	}
	over := &overlay{Source: s, world: w}
	if over.keys, err = newThrowAway(); err != nil {
		return nil, pipeline.Report{}, fmt.Errorf("throw-away key: %w", err)
	}
	w.signer = over.keys.signer
	bundles := func(domains ...identity.TrustDomain) (identity.Bundles, error) {
		return w.roots.Bundles(at.Add(-issueAhead), domains...)
	}
	mesh, report, err := pipeline.Try(ctx, over, bundles, over)
	if err != nil || mesh == nil {
		return nil, report, err
	}
	w.mesh = mesh
	return w, report, nil
}

// throwAway is a key that signs what is asked about, and the key sets by which that verifies.
type throwAway struct {
	signer      jose.Signer
	users, svid []byte // for documents' files, by the format of the tokens
	published   identity.KeySet
}

func newThrowAway() (k throwAway, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return throwAway{}, err
	}
	const kid = "what-if"
	set := func(uses ...string) (jwks []byte) {
		var keys []jose.JSONWebKey
		for _, use := range uses {
			keys = append(keys, jose.JSONWebKey{Key: key.Public(), KeyID: kid, Algorithm: string(jose.ES256), Use: use})
		}
		text, failed := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		err = errors.Join(err, failed)
		return text
	}
	k.users, k.svid = set("sig"), set("jwt-svid")
	both := set("sig", "jwt-svid")
	if err != nil {
		return throwAway{}, err
	}
	if k.published, err = identity.ParseKeySet(both); err != nil {
		return throwAway{}, err
	}
	k.signer, err = jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}},
		(&jose.SignerOptions{}).WithType("JWT"),
	)
	return k, err
}

// overlay is the source with the throw-away key in place of every token issuer's.
type overlay struct {
	pipeline.Source
	world *World
	keys  throwAway
}

var _ pipeline.KeySets = (*overlay)(nil)

// Load implements pipeline.Source.
func (o *overlay) Load(ctx context.Context) ([]v1alpha1.File, []v1alpha1.Problem, string, error) {
	files, problems, revision, err := o.Source.Load(ctx)
	if err != nil {
		return nil, nil, "", err
	}
	keySets := map[string][]byte{}
	for _, f := range files {
		if path.Ext(f.Path) == ".json" {
			continue
		}
		docs, _ := v1alpha1.Decode(f) // its problems are told by who reads the files next
		for _, d := range docs {
			switch d := d.(type) {
			case *v1alpha1.TokenIssuer:
				file := path.Join(path.Dir(d.Pos.File()), d.Spec.JWKS.File.Value)
				if keySets[file] = o.keys.users; d.Spec.Format.Value == v1alpha1.FormatSVID {
					keySets[file] = o.keys.svid
				}
				o.world.audience(d)
			case *v1alpha1.Grant:
				o.world.grants[d.Name().Value] = d.Pos.String()
				o.world.rules = append(o.world.rules, Rule{Owner: d.Owner(), Name: d.Name().Value, Grant: true, Position: d.Pos.String()})
			case *v1alpha1.AccessPolicy:
				for _, r := range d.Spec.Rules {
					name := d.Name().Value + "/" + r.Name.Value
					o.world.rules = append(o.world.rules, Rule{Owner: d.Owner(), Name: name, Position: r.Pos.String()})
				}
			}
		}
	}
	for i, f := range files {
		if set, ok := keySets[f.Path]; ok {
			files[i].Data = set
		}
	}
	return files, problems, revision, nil
}

// Follow implements pipeline.KeySets.
func (o *overlay) Follow(map[string]string) {}

// KeySet implements pipeline.KeySets.
func (o *overlay) KeySet(string) (identity.KeySet, bool) { return o.keys.published, true }

// Changed implements pipeline.KeySets.
func (o *overlay) Changed() <-chan struct{} { return nil }

// audience notes what a token of the issuer is for where it does not say it.
func (w *World) audience(d *v1alpha1.TokenIssuer) {
	if len(d.Spec.Audiences) == 0 {
		return
	}
	if d.Spec.Format.Value != v1alpha1.FormatSVID {
		w.audiences[d.Spec.Issuer.Value] = d.Spec.Audiences[0].Value
		return
	}
	for _, t := range d.Spec.Tenants {
		w.svids[t.Value] = d.Spec.Audiences[0].Value
	}
}

// ErrNoTenant says that a question is about a tenant that there is not.
var ErrNoTenant = errors.New("no such tenant")

// ErrAsker says that a question names an asker through which no such call comes.
var ErrAsker = errors.New("no such call comes through the asker")

// Explain answers a question.
func (w *World) Explain(c Call) (authz.Explanation, error) {
	owner, name, ok := strings.Cut(c.To, "/")
	if !ok {
		return authz.Explanation{}, fmt.Errorf("%q is not TENANT/SERVICE", c.To)
	}
	id, err := w.mesh.Mapping().TenantID(owner)
	if err != nil {
		return authz.Explanation{}, fmt.Errorf("%w: %w", ErrNoTenant, err)
	}
	table := w.mesh.Table(id)
	if table == nil {
		return authz.Explanation{}, fmt.Errorf("%w: %s", ErrNoTenant, owner)
	}
	in := authz.Input{Method: c.Method, Path: c.Path, Now: w.at}
	in.Service, _ = table.Service(owner, name)
	if !in.Service.TCP() {
		in.Method, in.Path = cmp.Or(c.Method, "GET"), cmp.Or(c.Path, "/")
	}
	if c.Asker == "" {
		in.Caller, err = w.caller(table, c.From)
	} else {
		in.Caller, in.Service, err = w.through(table, c, in.Service)
	}
	if err != nil {
		return authz.Explanation{}, err
	}
	if c.Token != nil {
		text, err := w.sign(c.Token)
		if err != nil {
			return authz.Explanation{}, err
		}
		in.Token = table.Token(text, w.at)
	}
	e := authz.Explain(table, in)
	for i, r := range e.Rules {
		if r.Grant {
			e.Rules[i].Position = w.grants[r.Name]
		}
	}
	return e, nil
}

// through is who calls, as the named asker may say it, and the service, as far as it may ask about that.
func (w *World) through(table *authz.Table, c Call, s authz.ServiceRef) (caller authz.Caller, _ authz.ServiceRef, err error) {
	askers := table.Askers()
	at := slices.IndexFunc(askers, func(a authz.AskerRef) bool { return a.Name() == c.Asker })
	if at < 0 {
		return caller, s, fmt.Errorf("%w %s: the Mesh lets it ask about no service of %s", ErrAsker, c.Asker, table.Tenant())
	}
	asker := askers[at]
	if !asker.MayAsk(s) {
		s = authz.ServiceRef{}
	}
	switch from := asker.IdentityFrom(); {
	case from == tenancy.FromToken && c.From != "":
		err = fmt.Errorf("%w %s: the token alone names its callers, so none has an ID", ErrAsker, c.Asker)
	case from == tenancy.FromToken:
		caller = asker.Bearer()
	case c.From == "":
		err = fmt.Errorf("%w %s: its callers have an ID", ErrAsker, c.Asker)
	case from == tenancy.FromCertificate:
		caller, err = w.caller(table, c.From)
	default:
		caller = asker.Caller(c.From)
	}
	return caller, s, err
}

// caller proves the ID to the table with a certificate made for it.
func (w *World) caller(table *authz.Table, uri string) (authz.Caller, error) {
	id, err := w.mesh.Mapping().Parse(uri)
	switch {
	case errors.Is(err, identity.ErrUnmapped):
		return authz.Caller{}, nil
	case err != nil:
		return authz.InvalidCaller(), nil //nolint:nilerr // the ID is what is asked about
	}
	chain, made := w.chains[id]
	if !made {
		if chain, err = w.issue(id, w.at.Add(-issueAhead+time.Duration(len(w.chains))*issuePace)); err != nil {
			return authz.Caller{}, fmt.Errorf("%s: %w", id, err)
		}
		w.chains[id] = chain
	}
	return table.Caller(chain[0], chain[1:], w.at), nil
}

// An issuer gives so many SVIDs in a second and no more, and all questions are of one moment. So each caller gets its own
// a little later than the one before, beginning when the roots are made: so long ago that an SVID outlives it.
const (
	issueAhead = issuer.DefaultTTL / 2
	issuePace  = 10 * time.Millisecond
)

// issue makes an SVID's chain at a time, leaf first.
func (w *World) issue(id identity.WorkloadID, at time.Time) ([][]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	name, err := url.Parse(id.String())
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{name}}, key)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	// The root of a trust domain that no document names is made as well: such a caller exists, and is refused.
	if _, err := w.roots.Bundles(w.at.Add(-issueAhead), id.Tenant().TrustDomain()); err != nil {
		return nil, fmt.Errorf("throw-away root: %w", err)
	}
	token, _, err := w.roots.CreateToken(id, time.Hour, at)
	if errors.Is(err, issuer.ErrNoWorkload) { // one of Ringfence's own processes, which nobody joins as
		own, err := w.roots.ControlPlane(id, at)
		return own.Certificate, err
	}
	if err != nil {
		return nil, err
	}
	svid, err := w.roots.Issue(csr, token, func(string) (identity.WorkloadID, bool) { return id, true }, at)
	if err != nil {
		return nil, err
	}
	return svid.Chain, nil
}

// tokenLife is what a token gets that does not say when it ends; every issuer of a mesh allows at least as much as a second.
const tokenLife = time.Second

func (w *World) sign(claims map[string]any) (string, error) {
	whole := map[string]any{"iat": w.at.Unix(), "exp": w.at.Add(tokenLife).Unix()}
	if exp, ok := claims["exp"].(float64); ok && int64(exp) <= w.at.Unix() { // an old token was issued before it ended
		whole["iat"] = int64(exp) - int64(tokenLife/time.Second)
	}
	iss, _ := claims["iss"].(string)
	sub, _ := claims["sub"].(string)
	if aud, known := w.audiences[iss]; known {
		whole["aud"] = aud
	} else if workload, err := w.mesh.Mapping().Parse(sub); err == nil {
		whole["aud"] = w.svids[workload.Tenant().Name()] // empty, and so invalid, where nobody signs such
	}
	maps.Copy(whole, claims)
	payload, err := json.Marshal(whole)
	if err != nil {
		return "", fmt.Errorf("claims: %w", err)
	}
	signed, err := w.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("claims: %w", err)
	}
	return signed.CompactSerialize()
}
