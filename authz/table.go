package authz

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// Table is one tenant's compiled services, rules, grants and token issuers. It comes from Compile or DecodeTable, is
// immutable, and a nil Table denies everything.
type Table struct {
	message  *agentv1alpha1.Table // what it was made from; never changed, never handed out
	version  string
	tenant   identity.TenantID
	workload identity.WorkloadID
	mapping  identity.Mapping
	bundles  identity.Bundles
	verifier identity.Verifier
	tokens   identity.TokenVerifier
	services map[string]*service
	callers  map[identity.WorkloadID]int // whom any rule or Grant names, numbered
	tcp      map[tcpPort]*service
	revoked  map[revokedKey]revocation
	askers   map[tenancy.AskerKey]tenancy.Asker // of a tenant's whole Table only; never encoded
}

// tcpPort is what names the destination of a TCP connection: the workload that takes it, and where.
type tcpPort struct {
	workload identity.WorkloadID
	port     uint16
}

// service is what Decide needs of a destination.
type service struct {
	table    *Table
	name     string
	full     string // with the tenant's
	port     string
	tcp      uint16 // where its sidecars listen, if it takes TCP connections; 0: it takes HTTP requests
	token    agentv1alpha1.TokenMode
	forward  bool
	accounts []identity.WorkloadID
	grants   map[identity.TenantID]int64 // the end of the tenant's last Grant
	rules    []*rule                     // in the order of the documents
	paths    pathTree

	sensitivity tenancy.Sensitivity // with demands only where a token is required
	routes      []route
}

// rule is an AccessPolicy's rule or a Grant. Its paths are also where it hangs in the service's tree.
type rule struct {
	message *agentv1alpha1.Rule
	name    string
	order   int      // the first rule in the documents is the one that is reported
	from    bitset   // of callers' numbers
	askers  []string // whose bearers it is for; in a tenant's whole Table only, never encoded
	until   int64    // Unix seconds
	roles   []string
	methods []string
	paths   []pattern
}

// bitset is a set of small numbers.
type bitset []uint64

func (b bitset) with(n int) bitset {
	for len(b) <= n/64 {
		b = append(b, 0)
	}
	b[n/64] |= 1 << (n % 64)
	return b
}

func (b bitset) has(n int) bool { return n/64 < len(b) && b[n/64]&(1<<(n%64)) != 0 }

const forever = math.MaxInt64

// Tenant is whose Table it is.
func (t *Table) Tenant() identity.TenantID { return t.tenant }

// Version is a hash of the content, in hex.
func (t *Table) Version() string { return t.version }

// Workload is the one workload whose agent may use the Table; false for a tenant's whole Table.
func (t *Table) Workload() (identity.WorkloadID, bool) { return t.workload, !t.workload.IsZero() }

// SnapshotVersion is the version of the xDS snapshot that belongs to these rules; empty for a tenant's whole Table.
func (t *Table) SnapshotVersion() string { return t.message.GetSnapshotVersion() }

// Trusts reports whether the Table believes tokens of the TokenIssuer of that name.
func (t *Table) Trusts(issuer string) bool {
	return t != nil && slices.ContainsFunc(t.message.GetIssuers(), func(i *agentv1alpha1.TokenIssuer) bool { return i.GetName() == issuer })
}

// Service finds a destination by its owner's name and its own. What is not found is the zero ServiceRef.
func (t *Table) Service(owner, name string) (ServiceRef, bool) {
	if t == nil || owner != t.tenant.Name() {
		return ServiceRef{}, false
	}
	s, ok := t.services[name]
	return ServiceRef{s: s}, ok
}

// TCPService finds the destination of a TCP connection: of the services of the workload that take such connections, the
// one whose sidecars listen at the port. What is not found is the zero ServiceRef.
func (t *Table) TCPService(w identity.WorkloadID, port uint16) (ServiceRef, bool) {
	if t == nil {
		return ServiceRef{}, false
	}
	s, ok := t.tcp[tcpPort{w, port}]
	return ServiceRef{s: s}, ok
}

// Services are all destinations of the Table, sorted by name.
func (t *Table) Services() []ServiceRef {
	refs := make([]ServiceRef, 0, len(t.services))
	for _, name := range slices.Sorted(maps.Keys(t.services)) {
		refs = append(refs, ServiceRef{s: t.services[name]})
	}
	return refs
}

// ServiceRef is a destination in one Table; no other Table accepts it. The zero value is no service.
type ServiceRef struct{ s *service }

// Owner is the tenant that the service belongs to.
func (r ServiceRef) Owner() identity.TenantID {
	if r.s == nil {
		return identity.TenantID{}
	}
	return r.s.table.tenant
}

// Name is the service's name.
func (r ServiceRef) Name() string { return r.get().name }

// String is "tenant/service", empty for no service.
func (r ServiceRef) String() string { return r.get().full }

// Port is the name of its port.
func (r ServiceRef) Port() string { return r.get().port }

// TCP reports whether the service takes TCP connections; any other takes HTTP requests.
func (r ServiceRef) TCP() bool { return r.get().tcp != 0 }

// ReadsToken reports whether calls to the service may carry a bearer token that is verified. Where not, the Authorization
// header is the application's own.
func (r ServiceRef) ReadsToken() bool {
	return r.get().token != agentv1alpha1.TokenMode_TOKEN_MODE_NONE
}

// KeepsToken reports whether a verified token is passed on to the application: always within a tenant, and at a shared
// service only where it says so.
func (r ServiceRef) KeepsToken() bool { return !r.Owner().IsPlatform() || r.get().forward }

// RunBy reports whether the workload runs the service: only its proxy may ask about it.
func (r ServiceRef) RunBy(w identity.WorkloadID) bool {
	return slices.ContainsFunc(r.get().accounts, w.Same)
}

// Knows reports whether the service's owner may learn the tenant's name: it is the owner itself, or a Grant names it.
func (r ServiceRef) Knows(t identity.TenantID) bool {
	_, granted := r.get().grants[t]
	return granted || r.Owner().Same(t)
}

// RuleAskers are the askers that the rule ("policy/rule") names; none in a Table that an agent gets.
func (r ServiceRef) RuleAskers(rule string) []string {
	for _, candidate := range r.get().rules {
		if candidate.name == rule && candidate.until == forever {
			return slices.Clone(candidate.askers)
		}
	}
	return nil
}

func (r ServiceRef) get() *service {
	if r.s == nil {
		return &service{}
	}
	return r.s
}

// finish makes a Table of a message and of the bytes that stand for it. Every text of the message goes through the parser
// that made it: a Table that arrives from elsewhere is believed no more than a document.
func finish(m *agentv1alpha1.Table) (*Table, error) {
	t := &Table{message: m}
	platform, err := identity.ParseTrustDomain(m.GetPlatformTrustDomain())
	if err != nil {
		return nil, fmt.Errorf("platform: %w", err)
	}
	rules := make([]identity.MappingRule, 0, len(m.GetMapping()))
	for _, r := range m.GetMapping() {
		rules = append(rules, identity.MappingRule{TrustDomain: r.GetTrustDomain(), Path: r.GetPath()})
	}
	if t.mapping, err = identity.NewMapping(platform, rules); err != nil {
		return nil, fmt.Errorf("mapping: %w", err)
	}
	if t.tenant, err = t.mapping.TenantID(m.GetTenant()); err != nil {
		return nil, fmt.Errorf("tenant: %w", err)
	}
	if m.GetWorkload() != "" {
		if t.workload, err = t.own(m.GetWorkload()); err != nil {
			return nil, fmt.Errorf("workload: %w", err)
		}
	}
	if err := t.addBundles(m.GetBundles()); err != nil {
		return nil, err
	}
	speaksOf := map[identity.TenantID]bool{t.tenant: true}
	t.services, t.callers = make(map[string]*service, len(m.GetServices())), make(map[identity.WorkloadID]int)
	t.tcp = make(map[tcpPort]*service)
	for _, s := range m.GetServices() {
		if err := t.addService(s, speaksOf); err != nil {
			return nil, fmt.Errorf("service %q: %w", clip(s.GetName()), err)
		}
	}
	if err := t.addIssuers(m.GetIssuers(), speaksOf); err != nil {
		return nil, err
	}
	if err := t.addRevocations(m.GetRevocations(), speaksOf); err != nil {
		return nil, err
	}
	encoded, err := marshal(m)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(encoded)
	t.version = hex.EncodeToString(sum[:])
	return t, nil
}

// own parses the ID of a workload of the Table's tenant; another tenant's is an error.
func (t *Table) own(id string) (identity.WorkloadID, error) { return t.of(id, t.tenant) }

func (t *Table) of(id string, owner identity.TenantID) (identity.WorkloadID, error) {
	w, err := t.mapping.Parse(id)
	if err != nil {
		return identity.WorkloadID{}, err
	}
	if !w.Tenant().Same(owner) {
		return identity.WorkloadID{}, fmt.Errorf("%s is no workload of %s", w, owner)
	}
	return w, nil
}

func (t *Table) addBundles(bundles []*agentv1alpha1.Bundle) error {
	all := make([]identity.Bundle, 0, len(bundles))
	for _, b := range bundles {
		td, err := identity.ParseTrustDomain(b.GetTrustDomain())
		if err != nil {
			return fmt.Errorf("bundle: %w", err)
		}
		bundle, err := identity.NewBundle(td, b.GetRoots()...)
		if err != nil {
			return err
		}
		all = append(all, bundle)
	}
	var err error
	if t.bundles, err = identity.NewBundles(all...); err != nil {
		return err
	}
	t.verifier = identity.NewVerifier(t.mapping, t.bundles)
	return nil
}

// maxLifetime bounds what a duration in a message may be, so that it fits into one.
const maxLifetime = 10 * 365 * 24 * time.Hour

// addIssuers lets no issuer assert a tenant that the Table has nothing to do with.
func (t *Table) addIssuers(issuers []*agentv1alpha1.TokenIssuer, speaksOf map[identity.TenantID]bool) error {
	all := make([]identity.TokenIssuer, 0, len(issuers))
	for _, i := range issuers {
		if s := i.GetMaxLifetimeSeconds(); s < 0 || s > int64(maxLifetime/time.Second) {
			return fmt.Errorf("token issuer %q: maxLifetime is out of range", clip(i.GetName()))
		}
		c := identity.TokenIssuerConfig{
			Name: i.GetName(), Issuer: i.GetIssuer(), Audiences: i.GetAudiences(),
			TenantClaim: i.GetTenantClaim(), RolesClaim: i.GetRolesClaim(),
			MaxLifetime: time.Duration(i.GetMaxLifetimeSeconds()) * time.Second, JWKS: i.GetJwks(),
			Format: identity.TokenFormat(i.GetFormat()),
		}
		if c.Format == identity.FormatSVID {
			c.Mapping = t.mapping
		}
		for _, name := range i.GetTenants() {
			id, err := t.mapping.TenantID(name)
			if err != nil {
				return fmt.Errorf("token issuer %q: %w", clip(i.GetName()), err)
			}
			if !speaksOf[id] {
				return fmt.Errorf("token issuer %q: it asserts tenant %q, of which the table does not speak", clip(i.GetName()), clip(name))
			}
			c.Tenants = append(c.Tenants, id)
		}
		issuer, err := identity.NewTokenIssuer(c)
		if err != nil {
			return fmt.Errorf("token issuer %q: %w", clip(i.GetName()), err)
		}
		all = append(all, issuer)
	}
	t.tokens = identity.NewTokenVerifier(all...)
	return nil
}

func (t *Table) addService(m *agentv1alpha1.Service, speaksOf map[identity.TenantID]bool) error {
	s := &service{
		table: t, name: m.GetName(), full: t.tenant.Name() + "/" + m.GetName(), port: m.GetPort(),
		token: m.GetToken(), forward: m.GetForwardToken(),
		tcp:    uint16(m.GetTcpPort()), //nolint:gosec // checked below
		grants: map[identity.TenantID]int64{},
	}
	_, known := agentv1alpha1.TokenMode_name[int32(s.token)]
	_, dup := t.services[s.name]
	switch {
	case !identity.ValidName(s.name) || !identity.ValidName(s.port):
		return errors.New("the service or its port has no valid name")
	case dup:
		return errors.New("it stands twice")
	case !known:
		return errors.New("unknown token mode")
	case m.GetTcpPort() > math.MaxUint16:
		return errors.New("its port is out of range")
	case s.tcp != 0 && s.token != agentv1alpha1.TokenMode_TOKEN_MODE_NONE:
		return errors.New("a TCP connection carries no token")
	case len(m.GetAccounts()) == 0:
		return errors.New("nobody runs it")
	case len(m.GetGrants()) > 0 && !t.tenant.IsPlatform():
		return errors.New("only the platform's services are granted to other tenants")
	}
	if err := s.addSensitivity(m.GetSensitivity()); err != nil {
		return fmt.Errorf("sensitivity: %w", err)
	}
	for _, r := range m.GetRoutes() {
		if err := s.addRoute(r); err != nil {
			return fmt.Errorf("route: %w", err)
		}
	}
	for _, a := range m.GetAccounts() {
		w, err := t.own(a)
		if err != nil {
			return fmt.Errorf("accounts: %w", err)
		}
		s.accounts = append(s.accounts, w)
		if s.tcp == 0 {
			continue
		}
		if other, taken := t.tcp[tcpPort{w, s.tcp}]; taken && other != s {
			return fmt.Errorf("%s takes TCP connections at the same port", other.name)
		}
		t.tcp[tcpPort{w, s.tcp}] = s
	}
	if !t.workload.IsZero() && !slices.ContainsFunc(s.accounts, t.workload.Same) {
		return fmt.Errorf("%s does not run it", t.workload)
	}
	for _, r := range m.GetRules() {
		if err := s.addRule(r, t.tenant, forever); err != nil {
			return fmt.Errorf("rule %q: %w", clip(r.GetName()), err)
		}
	}
	for _, g := range m.GetGrants() {
		if err := s.addGrant(g, speaksOf); err != nil {
			return fmt.Errorf("grant %q: %w", clip(g.GetName()), err)
		}
	}
	t.services[s.name] = s
	return nil
}

func (s *service) addGrant(g *agentv1alpha1.Grant, speaksOf map[identity.TenantID]bool) error {
	tenant, err := s.table.mapping.TenantID(g.GetTenant())
	if err != nil {
		return err
	}
	if tenant.IsPlatform() {
		return errors.New("the platform needs no Grant for its own services")
	}
	s.grants[tenant] = max(s.grants[tenant], g.GetNotAfter())
	speaksOf[tenant] = true
	r := &agentv1alpha1.Rule{Name: g.GetName(), From: g.GetFrom(), Methods: g.GetMethods(), Paths: g.GetPaths()}
	return s.addRule(r, tenant, g.GetNotAfter())
}

// addRule checks a rule and hangs it into the tree. All of its callers are of one tenant.
func (s *service) addRule(m *agentv1alpha1.Rule, tenant identity.TenantID, until int64) error {
	switch {
	case !printable(m.GetName()):
		return errors.New("it has no readable name")
	case s.tcp != 0 && len(m.GetMethods())+len(m.GetPaths())+len(m.GetRoles()) > 0:
		return errors.New("a TCP connection has no method, path or role")
	case s.tcp == 0 && (len(m.GetMethods()) == 0 || len(m.GetPaths()) == 0):
		return errors.New("it says no methods or no paths")
	case !allOf(m.GetRoles(), identity.ValidName):
		return errors.New("a role's name is not valid")
	case !allOf(m.GetMethods(), validMethod):
		return errors.New("a method is written in capitals, and is not CONNECT")
	}
	r := &rule{name: m.GetName(), message: m, order: len(s.rules), until: until, roles: m.GetRoles(), methods: m.GetMethods()}
	s.rules = append(s.rules, r)
	for _, id := range m.GetFrom() {
		w, err := s.table.of(id, tenant)
		if err != nil {
			return err
		}
		n, known := s.table.callers[w]
		if !known {
			n = len(s.table.callers)
			s.table.callers[w] = n
		}
		r.from = r.from.with(n)
	}
	for _, p := range m.GetPaths() {
		parsed, err := parsePattern(p)
		if err != nil {
			return err
		}
		s.paths.add(parsed, r)
		r.paths = append(r.paths, parsed)
	}
	return nil
}

func allOf(list []string, valid func(string) bool) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !valid(s) })
}

func validMethod(m string) bool {
	const limit = 32
	if m == "" || m == "CONNECT" || len(m) > limit || m[0] == '-' || m[0] == '_' {
		return false
	}
	for i := range len(m) {
		if (m[i] < 'A' || m[i] > 'Z') && m[i] != '-' && m[i] != '_' {
			return false
		}
	}
	return true
}

// printable keeps names out of records that would break a line or be longer than one.
func printable(s string) bool {
	const limit = 200
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
