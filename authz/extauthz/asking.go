package extauthz

import (
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// Asking is whose proxy asks: a workload's own, or one that the Mesh names as an asker. Only an Asker may say it; the zero
// value is nobody.
type Asking struct {
	workload identity.WorkloadID
	key      tenancy.AskerKey
}

// Own is the proxy of that workload.
func Own(w identity.WorkloadID) Asking { return Asking{workload: w} }

// Named is an asker that the Mesh names.
func Named(key tenancy.AskerKey) Asking { return Asking{key: key} }

// IsZero reports whether nobody asks.
func (a Asking) IsZero() bool { return a.workload.IsZero() && a.key.IsZero() }

// named reports whether it is an asker that the Mesh names.
func (a Asking) named() bool { return !a.key.IsZero() }

// text tells askers apart where they are counted.
func (a Asking) text() string {
	if a.named() {
		return a.key.String()
	}
	return a.workload.String()
}
