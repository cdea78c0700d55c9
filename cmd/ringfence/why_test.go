package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
)

// What the decision point logs is what why reads.
func TestWhyReadsTheLog(t *testing.T) {
	t.Parallel()
	const id = "6c0f5d2ac7a04d2eb1a3a1de1f1f6a3e"
	for _, reason := range authz.Reasons() {
		var log bytes.Buffer
		log.WriteString("not JSON " + id + "\n{\"msg\":\"" + id + "\"}\n")
		e := extauthz.Entry{ID: id, Time: time.Unix(1_790_000_000, 0).UTC(), Service: "acme/orders", Reason: reason, Allowed: reason == authz.Allowed}
		extauthz.Log(newLog(&log, logLevel(zapcore.InfoLevel))).Record(e)
		r, err := findRefusal(&log, id)
		if err != nil || (r == nil) != e.Allowed {
			t.Fatalf("%s: %v, %v", reason, r, err)
		}
		if r != nil && (r.Reason != reason.String() || r.Words == "" || r.Advice == "" || r.Service != e.Service || r.Time != "2026-09-21T14:13:20Z") {
			t.Errorf("%s: %+v", reason, r)
		}
	}
}

func TestWhyKeepsTerminalsSafe(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	printRefusal(&out, refusal{Service: "acme/orders", Caller: "\x1b[31mx\u202e", Fault: "stack"})
	if strings.ContainsAny(out.String(), "\x1b\u202e") || !strings.Contains(out.String(), "fault") {
		t.Errorf("%q", out.String())
	}
}
