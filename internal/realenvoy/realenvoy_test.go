package realenvoy_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
)

func TestStartIsLiveAndStopLeavesNothing(t *testing.T) {
	t.Parallel()
	p := realenvoy.Start(t, []byte(`{"node":{"id":"n","cluster":"c"}}`))
	if info := p.Admin(t, "/server_info"); !strings.Contains(info, `"state": "LIVE"`) {
		t.Errorf("server_info does not say LIVE: %s", info)
	}
	info, err := os.Stat(p.AdminSocket())
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("admin socket has mode %o, want 600", info.Mode().Perm())
	}
	p.Stop()
	p.Stop()
	if err := syscall.Kill(p.Pid(), 0); err == nil {
		t.Errorf("process %d is still there", p.Pid())
	}
}

func TestValidation(t *testing.T) {
	t.Parallel()
	realenvoy.Validate(t, []byte(`{"node":{"id":"n","cluster":"c"}}`))
	err := realenvoy.Validation(t, []byte(`{"node":{"id":"n"},"no_such_field":1}`))
	if err == nil || !strings.Contains(err.Error(), "no_such_field") {
		t.Errorf("an unknown field in the bootstrap: got %v, want an error that names it", err)
	}
}

func TestFindSaysHowToGetIt(t *testing.T) {
	t.Setenv("ENVOY", filepath.Join(t.TempDir(), "absent"))
	if path, err := realenvoy.Find(); err == nil {
		t.Errorf("Find took %s although ENVOY names a file that is not there", path)
	}
}
