package authz_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
)

func billingGrant() *grantMsg {
	return &grantMsg{
		Name: "g", Tenant: "acme", From: []string{acmeWeb}, Methods: []string{"GET"}, Paths: []string{"/invoices/*"},
		NotAfter: 2_000_000_000,
	}
}

func TestDecodeTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.billing(tokenOptional, nil, billingGrant())
	m.Services[0].ForwardToken = true
	table := decode(t, m)
	if id, ok := table.Workload(); !ok || id.String() != platformBill || table.SnapshotVersion() != "v1" || !table.Tenant().IsPlatform() {
		t.Error("the Table is not what was encoded")
	}
	s := service(t, table, "platform", "billing")
	acme, globex := table.Caller(w.acme.SVID(acmeWeb).Cert.Raw, nil, w.now), decode(t, w.base("globex", globexWeb)).Tenant()
	if s.Name() != "billing" || s.Port() != "http" || !s.ReadsToken() || !s.KeepsToken() || !s.Owner().Same(table.Tenant()) {
		t.Errorf("%+v", s)
	}
	if !s.Knows(acme.Peer().ID().Tenant()) || !s.Knows(table.Tenant()) || s.Knows(globex) || s.RunBy(acme.Peer().ID()) {
		t.Error("the service knows others than its owner and the granted")
	}
	if id, _ := table.Workload(); !s.RunBy(id) {
		t.Error("the workload does not run it")
	}
	if _, ok := table.Service("acme", "billing"); ok {
		t.Error("a service of another tenant")
	}
	if _, ok := table.Service("platform", "Billing"); ok {
		t.Error("a service in upper case")
	}
	if !table.Trusts("acme-idp") || table.Trusts("globex-idp") || table.Trusts("") || (*authz.Table)(nil).Trusts("acme-idp") {
		t.Error("it believes tokens of others than its issuers")
	}
	if all := table.Services(); len(all) != 1 || all[0] != s {
		t.Errorf("%d services", len(all))
	}
	m.Services[0].ForwardToken, m.Services[0].Token = false, tokenNone
	if s := service(t, decode(t, m), "platform", "billing"); s.KeepsToken() || s.ReadsToken() {
		t.Error("a shared service keeps tokens unasked")
	}
	if s := service(t, decode(t, w.orders(tokenRequired)), "acme", "orders"); !s.KeepsToken() {
		t.Error("within a tenant the token is passed on")
	}
	if again := decode(t, m); again.Version() == table.Version() || len(again.Version()) != 64 ||
		again.Version() != decode(t, m).Version() {
		t.Error("the version is not a hash of the content")
	}
}

func TestDecodeTableRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	orders := func(m *tableMsg) *serviceMsg { return m.GetServices()[0] }
	rule := func(m *tableMsg) *ruleMsg { return m.GetServices()[0].GetRules()[0] }
	tcp := func(m *tableMsg) {
		orders(m).TcpPort, orders(m).Token = 1, tokenNone
		rule(m).Methods, rule(m).Paths = nil, nil
	}
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)
	for name, tc := range map[string]struct {
		change func(*tableMsg)
		text   string
	}{
		"no workload":                {func(m *tableMsg) { m.Workload = "" }, "no workload"},
		"no snapshot":                {func(m *tableMsg) { m.SnapshotVersion = "" }, "no snapshot"},
		"snapshot with a line break": {func(m *tableMsg) { m.SnapshotVersion = "a\nb" }, "no snapshot"},
		"no platform":                {func(m *tableMsg) { m.PlatformTrustDomain = "" }, "platform"},
		"no mapping":                 {func(m *tableMsg) { m.Mapping = nil }, "mapping"},
		"no tenant":                  {func(m *tableMsg) { m.Tenant = "" }, "tenant"},
		"tenant in upper case":       {func(m *tableMsg) { m.Tenant = "ACME" }, "tenant"},
		"workload of another tenant": {func(m *tableMsg) { m.Workload = globexWeb }, "workload"},
		"workload unmapped":          {func(m *tableMsg) { m.Workload = "spiffe://x.test/y" }, "workload"},
		"bundle without name":        {func(m *tableMsg) { m.Bundles[0].TrustDomain = "" }, "bundle"},
		"bundle without roots":       {func(m *tableMsg) { m.Bundles[0].Roots = nil }, "bundle"},
		"bundle with garbage":        {func(m *tableMsg) { m.Bundles[0].Roots = [][]byte{{1}} }, "bundle"},
		"bundle twice":               {func(m *tableMsg) { m.Bundles = append(m.GetBundles(), m.GetBundles()[0]) }, "two bundles"},
		"unknown field":              {func(m *tableMsg) { m.ProtoReflect().SetUnknown(unknown) }, "does not know"},
		"unknown field in a rule":    {func(m *tableMsg) { rule(m).ProtoReflect().SetUnknown(unknown) }, "does not know"},
		"unknown field in a rule before another": {func(m *tableMsg) {
			rule(m).ProtoReflect().SetUnknown(unknown)
			orders(m).Rules = append(orders(m).Rules, webReads("clerk"))
		}, "does not know"},
		"issuer with bad keys":        {func(m *tableMsg) { m.Issuers[0].Jwks = []byte("{}") }, "token issuer"},
		"issuer of an unknown format": {func(m *tableMsg) { m.Issuers[0].Format = 2 }, "format"},
		"JWT-SVIDs with an issuer":    {func(m *tableMsg) { m.Issuers[0].Format = 1 }, "JWT-SVID"},
		"issuer of another tenant":    {func(m *tableMsg) { m.Issuers[0].Tenants = []string{"globex"} }, "does not speak"},
		"issuer of a bad tenant":      {func(m *tableMsg) { m.Issuers[0].Tenants = []string{"-"} }, "token issuer"},
		"issuer with a negative life": {func(m *tableMsg) { m.Issuers[0].MaxLifetimeSeconds = -1 }, "maxLifetime"},
		"issuer with an endless life": {func(m *tableMsg) { m.Issuers[0].MaxLifetimeSeconds = 1 << 62 }, "maxLifetime"},
		"service without name":        {func(m *tableMsg) { orders(m).Name = "" }, "name"},
		"service without port":        {func(m *tableMsg) { orders(m).Port = "" }, "name"},
		"service twice":               {func(m *tableMsg) { m.Services = append(m.Services, orders(m)) }, "twice"},
		"unknown token mode":          {func(m *tableMsg) { orders(m).Token = 3 }, "token mode"},
		"nobody runs it":              {func(m *tableMsg) { orders(m).Accounts = nil }, "nobody"},
		"another tenant runs it":      {func(m *tableMsg) { orders(m).Accounts = append(orders(m).Accounts, globexWeb) }, "accounts"},
		"another workload runs it":    {func(m *tableMsg) { orders(m).Accounts = []string{acmeWeb} }, "does not run"},
		"a tenant's Grant":            {func(m *tableMsg) { orders(m).Grants = []*grantMsg{billingGrant()} }, "only the platform"},
		"rule for another tenant":     {func(m *tableMsg) { rule(m).From = append(rule(m).From, globexWeb) }, "no workload of acme"},
		"rule for the platform":       {func(m *tableMsg) { rule(m).From = []string{platformOps} }, "no workload of acme"},
		"rule for a prefix":           {func(m *tableMsg) { rule(m).From = []string{"spiffe://acme.demo.test/*"} }, "rule"},
		"rule without name":           {func(m *tableMsg) { rule(m).Name = "" }, "name"},
		"rule with a long name":       {func(m *tableMsg) { rule(m).Name = strings.Repeat("a", 201) }, "name"},
		"rule without methods":        {func(m *tableMsg) { rule(m).Methods = nil }, "no methods"},
		"rule without paths":          {func(m *tableMsg) { rule(m).Paths = nil }, "no paths"},
		"method in lower case":        {func(m *tableMsg) { rule(m).Methods = []string{"GET", "get"} }, "method"},
		"method CONNECT":              {func(m *tableMsg) { rule(m).Methods = []string{"CONNECT"} }, "method"},
		"empty method":                {func(m *tableMsg) { rule(m).Methods = []string{""} }, "method"},
		"bad path":                    {func(m *tableMsg) { rule(m).Paths = []string{"/orders", "/a/**/b"} }, "path"},
		"bad role":                    {func(m *tableMsg) { rule(m).Roles = []string{"Clerk"} }, "role"},
		"TCP port out of range":       {func(m *tableMsg) { orders(m).TcpPort = 1<<16 + 1 }, "out of range"},
		"TCP with a token":            {func(m *tableMsg) { orders(m).TcpPort = 1 }, "no token"},
		"TCP with a path":             {func(m *tableMsg) { tcp(m); rule(m).Paths = []string{"/"} }, "no method, path or role"},
		"TCP with a method":           {func(m *tableMsg) { tcp(m); rule(m).Methods = []string{"GET"} }, "no method, path or role"},
		"TCP with a role":             {func(m *tableMsg) { tcp(m); rule(m).Roles = []string{"clerk"} }, "no method, path or role"},
		"two TCP services at a port": {func(m *tableMsg) {
			tcp(m)
			m.Services = append(m.Services, &serviceMsg{Name: "other", Port: "sql", TcpPort: 1, Accounts: []string{acmeOrders}})
		}, "at the same port"},
		"too long": {func(m *tableMsg) { rule(m).Position = strings.Repeat("a", 16<<20) }, "bytes"},
	} {
		m := w.orders(tokenOptional, webReads())
		tc.change(m)
		table, err := authz.DecodeTable(encode(t, m))
		if err == nil || table != nil {
			t.Errorf("%s: accepted", name)
		} else if !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v does not speak of %q", name, err, tc.text)
		}
	}
	for name, change := range map[string]func(*grantMsg){
		"no tenant":               func(g *grantMsg) { g.Tenant = "" },
		"the platform":            func(g *grantMsg) { g.Tenant = "platform" },
		"no tenant, nobody":       func(g *grantMsg) { g.Tenant, g.From = "", nil },
		"the platform's own":      func(g *grantMsg) { g.Tenant, g.From = "platform", []string{platformOps} },
		"no methods":              func(g *grantMsg) { g.Methods = nil },
		"another tenant's caller": func(g *grantMsg) { g.From = []string{globexWeb} },
		"the platform's caller":   func(g *grantMsg) { g.From = []string{platformOps} },
	} {
		g := billingGrant()
		change(g)
		if _, err := authz.DecodeTable(encode(t, w.billing(tokenNone, nil, g))); err == nil || !strings.Contains(err.Error(), "grant") {
			t.Errorf("grant, %s: %v", name, err)
		}
	}
	// The limit itself is allowed: position says nothing to the Table, so it fills it.
	m := w.orders(tokenOptional, webReads())
	rule(m).Position = strings.Repeat("a", 16<<20-proto.Size(m)-100)
	rule(m).Position += strings.Repeat("a", 16<<20-proto.Size(m))
	for n, ok := range map[int]bool{0: true, 1: false} {
		rule(m).Position += strings.Repeat("a", n)
		if _, err := authz.DecodeTable(encode(t, m)); (err == nil) != ok || proto.Size(m) != 16<<20+n {
			t.Errorf("%d bytes: %v", proto.Size(m), err)
		}
		rule(m).Position = rule(m).GetPosition()[n:]
	}
	// The largest port, and an account that stands twice, are no harm.
	m = w.orders(tokenOptional, webReads())
	tcp(m)
	orders(m).TcpPort, orders(m).Accounts = 1<<16-1, []string{acmeOrders, acmeOrders}
	if _, err := authz.DecodeTable(encode(t, m)); err != nil {
		t.Error(err)
	}
	if _, err := authz.DecodeTable([]byte{0xff}); err == nil {
		t.Error("garbage was accepted")
	}
	if _, err := authz.DecodeTable(nil); err == nil {
		t.Error("nothing was accepted")
	}
}

// A Table of a whole tenant is not made from bytes, so For is shown on the Table of one workload: what it encodes again.
func TestForIsDeterministicAndNarrow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	far := time.Now().Add(time.Hour).Unix()
	m := w.billing(
		tokenOptional, nil, billingGrant(),
		&grantMsg{Name: "h", Tenant: "globex", From: []string{globexWeb}, Methods: []string{"GET"}, Paths: []string{"/"}, NotAfter: far},
	)
	table := decode(t, m)
	id, _ := table.Workload()
	one, err := table.For(id, "v2")
	if err != nil {
		t.Fatal(err)
	}
	two, err := table.For(id, "v2")
	if err != nil || !bytes.Equal(one, two) {
		t.Error("the same Table is encoded in two ways")
	}
	again, err := authz.DecodeTable(one)
	if err != nil || again.SnapshotVersion() != "v2" {
		t.Fatalf("what For encodes is not accepted: %v", err)
	}
	var got agentv1alpha1.Table
	if err := proto.Unmarshal(one, &got); err != nil || len(got.GetBundles()) != 3 || len(got.GetIssuers()) != 2 {
		t.Errorf("%d bundles, %d issuers: %v", len(got.GetBundles()), len(got.GetIssuers()), err)
	}
	stranger := decode(t, w.base("globex", globexWeb))
	if foreign, _ := stranger.Workload(); !foreign.IsZero() {
		if _, err := table.For(foreign, "v2"); err == nil {
			t.Error("another tenant's workload gets a Table")
		}
	}
}

func FuzzDecodeTable(f *testing.F) {
	w := newWorld(f)
	f.Add(encode(f, w.orders(tokenRequired, webReads("clerk"))))
	f.Add(encode(f, w.billing(tokenOptional, nil, billingGrant())))
	f.Add(encode(f, w.base("globex", globexWeb)))
	db := w.db("reports-connects")
	f.Add(encode(f, db))
	classed := w.orders(tokenRequired, webReads())
	classed.Services[0].Sensitivity = &classMsg{Name: "secret", Acr: []string{"mfa"}, Amr: []string{"hwk"}, MaxAuthAgeSeconds: 300}
	f.Add(encode(f, classed))
	f.Add([]byte{0x0a, 0x00})
	f.Add([]byte("\xff\xff\xff\xff"))
	svid := w.globex.SVID(globexWeb).Cert.Raw
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := authz.DecodeTable(data)
		if err != nil {
			if table != nil {
				t.Error("a Table and an error")
			}
			return
		}
		id, ok := table.Workload()
		if !ok || !id.Tenant().Same(table.Tenant()) {
			t.Errorf("a Table of %v for %v", table.Tenant(), id)
		}
		for _, s := range table.Services() {
			if !s.RunBy(id) {
				t.Errorf("%s does not run %s", id, s.Name())
			}
			// Whatever the bytes say, nobody of another tenant gets into a tenant's service.
			in := authz.Input{Caller: table.Caller(svid, nil, w.now), Service: s, Method: "GET", Path: "/", Now: w.now}
			if s.TCP() {
				in.Method, in.Path = "", ""
			}
			if d := authz.Decide(table, in); d.Allowed() && !table.Tenant().IsPlatform() &&
				!in.Caller.Peer().ID().Tenant().Same(table.Tenant()) {
				t.Error("a call across tenants is allowed")
			}
		}
		encoded, err := table.For(id, table.SnapshotVersion())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := authz.DecodeTable(encoded); err != nil {
			t.Errorf("what was accepted is not when encoded again: %v", err)
		}
	})
}

// What stands in a Table stands in an error shortened to 80 bytes.
func TestDecodeTableShortensHostileText(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for n, want := range map[int]string{80: strings.Repeat("A", 80) + `"`, 81: strings.Repeat("A", 80) + `…"`} {
		m := w.orders(tokenOptional, webReads())
		m.Issuers[0].Name, m.Issuers[0].MaxLifetimeSeconds = strings.Repeat("A", n), -1
		if _, err := authz.DecodeTable(encode(t, m)); err == nil || !strings.Contains(err.Error(), `"`+want) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// An ID may be longer than a claim of a token may be, and be revoked all the same.
func TestDecodeTableRevokesLongIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.orders(tokenOptional, webReads())
	m.Bundles, m.Issuers = nil, nil
	m.Revocations = []*revocationMsg{{Name: "acme/r", Tenant: "acme", Workload: acmeWeb, NotAfter: 1}}
	long := strings.Repeat("."+strings.Repeat("a", 63), 3) + "." + strings.Repeat("b", 50)
	text := strings.ReplaceAll(prototext.Format(m), ".demo.test", long)
	m.Reset()
	if err := prototext.Unmarshal([]byte(text), m); err != nil {
		t.Fatal(err)
	}
	if id := m.GetRevocations()[0].GetWorkload(); len(id) <= 255 {
		t.Fatalf("%d bytes", len(id))
	}
	decode(t, m)
}

// A class of data can ask for no more than 30 days, a token issuer give no more than ten years.
func TestDecodeTableDurations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const day = 24 * 60 * 60
	for seconds, ok := range map[int64]bool{-1: false, 1: true, 30 * day: true, 30*day + 1: false, 1 << 62: false} {
		m := w.orders(tokenRequired, webReads())
		m.Services[0].Sensitivity = &classMsg{Name: "secret", MaxAuthAgeSeconds: seconds}
		if _, err := authz.DecodeTable(encode(t, m)); (err == nil) != ok {
			t.Errorf("maxAuthAge of %d s: %v", seconds, err)
		}
	}
	for seconds, ok := range map[int64]bool{-1: false, 1: true, 3650 * day: true, 3650*day + 1: false} {
		m := w.orders(tokenRequired, webReads())
		m.Issuers[0].MaxLifetimeSeconds = seconds
		if _, err := authz.DecodeTable(encode(t, m)); (err == nil) != ok {
			t.Errorf("maxLifetime of %d s: %v", seconds, err)
		}
	}
}

// An issuer of JWT-SVIDs names the tenant's workloads, as the mapping of the Table reads them.
func TestDecodeTableOfJWTSVIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.orders(tokenRequired, webReads())
	i := m.GetIssuers()[0]
	i.Format, i.Issuer, i.TenantClaim, i.RolesClaim = agentv1alpha1.TokenFormat_TOKEN_FORMAT_SVID, "", "", ""
	i.Jwks = bytes.Replace(i.GetJwks(), []byte(`"use":"sig"`), []byte(`"use":"jwt-svid"`), 1)
	table := decode(t, m)
	for subject, want := range map[string]string{acmeWeb: "acme", globexWeb: "", "alice": ""} {
		token := table.Token(w.tokenWith(t, "", "", w.now.Add(5*time.Minute), map[string]any{"sub": subject}), w.now)
		if got := token.Claims().Tenant().Name(); got != want {
			t.Errorf("%s is of %q, want %q", subject, got, want)
		}
	}
}

// Every byte in a method and in a rule's name, and the longest of both.
func TestDecodeTableNamesCompletely(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const capitals = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	const inner = capitals + "-_"
	accepts := func(change func(*ruleMsg)) bool {
		m := w.orders(tokenOptional, webReads())
		change(m.GetServices()[0].GetRules()[0])
		data, err := proto.Marshal(m)
		if err != nil {
			return false // no text
		}
		_, err = authz.DecodeTable(data)
		return err == nil
	}
	method := func(text string) bool { return accepts(func(r *ruleMsg) { r.Methods = []string{text} }) }
	name := func(text string) bool { return accepts(func(r *ruleMsg) { r.Name = text }) }
	for c := range 256 {
		b := string([]byte{byte(c)})
		if want := strings.Contains(capitals, b); method(b+"GET") != want {
			t.Errorf("a method that begins with %q: %v", b, !want)
		}
		if want := strings.Contains(inner, b); method("G"+b) != want {
			t.Errorf("a method with %q in it: %v", b, !want)
		}
		if want := c > ' ' && c <= '~'; name("a"+b) != want {
			t.Errorf("a name with %q in it: %v", b, !want)
		}
	}
	for n, ok := range map[int]bool{1: true, 32: true, 33: false} {
		if method(strings.Repeat("A", n)) != ok {
			t.Errorf("a method of %d characters: %v", n, !ok)
		}
	}
	for n, ok := range map[int]bool{0: false, 1: true, 200: true, 201: false} {
		if name(strings.Repeat("a", n)) != ok {
			t.Errorf("a name of %d characters: %v", n, !ok)
		}
	}
}
