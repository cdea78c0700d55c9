package issuer

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"time"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// Renew gives the next SVID of the workload whose certificate the caller has proved to hold the key of, for the key of the
// certificate request, which may be a new one. The certificate must be one that this Issuer gave to that workload and that
// has not expired: one that was signed with a stolen root is not in the ledger. mapping reads SPIFFE IDs as of now.
//
// The errors are ErrNotRenewable, ErrBadRequest, ErrLimited, or what the disk says.
func (i *Issuer) Renew(csrDER, leafDER []byte, mapping identity.Mapping, named Named, now time.Time) (SVID, error) {
	h, err := i.holder(leafDER, mapping, named, i.allow, now)
	if err != nil {
		return SVID{}, err
	}
	id, e := h.id, h.entry
	public, err := judgeRequest(csrDER, e.workload)
	if errors.Is(err, errOtherName) {
		return SVID{}, ErrNotRenewable
	}
	if err != nil {
		return SVID{}, err
	}
	i.step("proved")
	i.giving.Lock()
	defer i.giving.Unlock()
	// Its root may have been withdrawn since, and another one must not sign for who has nothing but that.
	if a, err := i.existing(id.Tenant().TrustDomain()); err != nil || !a.has(e.root) {
		return SVID{}, errors.Join(ErrNotRenewable, err)
	}
	return i.give(id, public, grounds{how: agentv1alpha1.Attestation_ATTESTATION_RENEWAL, renews: e.serial, limit: i.outstanding}, now)
}

// holding is a workload and the SVID that it has.
type holding struct {
	id    identity.WorkloadID
	entry entry
}

// holder is who holds a certificate that this Issuer gave, which has not expired, to a workload that the mesh still names. allow
// counts the attempt. The errors are those of Renew.
func (i *Issuer) holder(
	leafDER []byte, mapping identity.Mapping, named Named, allow func(identity.WorkloadID, time.Time) bool, now time.Time,
) (holding, error) {
	leaf, err := x509.ParseCertificate(leafDER)
	if err != nil {
		return holding{}, ErrNotRenewable
	}
	id, a, err := i.proved(leaf, mapping, now)
	if err != nil {
		return holding{}, err
	}
	if again, ok := named(id.String()); !ok || !again.Same(id) || reserved(id) {
		return holding{}, ErrNotRenewable
	}
	if !allow(id, now) {
		return holding{}, ErrLimited
	}
	s, ok := serialOf(leaf.SerialNumber)
	if !ok {
		return holding{}, ErrNotRenewable
	}
	e, ok, err := i.store.find(a.td, s)
	if err != nil {
		return holding{}, err
	}
	if !ok || e.expired(now) || e.workload != id.String() || e.key != sha256.Sum256(leaf.RawSubjectPublicKeyInfo) {
		return holding{}, ErrNotRenewable
	}
	return holding{id: id, entry: e}, nil
}

// proved is whose certificate it is, by this Issuer's own roots of that trust domain.
func (i *Issuer) proved(leaf *x509.Certificate, mapping identity.Mapping, now time.Time) (identity.WorkloadID, *authority, error) {
	uri, err := identity.URISAN(leaf)
	if err != nil {
		return identity.WorkloadID{}, nil, ErrNotRenewable
	}
	id, err := mapping.Parse(uri)
	if err != nil {
		return identity.WorkloadID{}, nil, ErrNotRenewable
	}
	a, err := i.existing(id.Tenant().TrustDomain())
	if err != nil {
		return identity.WorkloadID{}, nil, ErrNotRenewable
	}
	b, err := a.bundle()
	if err != nil {
		return identity.WorkloadID{}, nil, err
	}
	bundles, err := identity.NewBundles(b)
	if err != nil {
		return identity.WorkloadID{}, nil, err
	}
	peer, err := identity.NewVerifier(mapping, bundles).VerifyLeaf(leaf.Raw, nil, now)
	if err != nil {
		return identity.WorkloadID{}, nil, ErrNotRenewable
	}
	return peer.ID(), a, nil
}
