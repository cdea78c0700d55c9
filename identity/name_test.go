package identity_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/ringfence-mesh/ringfence/identity"
)

// Every byte, alone and at each place of a name.
func TestValidNameCompletely(t *testing.T) {
	t.Parallel()
	const alone, inner = "abcdefghijklmnopqrstuvwxyz0123456789", "abcdefghijklmnopqrstuvwxyz0123456789-"
	for c := range 256 {
		b := string([]byte{byte(c)})
		for name, want := range map[string]bool{
			b:             strings.Contains(alone, b),
			b + "a":       strings.Contains(alone, b),
			"a" + b:       strings.Contains(alone, b),
			"a" + b + "a": strings.Contains(inner, b),
		} {
			if identity.ValidName(name) != want {
				t.Errorf("ValidName(%q) is not %v", name, want)
			}
		}
	}
	if identity.ValidName("") || !identity.ValidName(strings.Repeat("a", 63)) || identity.ValidName(strings.Repeat("a", 64)) {
		t.Error("a name has 1 to 63 characters")
	}
}

// What a stranger wrote stands in an error shortened to 80 bytes.
func TestHostileTextIsShortened(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{80: strings.Repeat("A", 80) + `"`, 81: strings.Repeat("A", 80) + `…"`} {
		if _, err := identity.ParseTrustDomain(strings.Repeat("A", n)); !strings.Contains(err.Error(), want) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestParseTrustDomain(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63)
	tests := []struct {
		name string
		in   string
		ok   bool
	}{
		{"plain", "acme.demo.test", true},
		{"one label", "acme", true},
		{"longest label", long + ".test", true},
		{"255 bytes", strings.Join([]string{long, long, long, long}, "."), true},
		{"256 bytes", strings.Join([]string{long, long, long, long[:62], "a"}, "."), false},
		{"label of 64", long + "a.test", false},
		{"empty", "", false},
		{"trailing dot", "acme.demo.test.", false},
		{"leading dot", ".acme", false},
		{"two dots", "acme..test", false},
		{"upper case", "Acme.test", false},
		{"underscore", "a_b.test", false},
		{"leading hyphen", "-a.test", false},
		{"trailing hyphen", "a-.test", false},
		{"port", "acme.test:80", false},
		{"user", "u@acme.test", false},
		{"scheme", "spiffe://acme.test", false},
		{"NUL", "acme\x00.test", false},
		{"not ASCII", "acmé.test", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			td, err := identity.ParseTrustDomain(tt.in)
			if tt.ok != (err == nil) {
				t.Fatalf("ParseTrustDomain(%q) = %v", tt.in, err)
			}
			if tt.ok {
				if td.String() != tt.in || td.ID() != "spiffe://"+tt.in || td.IsZero() {
					t.Errorf("got %q, ID %q", td, td.ID())
				}
				return
			}
			if !errors.Is(err, identity.ErrInvalidID) || !td.IsZero() || td.ID() != "" {
				t.Errorf("got %v with %v", td, err)
			}
		})
	}
}

func TestMustTrustDomainPanics(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	identity.MustTrustDomain("Not One")
}

func TestTenantID(t *testing.T) {
	t.Parallel()
	td, other := identity.MustTrustDomain("acme.demo.test"), identity.MustTrustDomain("globex.demo.test")
	acme, err := identity.ParseTenantID("acme", td)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := identity.ParseTenantID("acme", td)
	elsewhere, _ := identity.ParseTenantID("acme", other)
	platform, err := identity.PlatformID(td)
	if err != nil {
		t.Fatal(err)
	}
	var zero identity.TenantID
	if !acme.Same(again) {
		t.Error("a tenant is not the same as itself")
	}
	if acme.Same(elsewhere) || acme.Same(platform) || acme.Same(zero) || zero.Same(acme) {
		t.Error("two tenants are the same")
	}
	if zero.Same(zero) {
		t.Error("unknown equals unknown")
	}
	if acme.Name() != "acme" || acme.String() != "acme" || acme.TrustDomain() != td || acme.IsPlatform() || acme.IsZero() {
		t.Errorf("acme is %+v", acme)
	}
	if platform.Name() != "platform" || !platform.IsPlatform() {
		t.Errorf("platform is %+v", platform)
	}
	for _, name := range []string{"", "platform", "Acme", "a/b", "..", strings.Repeat("a", 64), "a b", "a\x00"} {
		if id, err := identity.ParseTenantID(name, td); !errors.Is(err, identity.ErrInvalidID) || !id.IsZero() {
			t.Errorf("ParseTenantID(%q) = %v, %v", name, id, err)
		}
	}
	if _, err := identity.ParseTenantID("acme", identity.TrustDomain{}); !errors.Is(err, identity.ErrInvalidID) {
		t.Errorf("a tenant without trust domain: %v", err)
	}
	if _, err := identity.PlatformID(identity.TrustDomain{}); !errors.Is(err, identity.ErrInvalidID) {
		t.Errorf("a platform without trust domain: %v", err)
	}
}
