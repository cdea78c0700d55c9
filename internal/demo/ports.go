package demo

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/internal/freeport"
)

// portMap gives every loopback port that a document names a port that is free on this machine now. A port keeps its
// substitute for the life of the map, so a document can change while the mesh runs.
type portMap struct {
	keepFree bool // keep a declared port if it is free
	finder   freeport.Finder

	mu     sync.Mutex
	chosen map[uint16]uint16
	taken  map[uint16]bool
}

func newPortMap(keepFree bool) *portMap {
	return &portMap{keepFree: keepFree, chosen: map[uint16]uint16{}, taken: map[uint16]bool{}}
}

func (p *portMap) get(ctx context.Context, declared uint16) (uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if port, ok := p.chosen[declared]; ok {
		return port, nil
	}
	port := declared
	if !p.keepFree || p.taken[declared] || !freeport.Free(ctx, declared) {
		found, err := p.finder.Find(ctx)
		if err != nil {
			return 0, fmt.Errorf("in place of port %d: %w", declared, err)
		}
		port = found
	}
	p.chosen[declared], p.taken[port] = port, true
	return port, nil
}

// rewrite replaces, in a YAML file, the ports of endpoints, of applications and of outbound listeners. Lines stay, so that
// a problem is still reported at the user's own line. What does not decode is left as it is: the pipeline says why.
func (p *portMap) rewrite(ctx context.Context, f v1alpha1.File) (v1alpha1.File, error) {
	docs, _ := v1alpha1.Decode(f)
	numbers := portsOf(docs)
	// From the last to the first, so that a replacement does not move what is still to be replaced.
	slices.SortFunc(numbers, func(a, b v1alpha1.Int) int { return b.Pos.Compare(a.Pos) })
	lines := strings.SplitAfter(string(f.Data), "\n")
	for _, n := range numbers {
		if n.Value <= 0 || n.Value > math.MaxUint16 {
			continue
		}
		port, err := p.get(ctx, uint16(n.Value))
		if err != nil {
			return v1alpha1.File{}, err
		}
		line := []rune(lines[n.Pos.Line()-1])
		declared, at := strconv.FormatInt(n.Value, 10), n.Pos.Col()-1
		if !strings.HasPrefix(string(line[at:]), declared) { // written in another form, such as 0x50
			continue
		}
		lines[n.Pos.Line()-1] = string(line[:at]) + strconv.Itoa(int(port)) + string(line[at+len(declared):])
	}
	return v1alpha1.File{Path: f.Path, Data: []byte(strings.Join(lines, ""))}, nil
}

func portsOf(docs []v1alpha1.Document) []v1alpha1.Int {
	var ports []v1alpha1.Int
	for _, d := range docs {
		s, ok := d.(*v1alpha1.Service)
		if !ok {
			continue
		}
		for _, p := range s.Spec.Ports {
			ports = append(ports, p.AppPort)
		}
		for _, e := range s.Spec.Endpoints {
			ports = append(ports, e.Port)
		}
		if s.Spec.Outbound != nil {
			ports = append(ports, s.Spec.Outbound.Port)
			for _, o := range s.Spec.Outbound.TCP {
				ports = append(ports, o.Port)
			}
		}
	}
	return slices.DeleteFunc(ports, func(i v1alpha1.Int) bool { return !i.IsSet() })
}
