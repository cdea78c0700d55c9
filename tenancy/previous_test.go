package tenancy_test

import (
	"strings"
	"testing"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// blamed builds and says whose documents must change.
func blamed(t *testing.T, in tenancy.Input) (*tenancy.Model, string) {
	t.Helper()
	m, problems := tenancy.Build(in)
	var owners []string
	for _, p := range problems {
		if p.Code != v1alpha1.CodeEndpointClaimed {
			t.Errorf("another problem:\n%s", p.Render())
		}
		owners = append(owners, p.Owner)
	}
	return m, strings.Join(owners, " ")
}

func TestWhoHoldsAnAddressKeepsIt(t *testing.T) {
	t.Parallel()
	files := tenancytest.TwoTenantsFiles(t)
	first := tenancytest.Model(t, files)
	with := func(edit edits, previous *tenancy.Model) tenancy.Input {
		in := input(t, edit.apply(t))
		in.Previous = previous
		return in
	}
	squat := func(endpoint string) string { return service("extra", called(endpoint)) }

	if _, got := blamed(t, with(edits{extra: squat("{address: 127.0.0.1, port: 20083}")}, first)); got != "acme" {
		t.Errorf("globex holds the address, and %q must change", got)
	}
	if _, got := blamed(t, with(edits{extra: squat("{address: 127.0.0.1, port: 20083}")}, nil)); got != "acme globex" {
		t.Errorf("nobody holds the address, and %q must change", got)
	}
	// Who gives an address up holds it no more.
	moved := "tenants/globex/orders.yaml: port: 20083"
	second, got := blamed(t, with(edits{moved: "port: 20093", extra: squat("{address: 127.0.0.1, port: 20083}")}, first))
	if got != "" {
		t.Fatalf("a free address is not given, %q must change", got)
	}
	if _, got := blamed(t, with(edits{extra: squat("{address: 127.0.0.1, port: 20083}")}, second)); got != "globex" {
		t.Errorf("acme holds the address now, and %q must change", got)
	}
	// A newcomer of the same tenant has no better claim than anybody's.
	if _, got := blamed(t, with(edits{extra: squat("{address: 127.0.0.1, port: 20081}")}, first)); got != "acme" {
		t.Errorf("acme/orders holds the address, and %q must change", got)
	}
	// The platform never yields to a tenant: a tenant that sits on an address cannot hold up the platform's changes.
	if _, got := blamed(t, with(edits{billing + ": port: 20080": "port: 20083"}, first)); got != "globex" {
		t.Errorf("the platform wants the address, and %q must change", got)
	}
	// Of the platform's services, who holds it keeps it.
	twin := strings.ReplaceAll(squat("{address: 127.0.0.1, port: 20080}"), "namespace: acme", "namespace: platform")
	if _, problems := tenancy.Build(with(edits{platform: twin}, first)); len(problems) != 1 || problems[0].File != platform {
		t.Errorf("problems: %v", problems)
	}
	// Three newcomers: none gets it, each is told.
	three := edits{
		extra: squat("{address: 10.9.9.9, port: 1}"), "tenants/globex/extra.yaml": strings.ReplaceAll(squat("{address: 10.9.9.9, port: 1}"), "acme", "globex"),
		"tenants/acme/extra2.yaml": strings.ReplaceAll(squat("{address: 10.9.9.9, port: 1}"), "extra", "extra2"),
	}
	if _, got := blamed(t, with(three, first)); got != "acme acme globex" {
		t.Errorf("%q must change", got)
	}
}

// TestProblemsOfOneNameNoOther gives one tenant everything wrong that touches the other, and looks for the other's names.
func TestProblemsOfOneNameNoOther(t *testing.T) {
	t.Parallel()
	files := edits{
		extra: service("extra", called("{address: 127.0.0.1, port: 20083}")) + "---\n" + service("sorders", "") + "---\n" + rules("secret-servic", rule) + "---\n" +
			strings.Replace(service("hq", ""), "namespace: acme", "namespace: globe", 1),
		"tenants/globex/secret.yaml":         strings.ReplaceAll(service("secret-service", ""), "acme", "globex"),
		tenants + ": namespaces: [globex]":   "namespaces: [globex, globes]",
		orders + ": {services: [web], roles": "{services: [secret-service], roles",
	}.apply(t)
	_, problems := tenancy.Build(input(t, files))
	told := 0
	for _, p := range problems {
		if p.Owner != "acme" {
			continue
		}
		told++
		all := p.Text + " " + p.Hint
		for _, secret := range []string{"globex", "globes", "tenants/globex", "secret.yaml"} {
			if strings.Contains(all, secret) {
				t.Errorf("%q is told to acme:\n%s", secret, p.Render())
			}
		}
		if strings.Contains(p.Hint, "secret-service") {
			t.Errorf("a service of another is suggested to acme:\n%s", p.Render())
		}
	}
	if told < 4 {
		t.Errorf("only %d problems were told to acme", told)
	}
}
