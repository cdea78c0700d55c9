package authz

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// route is a part of a service whose requests meet a class of data beside the service's.
type route struct {
	methods     []string // none: every method
	paths       []pattern
	token       bool // a request must carry a token
	sensitivity tenancy.Sensitivity
}

// Unmet is the class of data that the call does not meet, where that is why it is refused: what it demands of a token is
// safe to put into the challenge of a refusal, because what cannot stand in one is not in a Table.
func (d Decision) Unmet() tenancy.Sensitivity {
	if d.unmet == nil {
		return tenancy.Sensitivity{}
	}
	s := *d.unmet
	s.ACR, s.AMR = slices.Clone(s.ACR), slices.Clone(s.AMR)
	return s
}

func encodeSensitivity(s tenancy.Sensitivity) *agentv1alpha1.Sensitivity {
	if s.Class == "" {
		return nil
	}
	return &agentv1alpha1.Sensitivity{
		Name: s.Class, Acr: s.ACR, Amr: s.AMR, MaxAuthAgeSeconds: int64(s.MaxAuthAge / time.Second),
	}
}

func encodeRoutes(routes []tenancy.Route) []*agentv1alpha1.Route {
	all := make([]*agentv1alpha1.Route, 0, len(routes))
	for _, r := range routes {
		all = append(all, &agentv1alpha1.Route{
			Methods: r.Methods, Paths: r.Paths, TokenRequired: r.TokenRequired, Sensitivity: encodeSensitivity(r.Sensitivity),
		})
	}
	return all
}

func (s *service) addSensitivity(m *agentv1alpha1.Sensitivity) error {
	if m == nil {
		return nil
	}
	var err error
	s.sensitivity, err = decodeSensitivity(m, s.token == agentv1alpha1.TokenMode_TOKEN_MODE_REQUIRED)
	return err
}

func (s *service) addRoute(m *agentv1alpha1.Route) error {
	switch {
	case s.tcp != 0:
		return errors.New("a TCP connection has no method and no path")
	case m.GetTokenRequired() && s.token == agentv1alpha1.TokenMode_TOKEN_MODE_NONE:
		return errors.New("it requires a token, and the service reads none")
	case len(m.GetPaths()) == 0:
		return errors.New("it says no paths")
	case !allOf(m.GetMethods(), validMethod):
		return errors.New("a method is written in capitals, and is not CONNECT")
	}
	r := route{methods: m.GetMethods(), token: m.GetTokenRequired()}
	for _, p := range m.GetPaths() {
		parsed, err := parsePattern(p)
		if err != nil {
			return err
		}
		r.paths = append(r.paths, parsed)
	}
	var err error
	r.sensitivity, err = decodeSensitivity(m.GetSensitivity(), r.token)
	s.routes = append(s.routes, r)
	return err
}

// decodeSensitivity takes only demands that are made of every call: whoever lets calls pass without a token demands nothing
// of tokens.
func decodeSensitivity(m *agentv1alpha1.Sensitivity, tokenRequired bool) (tenancy.Sensitivity, error) {
	if !identity.ValidName(m.GetName()) {
		return tenancy.Sensitivity{}, errors.New("the class has no valid name")
	}
	if a := m.GetMaxAuthAgeSeconds(); a < 0 || a > int64(maxLifetime/time.Second) {
		return tenancy.Sensitivity{}, errors.New("maxAuthAge is out of range")
	}
	s := tenancy.Sensitivity{
		Class: m.GetName(), ACR: m.GetAcr(), AMR: m.GetAmr(), MaxAuthAge: time.Duration(m.GetMaxAuthAgeSeconds()) * time.Second,
	}
	if s.Demands() && !tokenRequired {
		return tenancy.Sensitivity{}, errors.New("it demands something of a token and requires none")
	}
	return s, s.Check()
}

// checkSensitivity tests the class of the service, then those of the routes that match the request: each must be met. What
// it says of a route is told to who has passed the guard, before any rule is looked at, as the service's own class is.
func checkSensitivity(in *Input) (Reason, *tenancy.Sensitivity) {
	s := in.Service.s
	if unmet(&s.sensitivity, in.Token.claims, in.Now) != demandNone {
		return StepUpRequired, &s.sensitivity
	}
	if len(s.routes) == 0 {
		return Allowed, nil
	}
	path, ok := canonicalPath(in.Path)
	if !ok { // no rule covers it
		return Allowed, nil
	}
	for i := range s.routes {
		r := &s.routes[i]
		switch {
		case !r.matches(in.Method, path):
		case r.token && !in.Token.present:
			return TokenMissing, &r.sensitivity
		case unmet(&r.sensitivity, in.Token.claims, in.Now) != demandNone:
			return StepUpRequired, &r.sensitivity
		}
	}
	return Allowed, nil
}

func (r *route) matches(method, path string) bool {
	return (len(r.methods) == 0 || slices.Contains(r.methods, method)) && anyMatches(r.paths, path)
}

// demand is one of the things that a class can demand of a token.
type demand int

const (
	demandNone demand = iota
	demandACR
	demandAMR
	demandAuthTime
)

// unmet is the first demand of the class that the claims do not meet. Classes of authentication have no order, so the
// token's must be one of those that are named.
func unmet(d *tenancy.Sensitivity, c identity.Claims, now time.Time) demand {
	if len(d.ACR) > 0 && !slices.Contains(d.ACR, c.ACR()) {
		return demandACR
	}
	for _, method := range d.AMR {
		if !c.HasMethod(method) {
			return demandAMR
		}
	}
	if d.MaxAuthAge > 0 {
		if at, said := c.AuthTime(); !said || now.Sub(at) > d.MaxAuthAge {
			return demandAuthTime
		}
	}
	return demandNone
}

// unmetText says to people what the class demands that the decision names, and what the token says.
func unmetText(d Decision, in *Input) string {
	class, c, says := d.unmet, in.Token.claims, "the token does not say it"
	if !in.Token.present {
		return fmt.Sprintf("class %s, of which this route is, requires a token", class.Class)
	}
	switch unmet(class, c, in.Now) {
	case demandACR:
		if c.ACR() != "" {
			says = "the token's is " + c.ACR()
		}
		return fmt.Sprintf("class %s demands acr %s; %s", class.Class, strings.Join(class.ACR, " or "), says)
	case demandAMR:
		return fmt.Sprintf("class %s demands amr %s; the token does not name all of them", class.Class, strings.Join(class.AMR, " and "))
	case demandAuthTime:
		if at, said := c.AuthTime(); said {
			says = "the token's user did so at " + rfc3339(at.Unix())
		}
		return fmt.Sprintf("class %s demands that the user authenticated within %s; %s", class.Class, class.MaxAuthAge, says)
	case demandNone:
	}
	return ""
}

// metText says to people what the classes demand, the service's and those of the routes that match.
func metText(in *Input) string {
	s := in.Service.s
	var texts []string
	if s.sensitivity.Class != "" {
		texts = append(texts, demandsText(&s.sensitivity))
	}
	if path, ok := canonicalPath(in.Path); ok {
		for i := range s.routes {
			if r := &s.routes[i]; r.matches(in.Method, path) {
				texts = append(texts, "of this route, "+demandsText(&r.sensitivity))
			}
		}
	}
	if len(texts) == 0 {
		return "the service is of no class"
	}
	return strings.Join(texts, "; ")
}

func demandsText(class *tenancy.Sensitivity) string {
	var demands []string
	if len(class.ACR) > 0 {
		demands = append(demands, "acr "+strings.Join(class.ACR, " or "))
	}
	if len(class.AMR) > 0 {
		demands = append(demands, "amr "+strings.Join(class.AMR, " and "))
	}
	if class.MaxAuthAge > 0 {
		demands = append(demands, "authenticated within "+class.MaxAuthAge.String())
	}
	if len(demands) == 0 {
		return fmt.Sprintf("class %s demands nothing of how the user authenticated", class.Class)
	}
	return fmt.Sprintf("the token meets class %s: %s", class.Class, strings.Join(demands, ", "))
}
