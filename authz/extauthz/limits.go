package extauthz

import "github.com/ringfence-mesh/ringfence/internal/limit"

// DefaultLimits are far above what one Envoy asks, and far below what a machine answers.
func DefaultLimits() limit.Limits {
	return limit.Limits{Concurrent: 256, PerSecond: 5000, Burst: 10000}
}
