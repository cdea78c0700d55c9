package authz

import (
	"fmt"
	"strings"
	"time"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
)

// Explanation is a Decision with what led to it. It is for those who may see the tenant's rules, never for a caller.
type Explanation struct {
	Decision Decision
	// Steps are the six of the package's text, in their order.
	Steps []Step
	// Rules are all rules and Grants of the service, in the order in which they are reported; none where no rule was
	// looked at.
	Rules []RuleVerdict
}

// Outcome is how a step ended.
type Outcome string

// The outcomes.
const (
	Passed     Outcome = "passed"
	Failed     Outcome = "failed"
	NotReached Outcome = "not reached"
)

// Step is one of the tests that a call goes through.
type Step struct {
	Name    string
	Outcome Outcome
	Text    string
}

// The names of the steps, in the order of Decide.
var stepNames = [...]string{"caller", "destination", "tenant", "token", "sensitivity", "rules"}

const (
	stepCaller = iota
	stepDestination
	stepTenant
	stepToken
	stepSensitivity
	stepRules
)

// RuleVerdict is what one rule or Grant says of a call.
type RuleVerdict struct {
	// Name is "policy/rule", or the Grant's.
	Name  string
	Grant bool
	// Position is file:line:col, empty for a Grant, whose position no Table carries.
	Position string
	// Fails is the first condition that does not hold: caller, notAfter, method, path or role; empty where the rule covers
	// the call.
	Fails string
	// Text says the condition that fails in words.
	Text string
}

// Explain is Decide with every step. The Decision is Decide's own; what is said of the rules is asked of the rules that
// Decide asks.
func Explain(t *Table, in Input) Explanation {
	e := Explanation{Decision: Decide(t, in)}
	at := failedStep(&in, e.Decision)
	for i, name := range stepNames {
		s := Step{Name: name, Outcome: Passed}
		switch {
		case e.Decision.reason == NotReady || i > at:
			s.Outcome = NotReached
		case i == at && !e.Decision.allowed:
			s.Outcome, s.Text = Failed, e.Decision.reason.Words()
		default:
			s.Text = passedText(i, t, &in)
		}
		e.Steps = append(e.Steps, s)
	}
	if e.Decision.reason == Revoked {
		e.Steps[at].Text = revokedText(t, e.Decision, &in)
	}
	if e.Decision.unmet != nil {
		e.Steps[at].Text = unmetText(e.Decision, &in)
	}
	if e.Decision.allowed || e.Decision.reason == NoRule {
		e.Rules = in.Service.s.verdicts(&in)
		e.Steps[stepRules].Text = rulesText(e)
	}
	return e
}

// failedStep is the step in which a call ends for that reason.
func failedStep(in *Input, d Decision) int {
	switch d.reason {
	case UnknownDestination:
		return stepDestination
	case CrossTenant, GrantMissing, GrantExpired:
		if !in.Caller.IsKnown() { // told from the roots alone: who holds such a certificate is never proved here
			return stepCaller
		}
		return stepTenant
	case Revoked:
		switch {
		case d.token && in.Caller.bearer == "":
			return stepToken
		case d.token:
			return stepTenant
		}
	case TokenMissing, TokenInvalid, TokenExpired, TokenTenantMismatch, IssuerNotAllowed:
		if in.Caller.bearer != "" { // without a good token nobody knows of which tenant the caller is
			return stepTenant
		}
		return stepToken
	case StepUpRequired:
		return stepSensitivity
	case Allowed, NoRule:
		return stepRules
	case NotReady, UnknownCaller, InvalidIdentity, ExpiredIdentity, reasonCount:
	}
	return stepCaller
}

func passedText(step int, t *Table, in *Input) string {
	tenant := in.tenant()
	switch step {
	case stepCaller:
		if in.Caller.bearer != "" {
			return "whom the token names, through asker " + in.Caller.bearer
		}
		how := "is proved"
		if in.Caller.peer.IsZero() {
			how = "is asserted by the asker"
		}
		return fmt.Sprintf("%s %s, a workload of %s", in.Caller.ID(), how, tenant)
	case stepDestination:
		what := "is a service"
		if in.Service.TCP() {
			what = "takes TCP connections"
		}
		return fmt.Sprintf("%s/%s %s, port %s", t.tenant, in.Service.Name(), what, in.Service.Port())
	case stepTenant:
		if tenant.Same(t.tenant) {
			return "caller and destination are of one tenant"
		}
		return fmt.Sprintf("a Grant lets %s call until %s", tenant, rfc3339(in.Service.s.grants[tenant]))
	case stepToken:
		return tokenText(in)
	case stepSensitivity:
		return metText(in)
	}
	return ""
}

func tokenText(in *Input) string {
	mode := map[agentv1alpha1.TokenMode]string{
		agentv1alpha1.TokenMode_TOKEN_MODE_OPTIONAL: "optional", agentv1alpha1.TokenMode_TOKEN_MODE_REQUIRED: "required",
	}[in.Service.s.token]
	switch {
	case in.Service.TCP():
		return "a TCP connection carries none"
	case mode == "":
		return "the service reads no tokens"
	case !in.Token.present:
		return "none, and none is required"
	}
	c := in.Token.claims
	roles := "no roles"
	if r := c.Roles(); len(r) > 0 {
		roles = "roles " + strings.Join(r, ", ")
	}
	return fmt.Sprintf("%s; %s asserts tenant %s, %s, until %s", mode, c.Issuer(), c.Tenant(), roles, rfc3339(c.Expires().Unix()))
}

func rulesText(e Explanation) string {
	switch {
	case e.Decision.allowed:
		return e.Decision.rule + " covers the call"
	case len(e.Rules) == 0:
		return "the service has no rule and no Grant"
	default:
		return "none covers the call"
	}
}

// verdicts asks every rule of the service.
func (s *service) verdicts(in *Input) []RuleVerdict {
	path, ok := canonicalPath(in.Path)
	tcp := s.tcp != 0
	c := s.call(in)
	all := make([]RuleVerdict, 0, len(s.rules))
	for _, r := range s.rules {
		v := RuleVerdict{Name: r.name, Grant: r.until != forever, Position: r.message.GetPosition()}
		switch {
		case !r.names(&c):
			v.Fails, v.Text = "caller", "it does not name the caller"
		case !r.holds(&c):
			v.Fails, v.Text = "notAfter", "it is void since "+rfc3339(r.until)
		case tcp && !in.isRequest():
		case tcp:
			v.Fails, v.Text = "method", "it is for TCP connections, which have none"
		case !r.hasMethod(&c):
			v.Fails, v.Text = "method", "it is for "+strings.Join(r.methods, ", ")
		case !ok:
			v.Fails, v.Text = "path", "the path can be read in more than one way, so no pattern matches it"
		case !anyMatches(r.paths, path):
			v.Fails, v.Text = "path", "it is for "+strings.Join(r.message.GetPaths(), ", ")
		case !r.hasRole(&c):
			v.Fails, v.Text = "role", "it asks for a token with one of the roles "+strings.Join(r.roles, ", ")
		}
		all = append(all, v)
	}
	return all
}

func rfc3339(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }
