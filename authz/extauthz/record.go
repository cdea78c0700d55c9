package extauthz

import (
	"time"

	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
)

// Recorder is told of every decision before it is answered. It must not block for long.
type Recorder interface {
	Record(e Entry)
}

// Entry is one decision. All its texts come from the configuration or were parsed: nothing in it is a client's to choose,
// no token, no path, no header.
type Entry struct {
	// ID is the decision's, as the caller was told it.
	ID   string
	Time time.Time
	// Asker is the workload whose proxy asked, Service the destination as "tenant/service", empty if it is none of the asker's.
	Asker identity.WorkloadID
	// Named is the name of the asker that the Mesh names, where it was one; or by what it is known, where it asked about no
	// tenant that its entry names.
	Named   string
	Service string
	Allowed bool
	// Connection says that a TCP connection was decided, no request.
	Connection bool
	Reason     authz.Reason
	Rule       string
	// Caller is who called, if it is of the asker's own tenant or of one that the service is granted to; of all others the
	// asker's tenant learns nothing.
	Caller identity.WorkloadID
	// Tenant is whose the caller is, to the same limits; also where no workload calls, but whom a token names.
	Tenant identity.TenantID
	// Generation is the version of the Table that decided.
	Generation string
	// Fault is where the server broke, if it did.
	Fault string
}

// visible is the caller as far as the asker's tenant may know it.
func (v verdict) visible() identity.WorkloadID {
	if v.caller.Tenant().Same(v.asker.workload.Tenant()) || v.service.Knows(v.caller.Tenant()) {
		return v.caller
	}
	return identity.WorkloadID{}
}

// tenant is the tenant of the caller, as far as the asker's may know it.
func (v verdict) tenant() identity.TenantID {
	if t := v.claims.Tenant(); v.caller.IsZero() && v.service.Knows(t) { // nobody but the token names the caller
		return t
	}
	return v.visible().Tenant()
}

func (v verdict) entry(now time.Time) Entry {
	return Entry{
		ID: v.id, Time: now, Asker: v.asker.workload, Named: v.name, Service: v.service.String(),
		Allowed: v.decision.Allowed(), Reason: v.decision.Reason(), Rule: v.decision.Rule(),
		Caller: v.visible(), Tenant: v.tenant(), Generation: short(v.generation), Connection: v.connection,
	}
}

// asker is who asked, for people.
func (e Entry) asker() string {
	if e.Asker.IsZero() {
		return e.Named
	}
	return e.Asker.String()
}

// Log is the Recorder that writes one line for each refusal.
func Log(l *zap.Logger) Recorder { return recorder{l} }

type recorder struct{ log *zap.Logger }

func (r recorder) Record(e Entry) {
	if e.Allowed {
		return
	}
	fields := []zap.Field{
		zap.String("decision", e.ID), zap.Time("time", e.Time), zap.String("asker", e.asker()), zap.String("service", e.Service),
		zap.Stringer("reason", e.Reason), zap.String("generation", e.Generation),
	}
	if !e.Tenant.IsZero() {
		fields = append(fields, zap.Stringer("tenant", e.Tenant))
	}
	if e.Connection {
		fields = append(fields, zap.Bool("connection", true))
	}
	if !e.Caller.IsZero() {
		fields = append(fields, zap.Stringer("caller", e.Caller))
	}
	if e.Fault != "" {
		r.log.Error("decision failed", append(fields, zap.String("fault", e.Fault))...)
		return
	}
	r.log.Info("call refused", fields...)
}
