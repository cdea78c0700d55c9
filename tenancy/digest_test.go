package tenancy

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

// Inside the package, because what a digest covers is what the fields of these structs are.

type world struct {
	mapping  identity.Mapping
	acme     identity.TenantID
	globex   identity.TenantID
	platform identity.TenantID
	web      identity.WorkloadID
	orders   identity.WorkloadID
}

func newWorld(t *testing.T) world {
	t.Helper()
	var w world
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.mapping, err = identity.NewMapping(identity.MustTrustDomain("platform.test"), []identity.MappingRule{{TrustDomain: "{tenant}.test", Path: "/{serviceAccount}"}})
	must(err)
	w.acme, err = w.mapping.TenantID("acme")
	must(err)
	w.globex, err = w.mapping.TenantID("globex")
	must(err)
	w.platform, err = w.mapping.TenantID("platform")
	must(err)
	w.web, err = w.mapping.ID(w.acme, "", "web")
	must(err)
	w.orders, err = w.mapping.ID(w.acme, "", "orders")
	must(err)
	return w
}

// full is a tenant in which every field of every struct holds something.
func (w world) full(t *testing.T) *tenant {
	t.Helper()
	issuer := w.issuer(t, func(*identity.TokenIssuerConfig) {})
	s := &service{
		name: "orders", owner: w.acme, ids: []identity.WorkloadID{w.orders}, port: Port{Name: "http", Number: 1, AppPort: 2, Protocol: HTTP},
		tcp:       []OutboundTCP{{Port: 5, Service: "db"}},
		endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:3")}, outbound: 4, token: TokenOptional, forward: true,
		sensitivity: Sensitivity{Class: "secret", ACR: []string{"mfa"}, AMR: []string{"hwk"}, MaxAuthAge: time.Minute},
		routes:      []Route{{Methods: []string{"GET"}, Paths: []string{"/"}, Sensitivity: Sensitivity{Class: "secret"}}},
	}
	return &tenant{
		id: w.acme, mapping: w.mapping,
		services:  []Service{{s: s}},
		workloads: []Workload{{id: w.orders, services: []Service{{s: s}}}},
		imports:   []Import{{i: &imported{name: "billing", ids: []identity.WorkloadID{w.web}, endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:3")}, protocol: GRPC, sni: "x"}}},
		callers: map[string][]Caller{"orders": {{c: &caller{
			id: w.acme, ids: []identity.WorkloadID{w.web}, sni: "y", issuers: []identity.TokenIssuer{issuer},
			grants:      []Grant{{Name: "g", Methods: []string{"GET"}, Paths: []string{"/"}, NotAfter: time.Unix(5, 0)}},
			revocations: []Revocation{{Name: "r"}},
		}}}},
		rules: map[string][]Rule{"orders": {{
			Name: "r", Policy: "p", From: []identity.WorkloadID{w.web}, Roles: []string{"a"}, Methods: []string{"GET"}, Paths: []string{"/"}, Pos: "f:1:2",
		}}},
		issuers: []identity.TokenIssuer{issuer},
		revocations: []Revocation{{
			Name: "r", Workload: w.web, Serial: "1", Issuer: "i", JTI: "j", Subject: "s", Session: "t", Reason: "x", NotAfter: time.Unix(5, 0), Pos: "f:1:2",
		}},
		askers: []Asker{{a: &asker{name: "gateway", keys: []AskerKey{{id: spiffeID(t, "spiffe://a.test/x"), socket: "/s"}}, from: FromXFCC, services: []string{"orders"}}}},
	}
}

func spiffeID(t *testing.T, uri string) identity.SPIFFEID {
	t.Helper()
	id, err := identity.ParseSPIFFEID(uri)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

const jwks = `{"keys":[{"kty":"EC","crv":"P-256","x":"uPClMuUiGPEXUmcnU7jSDjaCR8ORzRMDR4pD9FPN1Mc","y":"ALu0BVHLQ7s64X9j8sBGszde0xYhfJ9BFx01KAvVkxs"}]}`

func (w world) issuer(t *testing.T, change func(*identity.TokenIssuerConfig)) identity.TokenIssuer {
	t.Helper()
	c := identity.TokenIssuerConfig{
		Name: "idp", Issuer: "https://idp", Audiences: []string{"a"}, Tenants: []identity.TenantID{w.acme},
		TenantClaim: "tenant", RolesClaim: "roles", MaxLifetime: time.Minute, JWKS: []byte(jwks),
	}
	change(&c)
	i, err := identity.NewTokenIssuer(c)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestDigestCoversEveryField changes each field of a tenant and expects a digest that was not seen before. A field that
// is added to one of the structs fails the test until it is changed here, and so covered.
func TestDigestCoversEveryField(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reissue := func(change func(*identity.TokenIssuerConfig)) func(*tenant) {
		return func(x *tenant) { x.issuers = []identity.TokenIssuer{w.issuer(t, change)} }
	}
	changes := map[string]map[string]func(*tenant){
		"tenant": {
			"id":        func(x *tenant) { x.id = w.globex },
			"mapping":   func(x *tenant) { x.mapping = identity.Mapping{} },
			"bundle":    func(x *tenant) { x.bundle = bundle(t, "a.test") },
			"services":  func(x *tenant) { x.services = nil },
			"workloads": func(x *tenant) { x.workloads = nil },
			"imports":   func(x *tenant) { x.imports = nil },
			"callers":   func(x *tenant) { x.callers = map[string][]Caller{"other": x.callers["orders"]} },
			"rules":     func(x *tenant) { x.rules = map[string][]Rule{"other": x.rules["orders"]} },
			"issuers":   func(x *tenant) { x.issuers = nil },
			"askers":    func(x *tenant) { x.askers = nil },
			"life":      func(x *tenant) { x.life = time.Second },
			"rootLife":  func(x *tenant) { x.rootLife = time.Second },
			"digest":    nil, // the result

			"revocations": func(x *tenant) { x.revocations = nil },
		},
		"service": {
			"name":      func(x *tenant) { x.services[0].s.name = "x" },
			"owner":     func(x *tenant) { x.services[0].s.owner = w.globex },
			"ids":       func(x *tenant) { x.services[0].s.ids[0] = w.web },
			"port":      func(x *tenant) { x.services[0].s.port = Port{} },
			"endpoints": func(x *tenant) { x.services[0].s.endpoints = nil },
			"outbound":  func(x *tenant) { x.services[0].s.outbound = 9 },
			"tcp":       func(x *tenant) { x.services[0].s.tcp = nil },
			"token":     func(x *tenant) { x.services[0].s.token = TokenRequired },
			"forward":   func(x *tenant) { x.services[0].s.forward = false },
			"stream":    func(x *tenant) { x.services[0].s.stream = time.Second },
			"servers":   func(x *tenant) { x.services[0].s.servers = []identity.WorkloadID{w.web} },
			"epoch":     func(x *tenant) { x.services[0].s.epoch = "x" },

			"proxy":       func(x *tenant) { x.services[0].s.proxy = ProxyDirect },
			"sensitivity": func(x *tenant) { x.services[0].s.sensitivity = Sensitivity{} },
			"routes":      func(x *tenant) { x.services[0].s.routes = nil },
		},
		"Route": {
			"Methods":       func(x *tenant) { x.services[0].s.routes[0].Methods = nil },
			"Paths":         func(x *tenant) { x.services[0].s.routes[0].Paths[0] = "/x" },
			"TokenRequired": func(x *tenant) { x.services[0].s.routes[0].TokenRequired = true },
			"Sensitivity":   func(x *tenant) { x.services[0].s.routes[0].Sensitivity.Class = "x" },
		},
		"Sensitivity": {
			"Class":      func(x *tenant) { x.services[0].s.sensitivity.Class = "x" },
			"ACR":        func(x *tenant) { x.services[0].s.sensitivity.ACR[0] = "x" },
			"AMR":        func(x *tenant) { x.services[0].s.sensitivity.AMR[0] = "x" },
			"MaxAuthAge": func(x *tenant) { x.services[0].s.sensitivity.MaxAuthAge = time.Hour },
		},
		"Port": {
			"Name":     func(x *tenant) { x.services[0].s.port.Name = "x" },
			"Number":   func(x *tenant) { x.services[0].s.port.Number = 9 },
			"AppPort":  func(x *tenant) { x.services[0].s.port.AppPort = 9 },
			"Protocol": func(x *tenant) { x.services[0].s.port.Protocol = GRPC },

			"ServerFirst": func(x *tenant) { x.services[0].s.port.ServerFirst = true },
		},
		"OutboundTCP": {
			"Port":    func(x *tenant) { x.services[0].s.tcp[0].Port = 9 },
			"Shared":  func(x *tenant) { x.services[0].s.tcp[0].Shared = true },
			"Service": func(x *tenant) { x.services[0].s.tcp[0].Service = "x" },
		},
		"Workload": {
			"id":       func(x *tenant) { x.workloads[0].id = w.web },
			"services": func(x *tenant) { x.workloads[0].services = nil },
		},
		"imported": {
			"name":      func(x *tenant) { x.imports[0].i.name = "x" },
			"ids":       func(x *tenant) { x.imports[0].i.ids[0] = w.orders },
			"endpoints": func(x *tenant) { x.imports[0].i.endpoints[0] = netip.MustParseAddrPort("10.0.0.2:4") },
			"protocol":  func(x *tenant) { x.imports[0].i.protocol = HTTP },
			"bundle":    func(x *tenant) { x.imports[0].i.bundle = bundle(t, "b.test") },
			"sni":       func(x *tenant) { x.imports[0].i.sni = "z" },
			"servers":   func(x *tenant) { x.imports[0].i.servers = []identity.WorkloadID{w.orders} },
			"epoch":     func(x *tenant) { x.imports[0].i.epoch = "x" },
		},
		"caller": {
			"id":      func(x *tenant) { x.callers["orders"][0].c.id = w.platform },
			"ids":     func(x *tenant) { x.callers["orders"][0].c.ids = nil },
			"bundle":  func(x *tenant) { x.callers["orders"][0].c.bundle = bundle(t, "c.test") },
			"sni":     func(x *tenant) { x.callers["orders"][0].c.sni = "z" },
			"grants":  func(x *tenant) { x.callers["orders"][0].c.grants = nil },
			"issuers": func(x *tenant) { x.callers["orders"][0].c.issuers = nil },

			"revocations": func(x *tenant) { x.callers["orders"][0].c.revocations = nil },
			"epoch":       func(x *tenant) { x.callers["orders"][0].c.epoch = "x" },
		},
		"Revocation": {
			"Name":     func(x *tenant) { x.revocations[0].Name = "x" },
			"Workload": func(x *tenant) { x.revocations[0].Workload = w.orders },
			"Serial":   func(x *tenant) { x.revocations[0].Serial = "2" },
			"Issuer":   func(x *tenant) { x.revocations[0].Issuer = "x" },
			"JTI":      func(x *tenant) { x.revocations[0].JTI = "x" },
			"Subject":  func(x *tenant) { x.revocations[0].Subject = "x" },
			"Session":  func(x *tenant) { x.revocations[0].Session = "x" },
			"Reason":   func(x *tenant) { x.revocations[0].Reason = "y" },
			"NotAfter": func(x *tenant) { x.revocations[0].NotAfter = time.Unix(6, 0) },
			"Over":     func(x *tenant) { x.revocations[0].Over = true },
			"Pos":      func(x *tenant) { x.revocations[0].Pos = "f:1:3" },
		},
		"Grant": {
			"Name":     func(x *tenant) { x.callers["orders"][0].c.grants[0].Name = "x" },
			"Methods":  func(x *tenant) { x.callers["orders"][0].c.grants[0].Methods = []string{"GET", "X"} },
			"Paths":    func(x *tenant) { x.callers["orders"][0].c.grants[0].Paths[0] = "/x" },
			"NotAfter": func(x *tenant) { x.callers["orders"][0].c.grants[0].NotAfter = time.Unix(5, 1) },
		},
		"Rule": {
			"Name":    func(x *tenant) { x.rules["orders"][0].Name = "x" },
			"Policy":  func(x *tenant) { x.rules["orders"][0].Policy = "x" },
			"From":    func(x *tenant) { x.rules["orders"][0].From[0] = w.orders },
			"Askers":  func(x *tenant) { x.rules["orders"][0].Askers = []string{"edge"} },
			"Roles":   func(x *tenant) { x.rules["orders"][0].Roles = nil },
			"Methods": func(x *tenant) { x.rules["orders"][0].Methods[0] = "PUT" },
			"Paths":   func(x *tenant) { x.rules["orders"][0].Paths = []string{"/", "/x"} },
			"Pos":     func(x *tenant) { x.rules["orders"][0].Pos = "f:1:3" },
		},
		"TokenIssuerConfig": {
			"Name": reissue(func(c *identity.TokenIssuerConfig) { c.Name = "x" }),
			"Format": reissue(func(c *identity.TokenIssuerConfig) {
				c.Format, c.Issuer, c.TenantClaim, c.RolesClaim, c.JWKS = identity.FormatSVID, "", "", "", nil
				c.Mapping = remap(t, "x.y", "{tenant}.test", "/{serviceAccount}")
			}),
			"Mapping":     reissue(func(c *identity.TokenIssuerConfig) { c.Mapping = remap(t, "x.y", "{tenant}.test", "/{serviceAccount}") }),
			"Issuer":      reissue(func(c *identity.TokenIssuerConfig) { c.Issuer = "x" }),
			"Audiences":   reissue(func(c *identity.TokenIssuerConfig) { c.Audiences = []string{"a", "b"} }),
			"Tenants":     reissue(func(c *identity.TokenIssuerConfig) { c.Tenants = []identity.TenantID{w.globex} }),
			"TenantClaim": reissue(func(c *identity.TokenIssuerConfig) { c.TenantClaim = "x" }),
			"RolesClaim":  reissue(func(c *identity.TokenIssuerConfig) { c.RolesClaim = "x" }),
			"MaxLifetime": reissue(func(c *identity.TokenIssuerConfig) { c.MaxLifetime = time.Hour }),
			"JWKS":        reissue(func(c *identity.TokenIssuerConfig) { c.JWKS = append(c.JWKS, ' ') }),
		},
		"MappingRule": {
			"TrustDomain": func(x *tenant) { x.mapping = remap(t, "platform.test", "{tenant}.x", "/{serviceAccount}") },
			"Path":        func(x *tenant) { x.mapping = remap(t, "platform.test", "{tenant}.test", "/x/{serviceAccount}") },
		},
		"mapping": {"platform": func(x *tenant) { x.mapping = remap(t, "x.y", "{tenant}.test", "/{serviceAccount}") }},
	}
	structs := map[string]reflect.Type{
		"tenant": reflect.TypeFor[tenant](), "service": reflect.TypeFor[service](), "Sensitivity": reflect.TypeFor[Sensitivity](), "Route": reflect.TypeFor[Route](), "Port": reflect.TypeFor[Port](), "Workload": reflect.TypeFor[Workload](),
		"imported": reflect.TypeFor[imported](), "caller": reflect.TypeFor[caller](), "Grant": reflect.TypeFor[Grant](), "Rule": reflect.TypeFor[Rule](),
		"Revocation":  reflect.TypeFor[Revocation](),
		"OutboundTCP": reflect.TypeFor[OutboundTCP](), "TokenIssuerConfig": reflect.TypeFor[identity.TokenIssuerConfig](), "MappingRule": reflect.TypeFor[identity.MappingRule](),
	}
	for name, of := range structs {
		for f := range of.Fields() {
			if _, ok := changes[name][f.Name]; !ok {
				t.Errorf("nothing changes %s.%s", name, f.Name)
			}
		}
	}
	seen := map[[32]byte]string{digest(w.full(t)): "nothing"}
	if one, two := w.full(t), w.full(t); digest(one) != digest(two) {
		t.Fatal("the same tenant has two digests")
	}
	for name, fields := range changes {
		for field, change := range fields {
			if change == nil {
				continue
			}
			x := w.full(t)
			change(x)
			sum := digest(x)
			if before, dup := seen[sum]; dup {
				t.Errorf("a change of %s.%s has the digest of a change of %s", name, field, before)
			}
			seen[sum] = name + "." + field
		}
	}
}

// TestDigestPartsFields moves text from one field to its neighbour: without lengths the bytes would be the same.
func TestDigestPartsFields(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := w.full(t), w.full(t)
	one.rules["orders"][0].Name, one.rules["orders"][0].Policy = "ab", "c"
	two.rules["orders"][0].Name, two.rules["orders"][0].Policy = "a", "bc"
	if digest(one) == digest(two) {
		t.Error("two texts run into each other")
	}
	one.rules["orders"][0], two.rules["orders"][0] = Rule{Roles: []string{"a"}}, Rule{Methods: []string{"a"}}
	if digest(one) == digest(two) {
		t.Error("two lists run into each other")
	}
}

func bundle(t *testing.T, domain string) identity.Bundle {
	t.Helper()
	return testca.Constrained(t, domain).Bundle(domain)
}

func remap(t *testing.T, platform, domain, path string) identity.Mapping {
	t.Helper()
	m, err := identity.NewMapping(identity.MustTrustDomain(platform), []identity.MappingRule{{TrustDomain: domain, Path: path}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}
