package tenancy

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

const (
	maxRevocations = 1000 // of one owner
	maxReason      = 200  // characters
)

// Revocation refuses calls of one workload, certificate, token, subject or session, until a time. Exactly one of Workload,
// Serial, JTI, Subject and Session is there.
type Revocation struct {
	// Name is "owner/name"; of one that an operator made, "revoke/name".
	Name     string
	Workload identity.WorkloadID
	// Serial is that of a certificate of the tenant's trust domain, in lower-case hex without leading zeros.
	Serial string
	// Issuer is the "iss" of the tokens that are meant; empty: any issuer's.
	Issuer, JTI, Subject, Session string
	// Reason is for people.
	Reason string
	// NotAfter is the moment from which on it no longer holds.
	NotAfter time.Time
	// Over says that this moment had come at Input.Now. It is for what is built once and holds for long; who judges a call
	// looks at NotAfter.
	Over bool
	// Pos is where it stands: file:line:col; empty for one that an operator made.
	Pos string
}

// Revocations are those of the tenant's own identities, by name.
func (t Tenant) Revocations() []Revocation { return slices.Clone(t.get().revocations) }

// Revokes reports whether a revocation of the workload, or of its certificate with that serial number, holds now. The workload is
// one of the tenant's own; the serial is as Revocation has it, empty where no certificate was shown.
func (t Tenant) Revokes(w identity.WorkloadID, serial string, now time.Time) bool {
	return slices.ContainsFunc(t.get().revocations, func(r Revocation) bool {
		return now.Before(r.NotAfter) && (r.Workload.Same(w) || r.Serial != "" && r.Serial == serial)
	})
}

// Revocations are those of the caller's identities, by name; none for the own tenant, whose handle has them.
func (c Caller) Revocations() []Revocation { return slices.Clone(c.get().revocations) }

// Epoch differs wherever other workloads or certificates of the tenant are revoked, or other roots of it were withdrawn as
// compromised, so that what they have open can be ended by it; empty where none is. Who may call is no part of it: a rule that
// changes ends nothing. It does not tell whether a revocation still holds, nor does it change when one ends.
func (c Caller) Epoch() string { return c.get().epoch }

// epoch is the Epoch of callers of whose tenant these are. Tokens are no part of it: there are many, and each would end the open
// streams of everybody.
func epoch(list []Revocation, b identity.Bundle) string {
	revoked := withdrawn(b)
	for _, r := range list {
		switch {
		case r.Serial != "":
			revoked = append(revoked, r.Serial)
		case !r.Workload.IsZero():
			revoked = append(revoked, r.Workload.String())
		}
	}
	return epochOf(revoked)
}

// Servers are the accounts that a caller of the service may meet: its IDs without those that are revoked by their SPIFFE ID.
// None: nobody may be met. A certificate that is revoked by its serial number is not told apart: the caller's Envoy sees names.
func (s Service) Servers() []identity.WorkloadID { return slices.Clone(s.get().servers) }

// Epoch differs wherever other accounts of the service are revoked, or other roots of its owner were withdrawn as compromised,
// so that what its callers have open can be ended by it; empty where none is. As that of a Caller it does not change when a
// revocation ends.
func (s Service) Epoch() string { return s.get().epoch }

// Servers are the accounts of the shared service that a caller may meet; see Service.Servers.
func (i Import) Servers() []identity.WorkloadID { return slices.Clone(i.get().servers) }

// Epoch is that of the shared service.
func (i Import) Epoch() string { return i.get().epoch }

// Epoch differs wherever other accounts are revoked, or what proved them, of those services that the tenant's workloads send
// requests to: its own and the shared ones that are granted to it, without those of TCP, each of which is reached by a way of its
// own.
func (t Tenant) Epoch() string {
	var all []string
	for _, s := range t.get().services {
		if e, p := s.s.epoch, s.s.port.Protocol; e != "" && (p == HTTP || p == GRPC) {
			all = append(all, e)
		}
	}
	for _, i := range t.get().imports {
		if e := i.i.epoch; e != "" && i.i.protocol != TCP {
			all = append(all, e)
		}
	}
	return epochOf(all)
}

// withdrawn are the compromised roots of a bundle as parts of an epoch: neither serial numbers nor SPIFFE IDs.
func withdrawn(b identity.Bundle) []string {
	var roots []string
	for _, r := range b.Withdrawn() {
		roots = append(roots, "root "+hex.EncodeToString(r[:]))
	}
	return roots
}

// meet is whom a caller of a service with these accounts may meet, and the service's epoch; b is what proves the accounts.
func meet(ids []identity.WorkloadID, list []Revocation, b identity.Bundle) (servers []identity.WorkloadID, epoch string) {
	revoked := withdrawn(b)
	for _, id := range ids {
		holds := false
		for _, r := range list {
			if r.Workload.Same(id) {
				revoked = append(revoked, id.String())
				holds = holds || !r.Over
			}
		}
		if !holds {
			servers = append(servers, id)
		}
	}
	return servers, epochOf(revoked)
}

// NextEnd is when the next revocation ends that keeps callers from a workload; zero where none does. Then a new Model lets them
// meet it again.
func (m *Model) NextEnd() time.Time {
	var next time.Time
	for _, t := range m.tenants {
		for _, r := range t.revocations {
			if !r.Workload.IsZero() && !r.Over && (next.IsZero() || r.NotAfter.Before(next)) {
				next = r.NotAfter
			}
		}
	}
	return next
}

func epochOf(revoked []string) string {
	if len(revoked) == 0 {
		return ""
	}
	slices.Sort(revoked)
	d := digester{sha256.New()}
	d.texts(slices.Compact(revoked))
	const short = 8
	return hex.EncodeToString(d.h.Sum(nil)[:short])
}

// CheckRevocation says what keeps an operator's revocation from having an effect in this mesh; none: nothing.
func (m *Model) CheckRevocation(doc *v1alpha1.Revocation) []v1alpha1.Problem {
	i := slices.IndexFunc(m.ids, identity.TenantID.IsPlatform)
	_, _, problems := revocations{mapping: m.mapping, tenants: m.ids, owner: m.ids[i]}.read(doc)
	return problems
}

// Revokes reports whether an operator's revocation is about identities of that tenant.
func (m *Model) Revokes(doc *v1alpha1.Revocation, tenant string) bool {
	i := slices.IndexFunc(m.ids, identity.TenantID.IsPlatform)
	_, of, _ := revocations{mapping: m.mapping, tenants: m.ids, owner: m.ids[i]}.read(doc)
	return slices.ContainsFunc(of, func(id identity.TenantID) bool { return id.Name() == tenant })
}

// readRevocations drafts who is refused.
func (b *builder) readRevocations() {
	r := revocations{mapping: b.mapping}
	for _, name := range keys(b.draft) {
		if id := b.draft[name].id; !id.IsZero() {
			r.tenants = append(r.tenants, id)
		}
	}
	count := map[string]int{}
	for _, doc := range ofKind[*v1alpha1.Revocation](b, "") {
		owner := doc.Head().Owner()
		r.owner = b.draft[owner].id
		if count[owner]++; count[owner] == maxRevocations+1 {
			b.reportAt(doc.Head().Pos, v1alpha1.CodeTooMuch, "remove those whose notAfter is over",
				"these are more than %d revocations", maxRevocations)
		}
		if broken(doc) || r.owner.IsZero() {
			continue
		}
		revoked, of, problems := r.read(doc)
		b.problems = append(b.problems, problems...)
		revoked.Name, revoked.Pos = owner+"/"+doc.Metadata.Name.Value, doc.Head().Pos.String()
		revoked.Over = b.over(revoked)
		b.revoke(revoked, of)
	}
	platform := b.draft[v1alpha1.PlatformOwner]
	for _, doc := range b.in.Revocations {
		if r.owner = platform.id; broken(doc) || r.owner.IsZero() {
			continue
		}
		// What a change of the documents has made pointless since is no problem of theirs.
		revoked, of, _ := r.read(doc)
		revoked.Name = "revoke/" + doc.Metadata.Name.Value
		revoked.Over = b.over(revoked)
		b.revoke(revoked, of)
	}
}

func (b *builder) over(r Revocation) bool { return !b.in.Now.IsZero() && !b.in.Now.Before(r.NotAfter) }

func (b *builder) revoke(r Revocation, of []identity.TenantID) {
	for _, id := range of {
		d := b.draft[id.Name()]
		d.revocations = append(d.revocations, r)
	}
}

// revocations reads the documents of one owner.
type revocations struct {
	mapping identity.Mapping
	tenants []identity.TenantID // all there are
	owner   identity.TenantID
}

// read says which tenants' identities are meant: of a tenant's document only that tenant's; none where there are problems.
func (r revocations) read(doc *v1alpha1.Revocation) (out Revocation, of []identity.TenantID, problems []v1alpha1.Problem) {
	spec := doc.Spec
	out = Revocation{Reason: spec.Reason.Value, NotAfter: spec.NotAfter.Value}
	report := func(at v1alpha1.Pos, code v1alpha1.Code, hint, format string, args ...any) {
		problems = append(problems, at.Problem(code, hint, format, args...))
	}
	kinds := 0
	for _, written := range []bool{spec.Workload.IsSet(), spec.Certificate != nil, spec.Token != nil} {
		if written {
			kinds++
		}
	}
	if len([]rune(spec.Reason.Value)) > maxReason || spec.Reason.Value == "" {
		report(spec.Reason.Pos, v1alpha1.CodeRevocation, "", "a reason is a text of at most %d characters", maxReason)
	}
	if spec.Tenant.IsSet() && (spec.Token == nil || !r.owner.IsPlatform()) {
		report(spec.Tenant.Pos, v1alpha1.CodeRevocation, "remove tenant", "tenant says whose tokens a revocation of the platform is about; here it is clear without it")
	}
	switch {
	case kinds != 1:
		report(spec.Pos, v1alpha1.CodeRevocation, "write one of workload, certificate and token",
			"a revocation is about one thing, not %d", kinds)
	case spec.Workload.IsSet():
		of = r.readWorkload(spec.Workload, &out, report)
	case spec.Certificate != nil:
		of = r.readCertificate(spec.Certificate, &out, report)
	default:
		of = r.readToken(spec.Token, spec.Tenant, &out, report)
	}
	if len(problems) > 0 {
		return Revocation{}, nil, problems
	}
	return out, of, nil
}

type reporter func(at v1alpha1.Pos, code v1alpha1.Code, hint, format string, args ...any)

func (r revocations) readWorkload(id v1alpha1.String, out *Revocation, report reporter) []identity.TenantID {
	w, err := r.mapping.Parse(id.Value)
	switch {
	case err != nil:
		report(id.Pos, v1alpha1.CodeRevocation, "write its whole SPIFFE ID",
			"%s is no workload of this mesh: %v", v1alpha1.Quote(id.Value), err)
		return nil
	case !r.owner.IsPlatform() && !w.Tenant().Same(r.owner):
		report(id.Pos, v1alpha1.CodeNotYours, "", "a revocation can only name identities of its own owner, not %s", v1alpha1.Quote(id.Value))
		return nil
	case !slices.ContainsFunc(r.tenants, w.Tenant().Same):
		report(id.Pos, v1alpha1.CodeUnknownReference, "", "there is no tenant %s", v1alpha1.Quote(w.Tenant().Name()))
		return nil
	}
	out.Workload = w
	return []identity.TenantID{w.Tenant()}
}

func (r revocations) readCertificate(c *v1alpha1.RevokedCertificate, out *Revocation, report reporter) []identity.TenantID {
	out.Serial = ParseSerial(c.Serial.Value)
	if out.Serial == "" {
		report(c.Serial.Pos, v1alpha1.CodeRevocation, "", "a serial is written in hex, at most 20 bytes, with or without colons")
	}
	var of []identity.TenantID
	for _, id := range r.tenants {
		if id.TrustDomain().String() == c.TrustDomain.Value && (r.owner.IsPlatform() || id.Same(r.owner)) {
			of = append(of, id)
		}
	}
	switch {
	case len(of) > 0:
	case r.owner.IsPlatform():
		report(c.TrustDomain.Pos, v1alpha1.CodeUnknownReference, "",
			"there is no tenant with the trust domain %s", v1alpha1.Quote(c.TrustDomain.Value))
	default:
		report(c.TrustDomain.Pos, v1alpha1.CodeNotYours, "", "a revocation can only name identities of its own owner, not of %s", v1alpha1.Quote(c.TrustDomain.Value))
	}
	return of
}

func (r revocations) readToken(t *v1alpha1.RevokedToken, tenant v1alpha1.String, out *Revocation, report reporter) []identity.TenantID {
	out.Issuer, out.JTI, out.Subject, out.Session = t.Issuer.Value, t.JTI.Value, t.Subject.Value, t.Session.Value
	kinds := 0
	for _, text := range []v1alpha1.String{t.JTI, t.Subject, t.Session} {
		if text.IsSet() {
			kinds++
		}
	}
	if kinds != 1 {
		report(t.Pos, v1alpha1.CodeRevocation, "write one of jti, subject and session",
			"a revocation is about one claim of tokens, not %d", kinds)
	}
	for _, text := range []v1alpha1.String{t.Issuer, t.JTI, t.Subject, t.Session} {
		if text.IsSet() && !identity.ValidClaim(text.Value) {
			report(text.Pos, v1alpha1.CodeRevocation, "", "%s is no such claim: those are short texts of visible ASCII", v1alpha1.Quote(text.Value))
		}
	}
	switch {
	case !r.owner.IsPlatform():
		return []identity.TenantID{r.owner}
	case !tenant.IsSet():
		return r.tenants
	}
	for _, id := range r.tenants {
		if id.Name() == tenant.Value {
			return []identity.TenantID{id}
		}
	}
	report(tenant.Pos, v1alpha1.CodeUnknownReference, "", "there is no tenant %s", v1alpha1.Quote(tenant.Value))
	return nil
}

// ParseSerial reads a certificate's serial number as tools print it (hex, perhaps with colons) and writes it in lower-case
// hex without leading zeros; empty where it is none. RFC 5280 section 4.1.2.2 allows 20 bytes, and not zero.
func ParseSerial(text string) string {
	const limit = 40
	serial := strings.TrimLeft(strings.ToLower(strings.ReplaceAll(text, ":", "")), "0")
	if len(serial) > limit || strings.Trim(serial, "0123456789abcdef") != "" {
		return ""
	}
	return serial
}
