package filters

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The numbers of the generated configuration, all in one place. The linter has its own bounds for them.
const (
	// connectionLife ends the reuse of a connection by whoever is the server, or speaks to the application: who is the client
	// of another sidecar ends it much earlier. streamLife ends streams, which inbound routes do earlier where the service does not
	// ask for longer ones.
	connectionLife = 12 * time.Hour
	streamLife     = 12 * time.Hour
	// streamIdle ends a stream on which nothing moves.
	streamIdle = 5 * time.Minute
	// A client drops an idle connection before the server does, so that no request meets a closing connection.
	serverIdle = 10 * time.Minute
	clientIdle = 5 * time.Minute
	// tcpIdle ends a TCP connection on which nothing moves; pools of databases keep theirs for long.
	tcpIdle = time.Hour

	handshakeTimeout    = 10 * time.Second
	inspectTimeout      = 5 * time.Second
	headersTimeout      = 10 * time.Second
	meshConnectTimeout  = 5 * time.Second
	appConnectTimeout   = time.Second
	checkTimeout        = 500 * time.Millisecond
	maxRequestHeadersKB = 32
	maxHeaders          = 100
	maxStreams          = 100
	streamWindow        = 64 << 10
	connectionWindow    = 1 << 20
	connectionBuffer    = 32 << 10
	maxEarlyData        = 1 << 10
	maxConnections      = 1024
	maxRequests         = 1024
	maxRetries          = 3
	maxDeniedBodyBytes  = 4 << 10
)

func seconds(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

func number(n uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(n) }

func yes() *wrapperspb.BoolValue { return wrapperspb.Bool(true) }

func no() *wrapperspb.BoolValue { return wrapperspb.Bool(false) }
