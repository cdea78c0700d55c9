package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/limit"
)

// serveCommand makes this program one of the two servers: serve noop|ringfence SOCKET [TABLES]. It says on which TCP port it
// listens as well, and ends when its input does.
const serveCommand = "serve"

const (
	noop      = "noop"
	ringfence = "ringfence"
)

func serve(args []string) error {
	const noTables = 2
	var (
		server *grpc.Server
		err    error
	)
	switch {
	case len(args) == noTables && args[0] == noop:
		server = grpc.NewServer()
		authv3.RegisterAuthorizationServer(server, nothing{})
	case len(args) == noTables+1 && args[0] == ringfence:
		server, err = decisionPoint(args[2])
	default:
		err = errors.New("serve noop|ringfence SOCKET [TABLES]")
	}
	if err != nil {
		return err
	}
	var listen net.ListenConfig
	unix, err := listen.Listen(context.Background(), "unix", args[1])
	if err != nil {
		return err
	}
	tcp, err := listen.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	for _, l := range []net.Listener{unix, tcp} {
		go func() { failed <- server.Serve(l) }()
	}
	fmt.Fprintln(os.Stdout, tcp.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		failed <- nil
	}()
	return <-failed
}

// nothing allows everything.
type nothing struct {
	authv3.UnimplementedAuthorizationServer
}

// Check implements authv3.AuthorizationServer.
func (nothing) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{
		Status: &statuspb.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
	}, nil
}

// decisionPoint is the server as it is shipped, with its log and its metrics. Only who asks is told by the client.
func decisionPoint(file string) (*grpc.Server, error) {
	encoded, err := readTables(file)
	if err != nil {
		return nil, err
	}
	all := tables{byTenant: map[identity.TenantID]*authz.Table{}}
	for _, data := range encoded {
		t, err := authz.DecodeTable(data)
		if err != nil {
			return nil, err
		}
		proxy, _ := t.Workload()
		all.proxies = append(all.proxies, proxy)
		all.byTenant[t.Tenant()] = t
	}
	metrics, err := extauthz.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		return nil, err
	}
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(os.Stderr), zap.InfoLevel))
	server := grpc.NewServer(extauthz.ServerOptions()...)
	extauthz.Register(server, extauthz.New(all, all, extauthz.Log(log), metrics, time.Now, extauthz.WithLimits(limit.Limits{
		Concurrent: 1 << 20, PerSecond: 1 << 30, Burst: 1 << 30, // counted as always, and never reached
	})))
	return server, nil
}

// tables are those of all tenants.
type tables struct {
	proxies  []identity.WorkloadID
	byTenant map[identity.TenantID]*authz.Table
}

// askerKey is the metadata that says whose proxy asks, by the number of its tenant.
const askerKey = "x-bench-asker"

// Asker implements extauthz.Asker.
func (t tables) Asker(ctx context.Context) (extauthz.Asking, error) {
	text := metadata.ValueFromIncomingContext(ctx, askerKey)
	if len(text) != 1 {
		return extauthz.Asking{}, errors.New("nobody asks")
	}
	n, err := strconv.Atoi(text[0])
	if err != nil || n < 0 || n >= len(t.proxies) {
		return extauthz.Asking{}, errors.New("nobody known asks")
	}
	return extauthz.Own(t.proxies[n]), nil
}

// Tables implements extauthz.Tables.
func (t tables) Tables(asker identity.WorkloadID) (current, next *authz.Table) {
	return t.byTenant[asker.Tenant()], nil
}

func writeTables(file string, all [][]byte) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	for _, data := range all {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(data)))
		_, _ = w.Write(size[:]) // Flush tells of errors
		_, _ = w.Write(data)
	}
	return w.Flush()
}

func readTables(file string) ([][]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	const head = 8
	var all [][]byte
	for len(data) >= head {
		size := binary.BigEndian.Uint64(data)
		if size > uint64(len(data)-head) { //nolint:gosec // positive
			return nil, io.ErrUnexpectedEOF
		}
		all, data = append(all, data[head:head+size]), data[head+size:]
	}
	return all, nil
}
