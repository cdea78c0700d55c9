package main

import (
	"os"
	"path/filepath"
)

// defaultState is where a control plane keeps its state if nothing else is said: a place of the system for root, of the
// user for everybody else. All commands agree on it, so they find each other's admin socket.
func defaultState(p process) string {
	if os.Geteuid() == 0 {
		return "/var/lib/ringfence"
	}
	if dir, ok := p.lookupEnv("XDG_STATE_HOME"); ok && filepath.IsAbs(dir) {
		return filepath.Join(dir, "ringfence")
	}
	if home, ok := p.lookupEnv("HOME"); ok && home != "" {
		return filepath.Join(home, ".local", "state", "ringfence")
	}
	return "ringfence-state"
}

// adminSocket is where a control plane of that state directory listens to operators.
func adminSocket(state string) string { return filepath.Join(state, "admin.sock") }
