package health

import "time"

// BeforeFacts are what was found out before anything runs.
type BeforeFacts struct {
	Now time.Time
	// NoEnvoy says that this machine shall run none. Otherwise Envoy is its path and EnvoyErr why there is none; Version is
	// what it prints with --version, and VersionErr why it does not.
	NoEnvoy    bool
	Envoy      string
	EnvoyErr   error
	Version    string
	VersionErr error
	// Listen are the addresses that are needed.
	Listen []Port
	// State is the state directory, StateErr what is wrong with it; Socket is the longest path of a socket in it.
	State    string
	StateErr error
	Socket   string
	// Aside are the files in it that were set aside because they were damaged. Room is how many bytes can be written there; nil: it
	// could not be found out.
	Aside []string
	Room  *uint64
	// Config is the configuration directory, empty for none; ConfigErr why it was not judged, Problems what is wrong with it.
	Config    string
	ConfigErr error
	Problems  []string
	// Newest is the time of the newest file in the state directory; zero without one.
	Newest time.Time
	// API is what came of asking a Workload API; nil: there is none to ask.
	API *WorkloadAPI
	// Synchronised says that the kernel says that a time service sets the clock; nil: it does not say.
	Synchronised *bool
}

// WorkloadAPI is what came of asking a SPIFFE Workload API for the SVID of the workload with this ID.
type WorkloadAPI struct {
	Address, ID string
	// Err is why there is no SVID of it, and Code which kind of reason that is: CodeAPIAway, CodeNoSVID or CodeOtherSVID.
	Code Code
	Err  error
}

// Port is an address to listen at.
type Port struct {
	Address string
	Err     error
}

const maxSocketPath = 107 // sockaddr_un, without the final NUL

// epoch is when the oldest Envoy that is taken was released; an earlier clock is wrong.
func epoch() time.Time { return time.Date(2026, time.October, 1, 0, 0, 0, 0, time.UTC) }

// leastRoom is what a state directory needs at least; a tenant's largest configuration has less.
const leastRoom = 16 << 20

const (
	// backwards is how much younger than a file the clock may be.
	backwards = time.Minute
	// wrongYears after epoch the clock is more likely wrong than this program so old.
	wrongYears = 50
)

// JudgeBefore says whether everything is there to start.
func JudgeBefore(f BeforeFacts) Report {
	groups := []list{f.envoy(), f.ports(), f.state(), f.configuration()}
	if f.API != nil {
		groups = append(groups, f.API.judge())
	}
	return report(append(groups, f.clock())...)
}

func (f BeforeFacts) envoy() list {
	l := list{group: "Envoy"}
	if f.NoEnvoy {
		l.notKnown("Envoy", "--envoy none says that this machine runs none")
		return l
	}
	check := "Envoy " + f.Envoy
	if f.EnvoyErr != nil {
		l.fail(CodeNoEnvoy, "Envoy", "%v", f.EnvoyErr)
		return l
	}
	v, err := VersionOutput(f.Version)
	if f.VersionErr != nil {
		err = f.VersionErr
	}
	if err != nil {
		l.fail(CodeEnvoyBroken, check, "%v", err)
		return l
	}
	judgeEnvoy(&l, check, v.String())
	return l
}

func (f BeforeFacts) ports() list {
	l := list{group: "ports"}
	for _, p := range f.Listen {
		if p.Err != nil {
			l.fail(CodePortTaken, p.Address+" is free", "%v", p.Err)
		} else {
			l.ok(p.Address + " is free")
		}
	}
	return l
}

func (f BeforeFacts) state() list {
	l := list{group: "state directory"}
	if f.StateErr != nil {
		l.fail(CodeStateOpen, f.State, "%v", f.StateErr)
	} else {
		l.ok(f.State + " is, or can be made, this user's alone")
	}
	const check = "paths of sockets fit"
	if n := len(f.Socket); n > maxSocketPath {
		l.fail(CodeLongPath, check, "%s has %d bytes, at most %d are possible", f.Socket, n, maxSocketPath)
	} else {
		l.ok(check)
	}
	if whole := "no file in it was set aside as damaged"; len(f.Aside) > 0 {
		l.fail(CodeAside, whole, "%s", some(f.Aside))
	} else {
		l.ok(whole)
	}
	switch room := "there is room to write"; {
	case f.Room == nil:
		l.notKnown(room, "the file system does not say how much")
	case *f.Room < leastRoom:
		l.fail(CodeNoRoom, room, "%d MiB, at least %d are needed", *f.Room>>20, leastRoom>>20)
	default:
		l.ok(room)
	}
	return l
}

func (f BeforeFacts) configuration() list {
	l := list{group: "configuration"}
	check := f.Config + " is accepted"
	switch {
	case f.Config == "":
		l.notKnown("the documents are accepted", "--config names no directory")
	case f.ConfigErr != nil:
		l.fail(CodeInvalid, check, "%v", f.ConfigErr)
	case len(f.Problems) > 0:
		l.fail(CodeInvalid, check, "%s", some(f.Problems))
	default:
		l.ok(check)
	}
	return l
}

func (w WorkloadAPI) judge() list {
	l := list{group: "Workload API"}
	check := w.Address + " gives the SVID of " + w.ID
	if w.Err != nil {
		l.fail(w.Code, check, "%v", w.Err)
	} else {
		l.ok(check)
	}
	return l
}

func (f BeforeFacts) clock() list {
	l := list{group: "clock"}
	const check = "the clock can be right"
	switch {
	case f.Now.Before(epoch()), f.Now.After(epoch().AddDate(wrongYears, 0, 0)):
		l.fail(CodeClock, check, "it says %s", stamp(f.Now))
	case f.Newest.Sub(f.Now) > backwards:
		l.fail(CodeClock, check, "it says %s, and a file in the state directory was written at %s", stamp(f.Now), stamp(f.Newest))
	default:
		l.ok(check)
	}
	const synchronised = "a time service sets the clock"
	switch {
	case f.Synchronised == nil:
		l.notKnown(synchronised, "the kernel does not say")
	case !*f.Synchronised:
		l.notKnown(synchronised, "the kernel says that the clock is not synchronised; a service may set it without telling the kernel")
	default:
		l.ok(synchronised)
	}
	return l
}
