package workloadapi_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/workloadapi"
)

// tokens do what the audience says.
type tokens struct{}

func (tokens) Fetch(ctx context.Context, audience []string) (string, error) {
	switch audience[0] {
	case "denied":
		return "", fmt.Errorf("%w: more than is to be known", workloadapi.ErrDenied)
	case "away":
		return "", errors.New("nobody signs now")
	case "never":
		<-ctx.Done()
		return "", ctx.Err()
	}
	return strings.Join(audience, " "), nil
}

func (tokens) Verify(token, _ string) (identity.Claims, error) {
	switch token {
	case "invalid":
		return identity.Claims{}, identity.ErrTokenInvalid
	case "expired":
		return identity.Claims{}, identity.ErrTokenExpired
	case "foreign":
		return identity.Claims{}, identity.ErrIssuerNotAllowed
	case "unknown":
		return identity.Claims{}, errors.New("no keys yet")
	}
	return identity.Claims{}, nil
}

func TestFetchJWTSVID(t *testing.T) {
	t.Parallel()
	s := &source{changed: make(chan struct{}), now: workloadapi.Identity{ID: id, TrustDomain: trustDomain}}
	c := dial(t, serve(t, s))
	for name, tc := range map[string]struct {
		audience []string
		id       string
		want     codes.Code
		token    string
	}{
		"one":                     {[]string{"a"}, "", codes.OK, "a"},
		"as itself":               {[]string{"a"}, id, codes.OK, "a"},
		"sorted, each once":       {[]string{"b", "a", "b"}, "", codes.OK, "a b"},
		"none":                    {nil, "", codes.InvalidArgument, ""},
		"an empty one":            {[]string{"a", ""}, "", codes.InvalidArgument, ""},
		"a space in one":          {[]string{"a b"}, "", codes.InvalidArgument, ""},
		"17":                      {letters(17), "", codes.InvalidArgument, ""},
		"10,000":                  {slices.Repeat([]string{"a"}, 10_000), "", codes.ResourceExhausted, ""},
		"a huge one":              {[]string{strings.Repeat("a", 256)}, "", codes.InvalidArgument, ""},
		"a giant":                 {[]string{strings.Repeat("a", 1<<20)}, "", codes.ResourceExhausted, ""},
		"as somebody else":        {[]string{"a"}, id + "x", codes.PermissionDenied, ""},
		"as another tenant's":     {[]string{"a"}, "spiffe://globex.demo.test/ns/globex/sa/web", codes.PermissionDenied, ""},
		"as the same in capitals": {[]string{"a"}, strings.ToUpper(id), codes.PermissionDenied, ""},
		"denied":                  {[]string{"denied"}, "", codes.PermissionDenied, ""},
		"away":                    {[]string{"away"}, "", codes.Unavailable, ""},
	} {
		resp, err := c.FetchJWTSVID(asClient(t.Context()), &workload.JWTSVIDRequest{Audience: tc.audience, SpiffeId: tc.id})
		if status.Code(err) != tc.want || (err != nil && strings.Contains(err.Error(), "more than")) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		if all := resp.GetSvids(); len(all) != 1 || all[0].GetSpiffeId() != id || all[0].GetSvid() != tc.token {
			t.Errorf("%s: %v", name, all)
		}
	}
	ctx, cancel := context.WithTimeout(asClient(t.Context()), 50*time.Millisecond)
	defer cancel()
	if _, err := c.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{"never"}}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("who waits no longer: %v", err)
	}
	s.set(workloadapi.Identity{})
	if _, err := c.FetchJWTSVID(asClient(t.Context()), &workload.JWTSVIDRequest{Audience: []string{"a"}}); status.Code(err) != codes.Unavailable {
		t.Errorf("without an SVID: %v", err)
	}
}

func letters(n int) []string {
	var all []string
	for i := range n {
		all = append(all, string(rune('a'+i)))
	}
	return all
}

func TestValidateJWTSVID(t *testing.T) {
	t.Parallel()
	c := dial(t, serve(t, &source{changed: make(chan struct{}), now: workloadapi.Identity{ID: id}}))
	for name, tc := range map[string]struct {
		audience, token string
		want            codes.Code
	}{
		"good":        {"a", "x.eyJzdWIiOiJ4In0.x", codes.OK},
		"no audience": {"", "x.eyJzdWIiOiJ4In0.x", codes.InvalidArgument},
		"invalid":     {"a", "invalid", codes.InvalidArgument},
		"expired":     {"a", "expired", codes.InvalidArgument},
		"foreign":     {"a", "foreign", codes.InvalidArgument},
		"unknown":     {"a", "unknown", codes.Unavailable},
		"no payload":  {"a", "x", codes.InvalidArgument},
		"no JSON":     {"a", "x.x.x", codes.InvalidArgument},
	} {
		resp, err := c.ValidateJWTSVID(asClient(t.Context()), &workload.ValidateJWTSVIDRequest{Audience: tc.audience, Svid: tc.token})
		if status.Code(err) != tc.want {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && resp.GetClaims().GetFields()["sub"].GetStringValue() != "x" {
			t.Errorf("%s: %v", name, resp)
		}
	}
}

// A client that asks before the keys are known waits for them, and is told of others without asking.
func TestFetchJWTBundles(t *testing.T) {
	t.Parallel()
	now := workloadapi.Identity{ID: id, TrustDomain: trustDomain}
	s := &source{changed: make(chan struct{}), now: now}
	stream, err := dial(t, serve(t, s)).FetchJWTBundles(asClient(t.Context()), &workload.JWTBundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, keys := range []string{"", `{"keys":[1]}`, `{"keys":[1]}`, `{"keys":[2]}`} {
		now.JWKS = []byte(keys)
		s.set(now)
	}
	var last string
	for last != `{"keys":[2]}` {
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		next := string(resp.GetBundles()[trustDomain])
		if next == "" || next == last || len(resp.GetBundles()) != 1 {
			t.Fatalf("after %q: %v", last, resp.GetBundles())
		}
		last = next
	}
}
