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

// Sensitivity is the service's class of data and what it demands of a token. It is safe to put into the challenge of a
// refusal: what cannot stand in one is not in a Table.
func (r ServiceRef) Sensitivity() tenancy.Sensitivity {
	s := r.get().sensitivity
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

// addSensitivity takes only demands that are made of every call: a service that lets calls pass without a token demands
// nothing of tokens.
func (s *service) addSensitivity(m *agentv1alpha1.Sensitivity) error {
	if m == nil {
		return nil
	}
	if !identity.ValidName(m.GetName()) {
		return errors.New("the class has no valid name")
	}
	if a := m.GetMaxAuthAgeSeconds(); a < 0 || a > int64(maxLifetime/time.Second) {
		return errors.New("maxAuthAge is out of range")
	}
	s.sensitivity = tenancy.Sensitivity{
		Class: m.GetName(), ACR: m.GetAcr(), AMR: m.GetAmr(), MaxAuthAge: time.Duration(m.GetMaxAuthAgeSeconds()) * time.Second,
	}
	if s.sensitivity.Demands() && s.token != agentv1alpha1.TokenMode_TOKEN_MODE_REQUIRED {
		return errors.New("it demands something of a token and requires none")
	}
	return s.sensitivity.Check()
}

// demand is one of the things that a class can demand of a token.
type demand int

const (
	demandNone demand = iota
	demandACR
	demandAMR
	demandAuthTime
)

// unmet is the first demand of the service's class that the claims do not meet. Classes of authentication have no order, so
// the token's must be one of those that are named.
func (s *service) unmet(c identity.Claims, now time.Time) demand {
	d := &s.sensitivity
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

// unmetText says to people what the class demands and what the token says.
func unmetText(in *Input) string {
	s, c := in.Service.s, in.Token.claims
	d, says := s.sensitivity, "the token does not say it"
	switch s.unmet(c, in.Now) {
	case demandACR:
		if c.ACR() != "" {
			says = "the token's is " + c.ACR()
		}
		return fmt.Sprintf("class %s demands acr %s; %s", d.Class, strings.Join(d.ACR, " or "), says)
	case demandAMR:
		return fmt.Sprintf("class %s demands amr %s; the token does not name all of them", d.Class, strings.Join(d.AMR, " and "))
	case demandAuthTime:
		if at, said := c.AuthTime(); said {
			says = "the token's user did so at " + rfc3339(at.Unix())
		}
		return fmt.Sprintf("class %s demands that the user authenticated within %s; %s", d.Class, d.MaxAuthAge, says)
	case demandNone:
	}
	return ""
}

// metText says to people what the class demands.
func metText(in *Input) string {
	d := in.Service.s.sensitivity
	var demands []string
	if len(d.ACR) > 0 {
		demands = append(demands, "acr "+strings.Join(d.ACR, " or "))
	}
	if len(d.AMR) > 0 {
		demands = append(demands, "amr "+strings.Join(d.AMR, " and "))
	}
	if d.MaxAuthAge > 0 {
		demands = append(demands, "authenticated within "+d.MaxAuthAge.String())
	}
	switch {
	case d.Class == "":
		return "the service is of no class"
	case len(demands) == 0:
		return fmt.Sprintf("class %s demands nothing of how the user authenticated", d.Class)
	default:
		return fmt.Sprintf("the token meets class %s: %s", d.Class, strings.Join(demands, ", "))
	}
}
