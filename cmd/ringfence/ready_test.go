package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestReady asks an endpoint that is ready, and one that is not.
func TestReady(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   int
	}{
		{"ready", http.StatusOK, "ok\n", exitDone},
		{"not yet", http.StatusServiceUnavailable, "there is no configuration yet\n", exitFindings},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/readyz" {
					t.Errorf("asked %s", r.URL.Path)
				}
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			}))
			defer s.Close()
			var out, talk bytes.Buffer
			p := process{out: &out, err: &talk, lookupEnv: func(string) (string, bool) { return "", false }}
			if code := run(t.Context(), []string{"ready", strings.TrimPrefix(s.URL, "http://")}, p); code != tt.want {
				t.Errorf("exit %d, want %d: %s", code, tt.want, talk.String())
			}
			if out.String() != tt.body || talk.Len() > 0 {
				t.Errorf("stdout %q, stderr %q", out.String(), talk.String())
			}
		})
	}
}
