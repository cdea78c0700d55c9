package tenancy_test

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// input decodes a directory that may have problems, with roots for every trust domain that it names.
func input(t *testing.T, files map[string]string) tenancy.Input {
	t.Helper()
	in := tenancy.Input{Files: map[string][]byte{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if path.Ext(name) != ".yaml" {
			in.Files[name] = []byte(files[name])
			continue
		}
		docs, _ := v1alpha1.Decode(v1alpha1.File{Path: name, Data: []byte(files[name])})
		in.Documents = append(in.Documents, docs...)
	}
	in.Bundles = tenancytest.Bundles(t, tenancy.TrustDomains(in.Documents)...)
	return in
}

// edits change the files of the example: a text for "path: old" replaces old in that file, a text for "path" is the file.
type edits map[string]string

func (e edits) apply(t *testing.T) map[string]string {
	t.Helper()
	files := tenancytest.TwoTenantsFiles(t)
	for _, where := range slices.Sorted(maps.Keys(e)) {
		name, old, replace := strings.Cut(where, ": ")
		switch {
		case !replace:
			files[name] = e[where]
		case !strings.Contains(files[name], old):
			t.Fatalf("%s does not hold %q", name, old)
		default:
			files[name] = strings.Replace(files[name], old, e[where], 1)
		}
	}
	return files
}

const (
	tenants  = "platform/tenants.yaml"
	issuers  = "platform/token-issuers.yaml"
	billing  = "platform/billing.yaml"
	orders   = "tenants/acme/orders.yaml"
	web      = "tenants/acme/web.yaml"
	extra    = "tenants/acme/extra.yaml"
	mesh     = "mesh.yaml"
	platform = "platform/extra.yaml"
)

func service(name, spec string) string {
	return "kind: Service\nmetadata: {name: " + name + "}\nspec:\n  namespace: acme\n  serviceAccounts: [" + name + "]\n" + spec
}

func called(endpoint string) string {
	return "  ports: [{name: http, port: 8080, protocol: HTTP, appPort: 7000}]\n  endpoints: [" + endpoint + "]\n"
}

func rules(service, rule string) string {
	return "kind: AccessPolicy\nmetadata: {name: extra}\nspec:\n  service: " + service + "\n  rules:\n" + rule
}

const rule = "    - {name: r, from: {services: [web]}, to: {methods: [GET], paths: [/]}}\n"

// platformDomain is the end of the example's Mesh, after which classes of sensitivity can stand; the first in line 14.
const platformDomain = ": platformTrustDomain: platform.demo.test"

func classes(lines ...string) string {
	return "platformTrustDomain: platform.demo.test\n  sensitivity:\n    " + strings.Join(lines, "\n    ")
}

var sensitive = classes(`open: {}`, `known: {token: optional}`, `secret: {token: required, acr: [mfa, "1"], amr: [hwk], maxAuthAge: 5m}`)

func TestProblems(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		edit edits
		want []string // owner code file:line:col
		says string   // in the first problem
	}{
		{"none", edits{}, nil, ""},

		{"no Mesh", edits{mesh: "# nothing\n"}, []string{"platform RF2001 mesh.yaml:0:0"}, "there is no Mesh"},
		{
			"two of them",
			edits{platform: "kind: Mesh\nmetadata: {name: other}\nspec: {identities: [{trustDomain: \"{tenant}.x\", path: \"/{serviceAccount}\"}], platformTrustDomain: p}\n"},
			[]string{"platform RF2001 platform/extra.yaml:1:7"},
			"another Mesh at mesh.yaml:3:7",
		},
		{"platform trust domain", edits{mesh + ": platform.demo.test": "Platform.demo.test"}, []string{"platform RF2008 mesh.yaml:12:24"}, "lower-case"},
		{"rootLife", edits{mesh + ": platformTrustDomain:": "rootLife: 90d\n  platformTrustDomain:", tenants + ": namespaces: [acme]": "namespaces: [acme]\n  rootLife: 0s"}, nil, ""},
		{"rootLife too short", edits{mesh + ": platformTrustDomain:": "rootLife: 23h\n  platformTrustDomain:"}, []string{"platform RF1010 mesh.yaml:12:13"}, "between 1d and 1825d"},
		{"rootLife too long", edits{tenants + ": namespaces: [acme]": "namespaces: [acme]\n  rootLife: 1826d"}, []string{"platform RF1010 platform/tenants.yaml:9:13"}, "90d"},
		{"rootLife below nothing", edits{tenants + ": namespaces: [acme]": "namespaces: [acme]\n  rootLife: -90h"}, []string{"platform RF1010 platform/tenants.yaml:9:13"}, "90d"},
		{"rules without tenant", edits{mesh + ": {tenant}.demo.test": "demo.test"}, []string{"platform RF2008 mesh.yaml:9:7"}, "{tenant}"},
		{
			"several wrong rules",
			edits{mesh + ": {tenant}.demo.test\"\n      path: /ns/{namespace}/sa/{serviceAccount}": "{tenant}.demo.test\"\n      path: x\n    - {trustDomain: a, path: /b}"},
			[]string{"platform RF2008 mesh.yaml:9:7", "platform RF2008 mesh.yaml:11:7"},
			"",
		},
		{
			"a tenant in the platform's trust domain",
			edits{mesh + ": \"{tenant}.demo.test\"": "\"{tenant}.demo\"", mesh + ": platform.demo.test": "acme.demo"},
			[]string{"platform RF2009 platform/tenants.yaml:5:18"},
			"platform's trust domain",
		},
		{
			"a name too long for a trust domain",
			edits{mesh + ": \"{tenant}.demo.test\"": "\"{tenant}." + strings.Repeat("a123456789.", 23) + "test\""},
			[]string{"platform RF2009 platform/tenants.yaml:5:18", "platform RF2009 platform/tenants.yaml:12:18"},
			"255",
		},

		{"document twice", edits{extra: service("web", "")}, []string{"acme RF2002 tenants/acme/web.yaml:4:18"}, `Service "web" is written twice, first at tenants/acme/extra.yaml:2:18`},
		{"the same name at two owners", edits{"tenants/globex/extra.yaml": strings.ReplaceAll(service("billing", ""), "acme", "globex")}, nil, ""},
		{"name", edits{web + ": {name: web}": "{name: We_b}"}, []string{"acme RF2003 tenants/acme/web.yaml:4:18", "acme RF2007 tenants/acme/orders.yaml:20:25", "acme RF2007 tenants/acme/orders.yaml:23:25"}, ""},
		{"tenant called platform", edits{tenants + ": {name: globex}": "{name: platform}"}, []string{
			"platform RF2004 platform/tenants.yaml:12:18", "platform RF2007 platform/token-issuers.yaml:22:13",
			"globex RF2006 tenants/globex/orders.yaml:2:1",
		}, ""},
		{"directory of no tenant", edits{"tenants/initech/a.yaml": service("web", ""), "tenants/initech/b.yaml": service("web2", "")}, []string{"initech RF2006 tenants/initech/a.yaml:1:1"}, "no Tenant document"},
		{"directory with a bad name", edits{"tenants/Acme/a.yaml": service("web", "")}, []string{"Acme RF2006 tenants/Acme/a.yaml:1:1"}, ""},
		{"tenant with a bad name", edits{tenants + ": {name: globex}": "{name: Globex}"}, []string{
			"platform RF2003 platform/tenants.yaml:12:18", "platform RF2007 platform/token-issuers.yaml:22:13", "globex RF2006 tenants/globex/orders.yaml:2:1",
		}, ""},

		{
			"the platform's kinds",
			edits{extra: "kind: Grant\nmetadata: {name: g}\nspec: {tenant: acme, service: billing, to: {methods: [GET], paths: [/**]}, notAfter: \"2036-01-01T00:00:00Z\"}\n---\n" +
				"kind: Tenant\nmetadata: {name: evil}\nspec: {namespaces: [globex]}\n---\nkind: Mesh\nmetadata: {name: demo}\nspec: {identities: [{trustDomain: a, path: /b}], platformTrustDomain: p}\n---\n" +
				"kind: TokenIssuer\nmetadata: {name: i}\nspec: {issuer: \"https://i\", jwks: {file: f}, audiences: [a], tenants: [globex]}\n"},
			[]string{"acme RF2005 tenants/acme/extra.yaml:1:7", "acme RF2005 tenants/acme/extra.yaml:5:7", "acme RF2005 tenants/acme/extra.yaml:9:7", "acme RF2005 tenants/acme/extra.yaml:13:7"},
			"kind Grant is the platform's to write",
		},
		{"another tenant's namespace", edits{web + ": namespace: acme": "namespace: globex"}, []string{"acme RF2005 tenants/acme/web.yaml:6:14"}, `namespace "globex" is none of this tenant's`},
		{"a namespace of nobody gets the same answer", edits{web + ": namespace: acme": "namespace: glob"}, []string{"acme RF2005 tenants/acme/web.yaml:6:14"}, `namespace "glob" is none of this tenant's`},
		{"namespace mistyped", edits{web + ": namespace: acme": "namespace: acmee"}, []string{"acme RF2005 tenants/acme/web.yaml:6:14"}, `did you mean "acme"?`},
		{"the platform's namespace", edits{web + ": namespace: acme": "namespace: platform"}, []string{"acme RF2004 tenants/acme/web.yaml:6:14"}, ""},
		{"the control plane's namespace", edits{web + ": namespace: acme": "namespace: ringfence-system", billing + ": namespace: platform": "namespace: ringfence-system", tenants + ": [acme]": "[acme, ringfence-system, platform]"}, []string{
			"platform RF2004 platform/billing.yaml:6:14", "platform RF2004 platform/tenants.yaml:8:22", "platform RF2004 platform/tenants.yaml:8:40", "acme RF2004 tenants/acme/web.yaml:6:14",
		}, ""},
		{"namespace of two tenants", edits{tenants + ": [globex]": "[globex, acme, globex]"}, []string{"platform RF2010 platform/tenants.yaml:14:24", "platform RF2018 platform/tenants.yaml:14:30"}, "already, at platform/tenants.yaml:8:16"},
		{"a shared service in a tenant's namespace", edits{billing + ": namespace: platform": "namespace: acme"}, []string{"platform RF2010 platform/billing.yaml:6:14"}, ""},
		{"names outside the grammar", edits{web + ": namespace: acme": "namespace: a_b", web + ": [web]": "[Web, web, web]", tenants + ": [globex]": "[\"\"]"}, []string{
			"platform RF2003 platform/tenants.yaml:14:16", "acme RF2003 tenants/acme/web.yaml:6:14", "acme RF2003 tenants/acme/web.yaml:7:21", "acme RF2018 tenants/acme/web.yaml:7:31",
			"globex RF2005 tenants/globex/orders.yaml:6:14", "globex RF2005 tenants/globex/web.yaml:5:14",
		}, ""},
		{
			"two accounts of one identity",
			edits{mesh + ": /ns/{namespace}/sa/{serviceAccount}": "/sa/{serviceAccount}", tenants + ": [acme]": "[acme, acme2]", extra: strings.Replace(service("web2", ""), "acme\n  serviceAccounts: [web2]", "acme2\n  serviceAccounts: [web]", 1)},
			[]string{"acme RF2009 tenants/acme/extra.yaml:4:14"},
			"same SPIFFE ID",
		},
		{"a path that is too long", edits{mesh + ": /ns/{namespace}": "/" + strings.Repeat("a", 1024) + "/{namespace}"}, []string{"platform RF2008 mesh.yaml:10:13"}, "1024"},
		{"rules that read an identity otherwise", edits{mesh + ": /ns/{namespace}/sa/{serviceAccount}": "/a/{namespace}/{serviceAccount}\n    - {trustDomain: \"{tenant}.demo.test\", path: \"/b/{serviceAccount}\"}"}, nil, ""},

		{"port numbers", edits{web + ": 20182": "0", orders + ": port: 8080": "port: 65536", orders + ": port: 20081": "port: -1", orders + ": appPort: 20281": "appPort: 99999999999"}, []string{
			"acme RF2012 tenants/acme/orders.yaml:8:30", "acme RF2012 tenants/acme/orders.yaml:8:62", "acme RF2012 tenants/acme/orders.yaml:9:42", "acme RF2012 tenants/acme/web.yaml:8:20",
		}, "1 to 65535"},
		{"several ports", edits{orders + ": appPort: 20281}": "appPort: 20281}, {name: b, port: 1, protocol: HTTP, appPort: 2}"}, []string{"acme RF1013 tenants/acme/orders.yaml:8:69"}, "not built yet"},
		{
			"addresses",
			edits{extra: service("extra", called(`{address: localhost, port: 1}, {address: 0.0.0.0, port: 1}, {address: 0.1.2.3, port: 1}, {address: "::", port: 1}, {address: 224.0.0.1, port: 1}, {address: "ff02::1", port: 1}, {address: 169.254.169.254, port: 1}, {address: "fe80::1", port: 1}, {address: "fe80::1%eth0", port: 1}, {address: "::ffff:127.0.0.1", port: 1}, {address: 255.255.255.255, port: 1}, {address: "[::1]", port: 1}, {address: 10.0.0.1/8, port: 1}, {address: "10.0.0.1:80", port: 1}`))},
			[]string{
				"acme RF2013 tenants/acme/extra.yaml:7:25", "acme RF2013 tenants/acme/extra.yaml:7:56", "acme RF2013 tenants/acme/extra.yaml:7:85", "acme RF2013 tenants/acme/extra.yaml:7:114",
				"acme RF2013 tenants/acme/extra.yaml:7:140", "acme RF2013 tenants/acme/extra.yaml:7:171", "acme RF2013 tenants/acme/extra.yaml:7:202", "acme RF2013 tenants/acme/extra.yaml:7:239",
				"acme RF2013 tenants/acme/extra.yaml:7:270", "acme RF2013 tenants/acme/extra.yaml:7:306", "acme RF2013 tenants/acme/extra.yaml:7:346", "acme RF2013 tenants/acme/extra.yaml:7:383",
				"acme RF2013 tenants/acme/extra.yaml:7:412", "acme RF2013 tenants/acme/extra.yaml:7:444",
			},
			"10.0.0.7",
		},
		{
			"endpoint twice, and of another port",
			edits{extra: service("extra", called("{address: 10.0.0.1, port: 1}, {address: 10.0.0.1, port: 1}, {address: 10.0.0.2, port: 2}"))},
			[]string{"acme RF2018 tenants/acme/extra.yaml:7:45", "acme RF2015 tenants/acme/extra.yaml:7:101"},
			"",
		},
		{"port without endpoints", edits{orders + ": endpoints: [{address: 127.0.0.1, port: 20081}]": "# none"}, []string{"acme RF2016 tenants/acme/orders.yaml:8:11"}, "has endpoints"},
		{"endpoints without port", edits{extra: service("extra", "  endpoints: [{address: 10.0.0.1, port: 1}]\n")}, []string{"acme RF2016 tenants/acme/extra.yaml:6:15"}, "has a port"},
		{"name of a port", edits{orders + ": {name: http": "{name: HTTP"}, []string{"acme RF2003 tenants/acme/orders.yaml:8:18"}, ""},
		{
			"ports of one service",
			edits{extra: service("extra", called("{address: 127.0.0.1, port: 7000}")+"  outbound: {port: 7000}\n")},
			[]string{"acme RF2015 tenants/acme/extra.yaml:6:61", "acme RF2015 tenants/acme/extra.yaml:8:20"},
			"port 7000 is also the endpoint of service extra",
		},
		{
			"ports of one workload",
			edits{extra: strings.Replace(service("extra", called("{address: 10.0.0.1, port: 7001}, {address: 10.0.0.2, port: 7001}")+"  outbound: {port: 20182}\n"), "[extra]", "[extra, web]", 1)},
			[]string{"acme RF2015 tenants/acme/web.yaml:8:20"},
			"outbound port of service extra",
		},
		{"one application port beyond loopback", edits{extra: service("extra", called("{address: 10.0.0.1, port: 7000}"))}, nil, ""},
		{"token without ports", edits{web + ": [web]": "[web]\n  token: required"}, []string{"acme RF2017 tenants/acme/web.yaml:8:10"}, "no effect"},
		{"forwardToken at an own service", edits{orders + ": token: required": "token: required\n  forwardToken: false"}, []string{"acme RF2017 tenants/acme/orders.yaml:8:17"}, "shared services"},
		{"forwardToken without token", edits{billing + ": token: optional": "forwardToken: true"}, []string{"platform RF2017 platform/billing.yaml:10:17"}, ""},

		{"class of a service", edits{mesh + platformDomain: sensitive, orders + ": token: required": "sensitivity: secret", billing + ": token: optional": "sensitivity: open"}, nil, ""},
		{"service that says more than its class", edits{mesh + platformDomain: sensitive, orders + ": token: required": "token: required\n  sensitivity: open"}, nil, ""},
		{
			"service that says less than its class",
			edits{mesh + platformDomain: sensitive, orders + ": token: required": "token: optional\n  sensitivity: secret", billing + ": token: optional": "token: none\n  sensitivity: known"},
			[]string{"platform RF2040 platform/billing.yaml:10:10", "acme RF2040 tenants/acme/orders.yaml:7:10"},
			"token: none is less than class known demands",
		},
		{"class mistyped", edits{mesh + platformDomain: sensitive, orders + ": token: required": "sensitivity: sceret"}, []string{"acme RF2007 tenants/acme/orders.yaml:7:16"}, `did you mean "secret"?`},
		{"class without classes", edits{orders + ": token: required": "sensitivity: secret"}, []string{"acme RF2007 tenants/acme/orders.yaml:7:16"}, "no class of sensitivity"},
		{
			"routes of classes", edits{
				mesh + platformDomain:        sensitive,
				orders + ": token: required": `routes: [{paths: ["/a/**"], sensitivity: secret}, {methods: [GET], paths: ["/b"], sensitivity: open}]`,
			}, nil, "",
		},
		{"route of a mere caller", edits{mesh + platformDomain: sensitive, web + ": [web]": "[web]\n  routes: [{paths: [/a], sensitivity: open}]"}, []string{"acme RF2017 tenants/acme/web.yaml:8:12"}, "no effect"},
		{"route of an unknown class", edits{mesh + platformDomain: sensitive, orders + ": token: required": "token: required\n  routes: [{paths: [/a], sensitivity: sceret}]"}, []string{"acme RF2007 tenants/acme/orders.yaml:8:39"}, `did you mean "secret"?`},
		{"route whose path is none", edits{mesh + platformDomain: sensitive, orders + ": token: required": "token: required\n  routes: [{methods: [get], paths: [a], sensitivity: open}]"}, []string{"acme RF2019 tenants/acme/orders.yaml:8:23", "acme RF2020 tenants/acme/orders.yaml:8:37"}, "it starts with a slash"},
		{"route for which the service reads too little", edits{mesh + platformDomain: sensitive, billing + ": token: optional": "token: none\n  routes: [{paths: [/a], sensitivity: secret}]"}, []string{"platform RF2040 platform/billing.yaml:10:10"}, "write token: optional"},
		{"route that no token meets", edits{mesh + platformDomain: classes(`one: {token: required, acr: [a]}`, `two: {token: required, acr: [b]}`), orders + ": token: required": "sensitivity: one\n  routes: [{paths: [/a], sensitivity: two}]"}, []string{"acme RF2040 tenants/acme/orders.yaml:8:39"}, "none meets both"},
		{"class of a mere caller", edits{mesh + platformDomain: sensitive, web + ": [web]": "[web]\n  sensitivity: open"}, []string{"acme RF2017 tenants/acme/web.yaml:8:16"}, "no effect"},
		{
			"classes that cannot be met",
			edits{mesh + platformDomain: classes(
				`a: {acr: [mfa]}`, `b: {token: optional, amr: [hwk]}`, `c: {maxAuthAge: 1s}`, `Dd: {}`, `e: {token: required, acr: ["a b", "", "\"", "a\\b", å, x, x]}`,
				`f: {token: required, maxAuthAge: 0s}`, `g: {token: required, maxAuthAge: 1500ms}`, `h: {token: required, maxAuthAge: 721h}`, `i: {token: required, maxAuthAge: -1s}`,
				`j: {token: required, amr: [a, b, c, d, e, f, g, h, i]}`, `k: {token: required, acr: [`+strings.Repeat("a", 129)+`]}`,
			)},
			[]string{
				"platform RF2040 mesh.yaml:14:8", "platform RF2040 mesh.yaml:15:8", "platform RF2040 mesh.yaml:16:8", "platform RF2003 mesh.yaml:17:5",
				"platform RF2040 mesh.yaml:18:32", "platform RF2040 mesh.yaml:18:39", "platform RF2040 mesh.yaml:18:43", "platform RF2040 mesh.yaml:18:49",
				"platform RF2040 mesh.yaml:18:57", "platform RF2018 mesh.yaml:18:63", "platform RF2040 mesh.yaml:19:38", "platform RF2040 mesh.yaml:20:38",
				"platform RF2040 mesh.yaml:21:38", "platform RF2040 mesh.yaml:22:38", "platform RF2040 mesh.yaml:23:56", "platform RF2040 mesh.yaml:24:32",
			},
			"the class must require one",
		},
		{
			"a class with problems is nobody else's",
			edits{mesh + platformDomain: classes(`secret: {acr: [mfa]}`), orders + ": token: required": "sensitivity: secret"},
			[]string{"platform RF2040 mesh.yaml:14:13"},
			"",
		},
		{
			"a Mesh with problems is nobody else's",
			edits{mesh + platformDomain: classes(`secret: {tokn: required}`), orders + ": token: required": "sensitivity: secret"},
			[]string{"platform RF1008 mesh.yaml:14:14"},
			"",
		},

		{
			"address of another tenant",
			edits{extra: service("extra", called("{address: 127.0.0.1, port: 20083}"))},
			[]string{"acme RF2014 tenants/acme/extra.yaml:7:15", "globex RF2014 tenants/globex/orders.yaml:10:15"},
			"claimed by another service",
		},
		{"address of the platform", edits{extra: service("extra", called("{address: 127.0.0.1, port: 20080}"))}, []string{"acme RF2014 tenants/acme/extra.yaml:7:15"}, ""},
		{
			"application port of another tenant on one machine",
			edits{orders + ": appPort: 20281": "appPort: 20283"},
			[]string{"acme RF2014 tenants/acme/orders.yaml:8:61", "globex RF2014 tenants/globex/orders.yaml:9:61"},
			"",
		},
		{
			"outbound port of another tenant on one machine",
			edits{orders + ": port: 20181": "port: 20283"},
			[]string{"acme RF2014 tenants/acme/orders.yaml:10:20", "globex RF2014 tenants/globex/orders.yaml:9:61"},
			"",
		},
		{
			"address of two of the platform's",
			edits{platform: strings.ReplaceAll(service("extra", called("{address: 127.0.0.1, port: 20080}")), "namespace: acme", "namespace: platform")},
			[]string{"platform RF2014 platform/billing.yaml:12:15", "platform RF2014 platform/extra.yaml:7:15"},
			"",
		},

		{"issuer's URL", edits{issuers + ": https://idp.acme.example.com ": "http://idp.acme.example.com "}, []string{"platform RF2023 platform/token-issuers.yaml:8:11"}, "https URL"},
		{"issuer's URL with more", edits{issuers + ": https://idp.acme.example.com ": "\"https://u@idp.example.com?x#\" "}, []string{"platform RF2023 platform/token-issuers.yaml:8:11"}, ""},
		{"issuer without host", edits{issuers + ": https://idp.acme.example.com ": "\"https://:443/x\" "}, []string{"platform RF2023 platform/token-issuers.yaml:8:11"}, ""},
		{
			"issuer twice for a tenant",
			edits{issuers + ": https://idp.globex.example.com": "https://idp.acme.example.com", issuers + ": tenants: [globex]": "tenants: [globex, acme]"},
			[]string{"platform RF2024 platform/token-issuers.yaml:19:11"},
			"speaks of tenant acme too",
		},
		{"issuer twice for different tenants", edits{issuers + ": https://idp.globex.example.com": "https://idp.acme.example.com"}, nil, ""},
		{"tenants of an issuer", edits{issuers + ": tenants: [acme]": "tenants: [acme, acmee, acme, platform]"}, []string{
			"platform RF2007 platform/token-issuers.yaml:11:19", "platform RF2018 platform/token-issuers.yaml:11:26", "platform RF2004 platform/token-issuers.yaml:11:32",
		}, `did you mean "acme"?`},
		{"no such file", edits{issuers + ": acme-jwks.json": "acme-jwk.json"}, []string{"platform RF2007 platform/token-issuers.yaml:9:16"}, `did you mean "platform/acme-jwks.json"?`},
		{
			"file elsewhere",
			edits{issuers + ": acme-jwks.json": "../tenants/acme/keys.json", issuers + ": globex-jwks.json": "/etc/passwd", "tenants/acme/keys.json": "{}"},
			[]string{"platform RF2007 platform/token-issuers.yaml:9:16", "platform RF2007 platform/token-issuers.yaml:20:16"},
			"beside its document",
		},
		{"private key", edits{"platform/acme-jwks.json: \"kty\": \"EC\",": "\"kty\": \"EC\", \"d\": \"AAAA\","}, []string{"platform RF2025 platform/token-issuers.yaml:9:16"}, "private"},
		{"symmetric key", edits{"platform/acme-jwks.json": `{"keys": [{"kty": "oct", "k": "AAAA"}]}`}, []string{"platform RF2025 platform/token-issuers.yaml:9:16"}, ""},
		{"empty key set", edits{"platform/acme-jwks.json": ""}, []string{"platform RF2025 platform/token-issuers.yaml:9:16"}, "empty"},
		{"keys in a file and at a URI", edits{issuers + ": {file: acme-jwks.json}": "{file: acme-jwks.json, uri: \"https://idp.acme.example.com/jwks\"}"}, []string{"platform RF2025 platform/token-issuers.yaml:9:9"}, "either"},
		{"keys nowhere", edits{issuers + ": {file: acme-jwks.json}": "{}"}, []string{"platform RF2025 platform/token-issuers.yaml:9:9"}, "either"},
		{"keys at a URI without TLS", edits{issuers + ": {file: acme-jwks.json}": "{uri: \"http://idp.acme.example.com/jwks\"}"}, []string{"platform RF2025 platform/token-issuers.yaml:9:15"}, "https"},
		{"keys at a URI with a user", edits{issuers + ": {file: acme-jwks.json}": "{uri: \"https://u@idp.acme.example.com/jwks\"}"}, []string{"platform RF2025 platform/token-issuers.yaml:9:15"}, "user"},
		{"keys at no host", edits{issuers + ": {file: acme-jwks.json}": "{uri: \"https:///jwks\"}"}, []string{"platform RF2025 platform/token-issuers.yaml:9:15"}, ""},
		{"no issuer", edits{issuers + ": issuer: https://idp.acme.example.com ": ""}, []string{"platform RF2023 platform/token-issuers.yaml:9:3"}, "no issuer"},
		{
			"JWT-SVIDs with what only users have",
			edits{issuers + ": issuer: https://idp.acme.example.com ": "format: jwt-svid\n  issuer: https://idp.acme.example.com ", issuers + ": tenants: [acme] ": "tenants: [acme, globex] "},
			[]string{"platform RF2023 platform/token-issuers.yaml:9:11", "platform RF2024 platform/token-issuers.yaml:12:19", "platform RF2026 platform/token-issuers.yaml:13:11"},
			"iss is not read",
		},
		{"no key set", edits{"platform/acme-jwks.json": "no"}, []string{"platform RF2025 platform/token-issuers.yaml:9:16"}, ""},
		{"claims", edits{issuers + ": {tenant: tenant, roles: roles}": "{tenant: \"a b\", roles: \"\"}", issuers + ": [orders-api]": "[\"a b\", x, x]"}, []string{
			"platform RF2026 platform/token-issuers.yaml:10:15", "platform RF2018 platform/token-issuers.yaml:10:25", "platform RF2026 platform/token-issuers.yaml:12:20", "platform RF2026 platform/token-issuers.yaml:12:34",
		}, ""},
		{"one claim for both", edits{issuers + ": {tenant: tenant, roles: roles}": "{tenant: roles}"}, []string{"platform RF2026 platform/token-issuers.yaml:12:11"}, ""},
		{"lifetimes", edits{issuers + ": 15m\n---": "25h\n---", issuers + ": maxLifetime: 15m": "maxLifetime: -1s"}, []string{"platform RF2026 platform/token-issuers.yaml:13:16", "platform RF2026 platform/token-issuers.yaml:24:16"}, "24h"},
		{"what need not be written", edits{issuers + ": claims: {tenant: tenant, roles: roles}\n  maxLifetime: 15m": "# defaults"}, nil, ""},

		{"policy for nobody's service", edits{orders + ": service: orders": "service: order"}, []string{"acme RF2007 tenants/acme/orders.yaml:17:12"}, `did you mean "orders"?`},
		{"policy for another tenant's service", edits{orders + ": service: orders": "service: globex/orders"}, []string{"acme RF2005 tenants/acme/orders.yaml:17:12"}, "own owner"},
		{"policy for what nobody has gets the same answer", edits{orders + ": service: orders": "service: globex/none"}, []string{"acme RF2005 tenants/acme/orders.yaml:17:12"}, "own owner"},
		{"policy for a shared service", edits{orders + ": service: orders": "service: platform/billing"}, []string{"acme RF2005 tenants/acme/orders.yaml:17:12"}, ""},
		{"policy for a qualified service", edits{orders + ": service: orders": "service: acme/orders"}, []string{"acme RF2003 tenants/acme/orders.yaml:17:12"}, "without a tenant"},
		{"policy for a mere caller", edits{extra: rules("web", rule)}, []string{"acme RF2022 tenants/acme/extra.yaml:4:12"}, "nobody calls it"},
		{"rule from a shared service", edits{orders + ": {services: [web], roles: [manager]}": "{services: [platform/billing]}"}, []string{"acme RF1013 tenants/acme/orders.yaml:23:25"}, "not built yet"},
		{"rule from another tenant", edits{orders + ": {services: [web], roles: [manager]}": "{services: [globex/web, web, web]}"}, []string{"acme RF2005 tenants/acme/orders.yaml:23:25", "acme RF2018 tenants/acme/orders.yaml:23:42"}, ""},
		{"rule from what is no name", edits{orders + ": {services: [web], roles: [manager]}": "{services: [\"*\"]}"}, []string{"acme RF2003 tenants/acme/orders.yaml:23:25"}, ""},
		{"rule twice", edits{orders + ": managers-order": "web-reads"}, []string{"acme RF2018 tenants/acme/orders.yaml:22:13"}, ""},
		{"names of rules and roles", edits{orders + ": name: managers-order": "name: Managers", orders + ": roles: [clerk, manager]": "roles: [Clerk, manager, manager]"}, []string{
			"acme RF2003 tenants/acme/orders.yaml:20:39", "acme RF2018 tenants/acme/orders.yaml:20:55", "acme RF2003 tenants/acme/orders.yaml:22:13",
		}, ""},
		{"roles without token", edits{orders + ": token: required": "token: none"}, []string{"acme RF2021 tenants/acme/orders.yaml:20:39", "acme RF2021 tenants/acme/orders.yaml:23:39"}, "token: optional"},
		{"methods", edits{orders + ": methods: [POST]": "methods: [post, CONNECT, \"*\", \"\", POST, POST, M-SEARCH, -X, " + strings.Repeat("A", 33) + "]"}, []string{
			"acme RF2019 tenants/acme/orders.yaml:24:22", "acme RF2019 tenants/acme/orders.yaml:24:28", "acme RF2019 tenants/acme/orders.yaml:24:37", "acme RF2019 tenants/acme/orders.yaml:24:42",
			"acme RF2018 tenants/acme/orders.yaml:24:52", "acme RF2019 tenants/acme/orders.yaml:24:68", "acme RF2019 tenants/acme/orders.yaml:24:72",
		}, `did you mean "POST"?`},
		{"paths", edits{orders + ": paths: [/orders]}": "paths: [orders, /a//b, /a/../b, /a%2fb, \"/a?b\", /**/a, /a*, /a, /a]}"}, []string{
			"acme RF2020 tenants/acme/orders.yaml:24:37", "acme RF2020 tenants/acme/orders.yaml:24:45", "acme RF2020 tenants/acme/orders.yaml:24:52", "acme RF2020 tenants/acme/orders.yaml:24:61",
			"acme RF2020 tenants/acme/orders.yaml:24:69", "acme RF2020 tenants/acme/orders.yaml:24:77", "acme RF2020 tenants/acme/orders.yaml:24:84", "acme RF2018 tenants/acme/orders.yaml:24:93",
		}, ""},

		{"grant to nobody", edits{billing + ": tenant: acme": "tenant: acne"}, []string{"platform RF2007 platform/billing.yaml:19:11"}, `did you mean "acme"?`},
		{"grant to the platform", edits{billing + ": tenant: acme": "tenant: platform"}, []string{"platform RF2004 platform/billing.yaml:19:11"}, ""},
		{"grant on nothing", edits{billing + ": service: billing": "service: bilink"}, []string{"platform RF2007 platform/billing.yaml:20:12"}, `did you mean "billing"?`},
		{"grant on a tenant's service", edits{billing + ": service: billing": "service: acme/orders"}, []string{"platform RF2005 platform/billing.yaml:20:12"}, ""},
		{"grant on a rule's shared service", edits{billing + ": service: billing": "service: platform/billing"}, []string{"platform RF2003 platform/billing.yaml:20:12"}, ""},
		{"grant on what nobody calls", edits{billing + ": service: billing": "service: tool", platform: strings.ReplaceAll(service("tool", ""), "namespace: acme", "namespace: platform")}, []string{"platform RF2022 platform/billing.yaml:20:12"}, ""},
		{"what a grant allows", edits{billing + ": [GET, POST]": "[get]", billing + ": [/invoices, \"/invoices/*\"]": "[\"\"]"}, []string{"platform RF2019 platform/billing.yaml:22:15", "platform RF2020 platform/billing.yaml:23:13"}, ""},

		{"broken documents are told once, and what names them is not", edits{orders + ": namespace: acme": "namespace: 1", web + ": outbound": "outbond", tenants + ": namespaces: [globex]": "namespaces: globex"}, []string{
			"platform RF1007 platform/tenants.yaml:14:15", "acme RF1007 tenants/acme/orders.yaml:5:14", "acme RF1008 tenants/acme/web.yaml:8:3",
		}, ""},
		{"broken policy, grant and issuer", edits{orders + ": rules:": "rule:", billing + ": tenant: acme": "tenent: acme", issuers + ": audiences: [orders-api]": "audiences: []"}, []string{
			"platform RF1008 platform/billing.yaml:19:3", "platform RF1010 platform/token-issuers.yaml:10:14",
			"acme RF1008 tenants/acme/orders.yaml:18:3",
		}, ""},
		{"broken Mesh", edits{mesh + ": platformTrustDomain: ": "platformTrustDomein: "}, []string{"platform RF1008 mesh.yaml:12:3"}, ""},
		{
			"nameless documents",
			edits{extra: "kind: Service\nmetadata: {}\nspec: {namespace: acme, serviceAccounts: [x]}\n", platform: "kind: Tenant\nmetadata: {}\nspec: {namespaces: [x]}\n"},
			[]string{"platform RF1009 platform/extra.yaml:2:11", "acme RF1009 tenants/acme/extra.yaml:2:11"},
			"",
		},
		{"no directory but the platform's", edits{"tenants/acme/orders.yaml": "", "tenants/acme/web.yaml": "", "tenants/globex/orders.yaml": "", "tenants/globex/web.yaml": ""}, nil, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m, problems := tenancy.Build(input(t, c.edit.apply(t)))
			if (m == nil) != (len(problems) > 0) {
				t.Errorf("a model: %t, problems: %d", m != nil, len(problems))
			}
			var got []string
			for _, p := range problems {
				got = append(got, fmt.Sprintf("%s %s %s:%d:%d", p.Owner, p.Code, p.File, p.Line, p.Col))
			}
			slices.Sort(got)
			want := slices.Sorted(slices.Values(c.want))
			if diff := cmp.Diff(want, got); diff != "" {
				for _, p := range problems {
					t.Log(p.Render())
				}
				t.Fatalf("problems (-want +got):\n%s", diff)
			}
			all := ""
			for _, p := range problems {
				all += p.Text + "\n" + p.Hint + "\n"
			}
			if !strings.Contains(all, c.says) {
				t.Errorf("%q is not in:\n%s", c.says, all)
			}
			if len(problems) > 0 && cmp.Diff(v1alpha1.SortProblems(problems), problems) != "" {
				t.Error("the problems are not sorted")
			}
		})
	}
}

// An owner's documents are bounded by what they come to: small ones can multiply.
func TestTooMuch(t *testing.T) {
	t.Parallel()
	repeated := func(n int, line string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, line, i)
		}
		return b.String()
	}
	crowd := func(n int) string {
		return "kind: Service\nmetadata: {name: crowd}\nspec:\n  namespace: acme\n  serviceAccounts:\n" + repeated(n, "    - a%d\n")
	}
	policy := func(n int) string {
		return "---\n" + rules("orders", repeated(n, "    - {name: r%d, from: {services: [crowd]}, to: {methods: [GET], paths: [/]}}\n"))
	}
	services := func(n int) string {
		return repeated(n, "---\nkind: Service\nmetadata: {name: s%d}\nspec: {namespace: acme, serviceAccounts: [web]}\n")
	}
	for name, c := range map[string]struct{ document, says string }{
		"accounts":             {crowd(1998), ""},
		"too many accounts":    {crowd(1999), "more than 2000 service accounts"},
		"services":             {services(998), ""},
		"too many services":    {services(999), "more than 1000 services"},
		"rules":                {crowd(1500) + policy(400), ""},
		"too much of rules":    {crowd(1500) + policy(600), "more than 32 MiB"},
		"far too much of them": {crowd(1500) + policy(5000), "more than 32 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, problems := tenancy.Build(input(t, edits{extra: c.document}.apply(t)))
			switch {
			case c.says == "" && len(problems) == 0:
			case c.says == "" || len(problems) != 1:
				t.Errorf("%d problems, the first: %v", len(problems), problems[:min(len(problems), 1)])
			case problems[0].Owner != "acme" || problems[0].Code != v1alpha1.CodeTooMuch || !strings.Contains(problems[0].Text, c.says):
				t.Error(problems[0].Render())
			}
		})
	}
}

func TestNoRoots(t *testing.T) {
	t.Parallel()
	in := input(t, tenancytest.TwoTenantsFiles(t))
	in.Bundles = tenancytest.Bundles(t, identity.MustTrustDomain("acme.demo.test"))
	m, problems := tenancy.Build(in)
	if m != nil || len(problems) != 2 || problems[0].Code != v1alpha1.CodeNoBundle || problems[0].File != mesh || problems[1].Line != 12 {
		t.Errorf("model %v, problems %v", m, problems)
	}
}
