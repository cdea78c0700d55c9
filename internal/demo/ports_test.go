package demo

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

func TestRewritePorts(t *testing.T) {
	t.Parallel()
	const doc = `# 20081 in a comment stays
kind: Service
metadata: {name: a}
spec:
  ports: [{name: http, port: 8080, protocol: HTTP, appPort: 20281}]
  endpoints: [{address: 127.0.0.1, port: 20081}, {address: 127.0.0.2, port: 20081}]
  outbound: {port: 20181}
---
kind: Service
metadata: {name: b}
spec:
  ports:
    - name: http
      port: 8080
      appPort: 20281
  endpoints:
    - address: 127.0.0.1
      port: 200
`
	p := newPortMap(false)
	got := rewrite(t, p, doc)
	want := doc
	for _, r := range []struct {
		declared uint16
		pattern  string
	}{{20281, `appPort: 20281`}, {20081, `port: 20081`}, {20181, `port: 20181`}, {200, `port: 200\n`}} {
		port := p.chosen[r.declared]
		if port == 0 || port == r.declared {
			t.Fatalf("port %d became %d", r.declared, port)
		}
		key, _, _ := strings.Cut(r.pattern, ":")
		tail := ""
		if strings.HasSuffix(r.pattern, `\n`) {
			tail = "\n"
		}
		want = regexp.MustCompile(r.pattern).ReplaceAllString(want, fmt.Sprintf("%s: %d%s", key, port, tail))
	}
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	again := rewrite(t, p, doc)
	if again != got {
		t.Error("a second rewrite gives other ports")
	}
}

func TestRewriteLeavesWhatIsNoYAML(t *testing.T) {
	t.Parallel()
	const broken = "kind: [\n  port: 1"
	if got := rewrite(t, newPortMap(true), broken); got != broken {
		t.Errorf("%q", got)
	}
}

func rewrite(t *testing.T, p *portMap, text string) string {
	t.Helper()
	f, err := p.rewrite(t.Context(), v1alpha1.File{Path: "tenants/acme/a.yaml", Data: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return string(f.Data)
}
