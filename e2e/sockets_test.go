package e2e_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// listening are the ports and the paths that a process listens at.
func listening(t *testing.T, pid int) (ports []int, paths []string) {
	t.Helper()
	inodes := map[string]bool{}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if link, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			if inode, ok := strings.CutPrefix(link, "socket:["); ok {
				inodes[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	each := func(table string, line func(fields []string)) {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close() //nolint:errcheck // only read
		for scanner := bufio.NewScanner(f); scanner.Scan(); {
			line(strings.Fields(scanner.Text()))
		}
	}
	for _, table := range []string{"tcp", "tcp6"} {
		each(table, func(fields []string) {
			const listens, inode = "0A", 9
			if len(fields) <= inode || fields[3] != listens || !inodes[fields[inode]] {
				return
			}
			port, err := strconv.ParseUint(fields[1][strings.LastIndexByte(fields[1], ':')+1:], 16, 16)
			if err != nil {
				t.Fatal(err)
			}
			ports = append(ports, int(port))
		})
	}
	for _, table := range []string{"udp", "udp6"} {
		each(table, func(fields []string) {
			const inode = 9
			if len(fields) > inode && inodes[fields[inode]] {
				t.Errorf("process %d has a UDP socket: %s", pid, fields[1])
			}
		})
	}
	each("unix", func(fields []string) {
		const accepts, inode, path = "00010000", 6, 7
		if len(fields) > path && fields[3] == accepts && inodes[fields[inode]] {
			paths = append(paths, fields[path])
		}
	})
	slices.Sort(ports)
	return slices.Compact(ports), paths
}

// debugPaths are the doors that Go programs and Envoy have for those who debug them.
var debugPaths = []string{
	"/", "/debug/", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline", "/debug/vars", "/debug/requests", "/config_dump", "/stats",
	"/server_info", "/clusters", "/listeners", "/certs", "/logging", "/runtime", "/memory", "/quitquitquit", "/admin", "/api/v1", "/env",
}

// TestNoDebugDoor walks everything that a running mesh listens at: it is what the documents and the flags say and nothing else, no
// port has a debug page, no server tells what it can do, and every Unix socket is its user's alone.
func TestNoDebugDoor(t *testing.T) {
	a := startApart(t)
	a.goesOn(10 * time.Second)
	port := func(address string) int {
		_, text, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	envoy := func(name string) int {
		pids := envoys(t, a.agentState(name))
		if len(pids) != 1 {
			t.Fatalf("%s has %d Envoys", name, len(pids))
		}
		return pids[0]
	}
	var paths []string
	all := map[int]bool{}
	for name, p := range map[string]struct {
		pid  int
		want []int
	}{
		"serve":          {a.serve.cmd.Process.Pid, []int{port(a.listen["xds"]), port(a.listen["issuer"]), port(a.listen["http"])}},
		"orders' agent":  {a.agents["orders"].cmd.Process.Pid, []int{port(a.status["orders"])}},
		"web's agent":    {a.agents["web"].cmd.Process.Pid, []int{port(a.status["web"])}},
		"orders's Envoy": {envoy("orders"), []int{a.ports["20083"], a.ports["20183"]}},
		"web's Envoy":    {envoy("web"), []int{a.ports["20184"]}},
	} {
		ports, sockets := listening(t, p.pid)
		slices.Sort(p.want)
		if !slices.Equal(ports, p.want) {
			t.Errorf("%s listens at the ports %v, not at %v", name, ports, p.want)
		}
		for _, n := range ports {
			all[n] = true
		}
		paths = append(paths, sockets...)
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(a.agentState("orders"), "svid.pem"), filepath.Join(a.agentState("orders"), "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	secure := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{own}}
	for _, n := range slices.Sorted(maps.Keys(all)) {
		address := fmt.Sprintf("127.0.0.1:%d", n)
		for _, scheme := range []string{"http", "https"} {
			client := &http.Client{
				Timeout:       5 * time.Second,
				Transport:     &http.Transport{TLSClientConfig: secure.Clone(), DisableKeepAlives: true, ForceAttemptHTTP2: true},
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			}
			for _, path := range debugPaths {
				if got := statusOf(t.Context(), client, scheme+"://"+address+path); got != 0 && got < 400 {
					t.Errorf("%s://%s%s answers %d", scheme, address, path, got)
				}
			}
		}
		for name, c := range map[string]credentials.TransportCredentials{"plaintext": insecure.NewCredentials(), "TLS": credentials.NewTLS(secure)} {
			noReflection(t, name+" "+address, address, c)
		}
	}
	// Some are bound under one name and renamed, so the files are looked for where the mesh keeps its state.
	found := 0
	err = filepath.WalkDir(a.state, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Type() != os.ModeSocket {
			return err
		}
		found++
		info, err := d.Info()
		if err != nil {
			return err
		}
		parent, err := os.Stat(filepath.Dir(path))
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 && parent.Mode().Perm()&0o077 != 0 {
			t.Errorf("others reach %s (%v in %v)", path, info.Mode(), parent.Mode())
		}
		noReflection(t, path, "unix:"+path, insecure.NewCredentials())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found == 0 || found != len(paths) {
		t.Errorf("the processes listen at %q, and there are %d sockets", paths, found)
	}
	for _, path := range paths {
		if !strings.HasPrefix(path, a.state) {
			t.Errorf("a socket elsewhere: %s", path)
		}
	}
	t.Logf("%d ports, %d Unix sockets", len(all), len(paths))
}

// statusOf is the status of an answer; 0: none.
func statusOf(ctx context.Context, client *http.Client, target string) int {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return 0
	}
	response, err := client.Do(request)
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// noReflection fails where a server says which methods it has, or what goes on in it.
func noReflection(t *testing.T, name, target string, c credentials.TransportCredentials) {
	t.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(c))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // a test's
	for _, method := range []string{
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
		"/grpc.channelz.v1.Channelz/GetServers", "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
		"/grpc.health.v1.Health/Watch",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := conn.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{})
		cancel()
		switch status.Code(err) {
		case codes.Unimplemented, codes.Unavailable, codes.PermissionDenied, codes.Unauthenticated:
		default:
			t.Errorf("%s: %s: %v", name, method, err)
		}
	}
}
