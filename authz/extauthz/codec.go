package extauthz

import (
	"context"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
)

// Codec must be the codec of a gRPC server that Register is used with (grpc.ForceServerCodecV2): it hands checks over as
// they arrived, and is the ordinary protobuf codec for all other messages.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2(proto.Name)} }

// question and answer are an encoded CheckRequest and CheckResponse.
type (
	question struct{ buffer mem.Buffer }
	answer   []byte
)

type codec struct{ encoding.CodecV2 }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if a, ok := v.(answer); ok {
		return mem.BufferSlice{mem.SliceBuffer(a)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements encoding.CodecV2. The question holds the buffer until it is freed: gRPC reuses it then.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if q, ok := v.(*question); ok {
		q.buffer = data.MaterializeToBuffer(mem.DefaultBufferPool())
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// checker is what the service below calls.
type checker interface {
	Check(ctx context.Context, wire []byte) ([]byte, error)
}

var _ checker = (*Server)(nil)

// Register puts the server and Check of grpc.health.v1 on a gRPC server, which must have our Codec. The health server is returned so
// that it can be shut down before the gRPC server stops.
func Register(r grpc.ServiceRegistrar, s *Server) *health.Server {
	name := authv3.Authorization_ServiceDesc.ServiceName
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: name, HandlerType: (*checker)(nil), Metadata: authv3.Authorization_ServiceDesc.Metadata,
		Methods: []grpc.MethodDesc{{MethodName: "Check", Handler: check}},
	}, s)
	h := health.NewServer()
	h.SetServingStatus(name, healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(r, checked{server: h})
	return h
}

// checked is health without Watch: no method of this port is a stream, so none outlives the right to ask.
type checked struct {
	healthv1.UnimplementedHealthServer

	server *health.Server
}

// Check implements grpc.health.v1.Health.
func (c checked) Check(ctx context.Context, req *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	return c.server.Check(ctx, req)
}

// check is the handler of the one method, as the generated one but for its types.
//
//nolint:revive // the order of the parameters is gRPC's
func check(server any, ctx context.Context, decode func(any) error, wrap grpc.UnaryServerInterceptor) (any, error) {
	var q question
	if err := decode(&q); err != nil {
		return nil, err
	}
	defer q.buffer.Free()
	s, _ := server.(checker)
	handle := func(ctx context.Context, _ any) (any, error) {
		wire, err := s.Check(ctx, q.buffer.ReadOnlyData())
		return answer(wire), err
	}
	if wrap == nil {
		return handle(ctx, &q)
	}
	return wrap(ctx, &q, &grpc.UnaryServerInfo{Server: server, FullMethod: authv3.Authorization_Check_FullMethodName}, handle)
}
