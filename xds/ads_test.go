package xds_test

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ringfence-mesh/ringfence/xds"
)

// agentStub is the least that an Envoy needs on its agent's socket: it serves one fixed set of resources over delta ADS, and
// an ext_authz server if there is one. It keeps what Envoy refused.
type agentStub struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer

	resources []xds.Resource

	server *grpc.Server
	done   chan struct{}

	mu    sync.Mutex
	nacks []string
}

func serveAgent(tb testing.TB, socket string, authz authv3.AuthorizationServer, resources ...xds.Resource) *agentStub {
	tb.Helper()
	s := grpc.NewServer()
	stub := &agentStub{resources: resources, server: s, done: make(chan struct{})}
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, stub)
	if authz != nil {
		authv3.RegisterAuthorizationServer(s, authz)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer close(stub.done)
		_ = s.Serve(l)
	}()
	tb.Cleanup(stub.stop)
	return stub
}

func (a *agentStub) stop() {
	a.server.Stop()
	<-a.done
}

// Refused are the texts of Envoy's NACKs.
func (a *agentStub) Refused() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.nacks)
}

func (a *agentStub) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	nonce := 0
	seen := map[string]bool{}
	for {
		req, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // the client is gone
		}
		if req.GetErrorDetail() != nil {
			a.mu.Lock()
			a.nacks = append(a.nacks, fmt.Sprintf("%s: %s", req.GetTypeUrl(), req.GetErrorDetail().GetMessage()))
			a.mu.Unlock()
		}
		wildcard := !seen[req.GetTypeUrl()] && len(req.GetResourceNamesSubscribe()) == 0
		seen[req.GetTypeUrl()] = true
		resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: req.GetTypeUrl()}
		for _, r := range a.resources {
			if r.TypeURL() == req.GetTypeUrl() && (wildcard || slices.Contains(req.GetResourceNamesSubscribe(), r.Name())) {
				resp.Resources = append(resp.Resources, &discoveryv3.Resource{
					Name: r.Name(), Version: r.Version(), Resource: &anypb.Any{TypeUrl: r.TypeURL(), Value: r.Value()},
				})
			}
		}
		if len(resp.GetResources()) == 0 {
			continue
		}
		nonce++
		resp.Nonce = strconv.Itoa(nonce)
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}
