package identity

// SPIFFEID is a SPIFFE ID of the accepted form, of whatever trust domain. Unlike a WorkloadID it says nothing of tenants.
// It comes only from ParseSPIFFEID, is comparable, and the zero value names nobody.
type SPIFFEID struct {
	td  TrustDomain
	uri string
}

// ParseSPIFFEID reads a SPIFFE ID byte for byte; the error is ErrInvalidID.
func ParseSPIFFEID(uri string) (SPIFFEID, error) {
	td, _, err := splitID(uri)
	if err != nil {
		return SPIFFEID{}, err
	}
	return SPIFFEID{td: td, uri: uri}, nil
}

// TrustDomain is the trust domain whose roots vouch for it.
func (s SPIFFEID) TrustDomain() TrustDomain { return s.td }

// String is the ID, byte for byte.
func (s SPIFFEID) String() string { return s.uri }

// IsZero reports whether it names nobody.
func (s SPIFFEID) IsZero() bool { return s.uri == "" }
