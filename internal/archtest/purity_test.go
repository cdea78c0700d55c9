package archtest

import (
	"go/ast"
	"go/types"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pureBelow is the first level that may touch the world.
const pureBelow = 5

// worldly are the packages with which a pure one could touch the world; a name ending in / stands for all below it.
func worldly() []string {
	return []string{
		"crypto/rand", "io/ioutil", "log", "log/", "math/rand", "math/rand/", "net", "net/", "os", "os/", "plugin",
		"runtime/", "syscall", "testing", "testing/", "go.uber.org/zap", "go.uber.org/zap/", "github.com/fsnotify/",
	}
}

// harmless are those below the former that only parse.
func harmless() []string { return []string{"net/netip", "net/url"} }

// clocks are the functions of package time that read a clock or wait for it.
func clocks() []string {
	return []string{"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until"}
}

func TestLowLevelsArePure(t *testing.T) {
	t.Parallel()
	tr, rows := loaded(t), table(t)
	checked := 0
	for _, p := range tr.pkgs {
		if level, ok := rows[p.path].number(); !ok || level >= pureBelow {
			continue
		}
		checked++
		for _, f := range p.files {
			for _, i := range f.Imports {
				if path, err := strconv.Unquote(i.Path.Value); err != nil || touchesTheWorld(path) {
					t.Errorf("%s: %s imports %s; levels below %d do no I/O", tr.at(i), p.path, path, pureBelow)
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt:
					t.Errorf("%s: %s starts a goroutine; levels below %d do not", tr.at(n), p.path, pureBelow)
				case *ast.Ident:
					if fn, ok := p.info.Uses[n].(*types.Func); ok && readsClock(fn) {
						t.Errorf("%s: %s uses time.%s; levels below %d get the time as an argument", tr.at(n), p.path, fn.Name(), pureBelow)
					}
				}
				return true
			})
		}
	}
	if checked == 0 {
		t.Error("no package was checked")
	}
}

func touchesTheWorld(path string) bool {
	if slices.Contains(harmless(), path) {
		return false
	}
	return slices.ContainsFunc(worldly(), func(w string) bool {
		return path == w || strings.HasSuffix(w, "/") && strings.HasPrefix(path, w)
	})
}

func readsClock(fn *types.Func) bool {
	return fn.Pkg() != nil && fn.Pkg().Path() == "time" && fn.Signature().Recv() == nil && slices.Contains(clocks(), fn.Name())
}

func TestTouchesTheWorld(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"net": true, "net/http": true, "net/netip": false, "net/url": false, "os": true, "os/exec": true, "time": false,
		"math/rand/v2": true, "math": false, "math/bits": false, "log/slog": true, "crypto/x509": false, "crypto/rand": true,
	} {
		if got := touchesTheWorld(path); got != want {
			t.Errorf("touchesTheWorld(%q) = %v, want %v", path, got, want)
		}
	}
}
