package authz

import (
	"errors"
	"fmt"
	"strings"
	"time"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// revokedKey is what a call is looked up by. A tenant's revocation holds for that tenant's identities only, whoever wrote it.
type revokedKey struct {
	tenant identity.TenantID
	by     revokedBy
	issuer string // of tokens; empty: any
	value  string
}

type revokedBy uint8

const (
	byWorkload revokedBy = iota + 1
	bySerial
	byTokenID
	bySubject
	bySession
)

// byOperators stands in names for an owner of documents.
const byOperators = "revoke"

// revocation is the one of its key that holds longest.
type revocation struct {
	name  string
	until int64 // Unix seconds
}

func encodeRevocation(of identity.TenantID, r tenancy.Revocation) *agentv1alpha1.Revocation {
	return &agentv1alpha1.Revocation{
		Name: r.Name, Tenant: of.Name(), Workload: r.Workload.String(), Serial: r.Serial,
		Issuer: r.Issuer, Jti: r.JTI, Subject: r.Subject, Session: r.Session, NotAfter: r.NotAfter.Unix(),
	}
}

// ofToken reports whether the revocation is looked for in tokens alone.
func ofToken(m *agentv1alpha1.Revocation) bool { return m.GetWorkload() == "" && m.GetSerial() == "" }

// addRevocations takes none of a tenant that the Table has nothing to do with.
func (t *Table) addRevocations(list []*agentv1alpha1.Revocation, speaksOf map[identity.TenantID]bool) error {
	if len(list) > 0 {
		t.revoked = make(map[revokedKey]revocation, len(list))
	}
	for _, m := range list {
		key, err := t.revokedKey(m)
		if err != nil {
			return fmt.Errorf("revocation %q: %w", clip(m.GetName()), err)
		}
		if !speaksOf[key.tenant] {
			return fmt.Errorf("revocation %q: it is of tenant %q, of which the table does not speak", clip(m.GetName()), clip(m.GetTenant()))
		}
		if t.revoked[key].until < m.GetNotAfter() { // the one that holds longest
			t.revoked[key] = revocation{name: m.GetName(), until: m.GetNotAfter()}
		}
	}
	return nil
}

func (t *Table) revokedKey(m *agentv1alpha1.Revocation) (k revokedKey, err error) {
	if k.tenant, err = t.mapping.TenantID(m.GetTenant()); err != nil {
		return k, err
	}
	kinds := 0
	for by, value := range map[revokedBy]string{
		byWorkload: m.GetWorkload(), bySerial: m.GetSerial(), byTokenID: m.GetJti(), bySubject: m.GetSubject(), bySession: m.GetSession(),
	} {
		if value != "" {
			k.by, k.value = by, value
			kinds++
		}
	}
	k.issuer = m.GetIssuer()
	owner, _, _ := strings.Cut(m.GetName(), "/")
	switch {
	case !printable(m.GetName()):
		return k, errors.New("it has no readable name")
	case owner != m.GetTenant() && owner != identity.PlatformName && owner != byOperators:
		return k, errors.New("nobody but its tenant and the platform revokes")
	case kinds != 1:
		return k, errors.New("it is about one thing")
	case ofToken(m) && (!identity.ValidClaim(k.value) || k.issuer != "" && !identity.ValidClaim(k.issuer)):
		return k, errors.New("it names no claim of a token")
	case !ofToken(m) && k.issuer != "":
		return k, errors.New("only tokens have an issuer")
	case k.by == bySerial && tenancy.ParseSerial(k.value) != k.value:
		return k, errors.New("it names no serial number")
	case k.by == byWorkload:
		_, err = t.of(k.value, k.tenant)
	}
	return k, err
}

// revokes finds the revocation of that key that holds now.
func (t *Table) revokes(k revokedKey, now int64) (revocation, bool) {
	if k.value == "" {
		return revocation{}, false
	}
	r := t.revoked[k]
	return r, now < r.until
}

// revokedCaller is why the caller is refused, if its workload or its certificate is revoked.
func (t *Table) revokedCaller(in *Input) (revocation, bool) {
	if len(t.revoked) == 0 {
		return revocation{}, false
	}
	id, now := in.Caller.ID(), in.Now.Unix()
	if r, revoked := t.revokes(revokedKey{tenant: id.Tenant(), by: byWorkload, value: id.String()}, now); revoked {
		return r, true
	}
	return t.revokes(revokedKey{tenant: id.Tenant(), by: bySerial, value: in.Caller.peer.Serial()}, now)
}

// revokedToken is why a verified token is refused, if it, its subject or its session is revoked. The subject of a JWT-SVID
// is a workload.
func (t *Table) revokedToken(c identity.Claims, at time.Time) (revocation, bool) {
	if len(t.revoked) == 0 {
		return revocation{}, false
	}
	now := at.Unix()
	issuer := c.Issuer()
	for range 2 {
		k := revokedKey{tenant: c.Tenant(), issuer: issuer}
		for k.by = byTokenID; k.by <= bySession; k.by++ {
			switch k.by {
			case byTokenID:
				k.value = c.TokenID()
			case bySubject:
				k.value = c.Subject()
			default:
				k.value = c.Session()
			}
			if r, revoked := t.revokes(k, now); revoked {
				return r, true
			}
		}
		issuer = "" // any
	}
	return t.revokes(revokedKey{tenant: c.Tenant(), by: byWorkload, value: c.Subject()}, now)
}

// RevokesToken reports whether a revocation holds now of a token that was verified elsewhere: of it, its subject or its session.
// Nil revokes nothing.
func (t *Table) RevokesToken(c identity.Claims, now time.Time) bool {
	if t == nil {
		return false
	}
	_, revoked := t.revokedToken(c, now)
	return revoked
}

// revokedText says in words who is refused, and by what.
func revokedText(t *Table, d Decision, in *Input) string {
	r, _ := t.revokedCaller(in)
	of := "the caller"
	if d.token {
		r, _ = t.revokedToken(in.Token.claims, in.Now)
		of = "the token, its subject or its session"
	}
	return fmt.Sprintf("%s is revoked by %s until %s", of, r.name, rfc3339(r.until))
}
