package delta

import (
	"errors"
	"time"
)

// The ways in which a client ends its stream.
var (
	// ErrProtocol says that a request makes no sense.
	ErrProtocol = errors.New("malformed discovery request")
	// ErrLimit says that the client asked for, or left unanswered, more than the limits allow.
	ErrLimit = errors.New("limit of the discovery stream exceeded")
	// ErrSlow says that the client did not read a response in time.
	ErrSlow = errors.New("the discovery stream's client does not read")
)

// Limits bound what one client can make the server hold and do. DefaultLimits fits thousands of resources.
type Limits struct {
	// RequestBytes of one request.
	RequestBytes int
	// Names that a client may subscribe to, or say it has, within one type.
	Names int
	// Unanswered responses.
	Unanswered int
	// RequestsPerSecond, after a Burst; a client that is faster is read more slowly.
	RequestsPerSecond float64
	Burst             int
	// SendTimeout ends the stream of a client that does not read.
	SendTimeout time.Duration
	// Hold is how long listeners and routes wait for a client to ask for the endpoints of its new clusters.
	Hold time.Duration
}

// DefaultLimits are the limits for a sidecar or agent.
func DefaultLimits() Limits {
	return Limits{
		RequestBytes:      4 << 20,
		Names:             20_000,
		Unanswered:        1 << 16,
		RequestsPerSecond: 500,
		Burst:             2_000,
		SendTimeout:       time.Minute,
		Hold:              5 * time.Second,
	}
}

// Of what a client writes freely, this much is kept.
const maxText = 512
