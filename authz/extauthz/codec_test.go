package extauthz_test

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"

	"github.com/ringfence-mesh/ringfence/authz/extauthz"
)

// registrar keeps what is registered.
type registrar map[string]grpc.MethodDesc

func (r registrar) RegisterService(desc *grpc.ServiceDesc, _ any) {
	for _, m := range desc.Methods {
		r[desc.ServiceName+"/"+m.MethodName] = m
	}
}

// The handler of a check is one as gRPC knows them: interceptors are asked, and what cannot be read is an error.
func TestCheckHandler(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	s := extauthz.New(&tables{}, extauthz.Fixed(m.id(acmeOrders)), &entries{}, metrics(t, prometheus.NewRegistry()), newClock(m.now).Now)
	methods := registrar{}
	extauthz.Register(methods, s)
	wire := encode(t, call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders"))
	read := func(v any) error { return extauthz.Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(wire)}, v) }
	errRefused := errors.New("refused")
	asked := ""
	for name, tt := range map[string]struct {
		read func(any) error
		wrap grpc.UnaryServerInterceptor
		err  error
	}{
		"plain":  {read, nil, nil},
		"unread": {func(any) error { return errRefused }, nil, errRefused},
		"asked": {read, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			asked = info.FullMethod
			return next(ctx, req)
		}, nil},
		"forbidden": {read, func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
			return nil, errRefused
		}, errRefused},
	} {
		answer, err := methods["envoy.service.auth.v3.Authorization/Check"].Handler(s, t.Context(), tt.read, tt.wrap)
		if !errors.Is(err, tt.err) || (answer == nil) != (tt.err != nil) {
			t.Errorf("%s: %v, %v", name, answer, err)
		}
	}
	if asked != "/envoy.service.auth.v3.Authorization/Check" {
		t.Errorf("the interceptor was asked about %q", asked)
	}
	if err := extauthz.Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer{0xff}}, &healthv1.HealthCheckRequest{}); err == nil {
		t.Error("garbage is a message of another service")
	}
}
