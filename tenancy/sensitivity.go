package tenancy

import (
	"fmt"
	"slices"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

// Sensitivity is a class of data, and what the class demands of how the user of a token was authenticated. Only a service
// or route that requires tokens has demands; the zero value has none.
type Sensitivity struct {
	// Class is the name that the Mesh gives it.
	Class string
	// ACR are the authentication context classes of which the token must name one, the most preferred first; none: any.
	ACR []string
	// AMR are the authentication methods that the token must all name.
	AMR []string
	// MaxAuthAge is how long ago the user may have been authenticated, in whole seconds; 0: any time ago.
	MaxAuthAge time.Duration
}

// Route is a part of a service: a request that it matches meets its class beside the service's, whatever rule allows it. So
// a route can demand more, and never less.
type Route struct {
	// Methods are those it is about; none: every method.
	Methods []string
	// Paths are patterns as CheckPath takes them.
	Paths []string
	// TokenRequired says that the class requires a token. A service with a route reads tokens where the class does.
	TokenRequired bool
	Sensitivity   Sensitivity
}

func (r Route) clone() Route {
	r.Methods, r.Paths, r.Sensitivity = slices.Clone(r.Methods), slices.Clone(r.Paths), r.Sensitivity.clone()
	return r
}

const (
	maxRoutes     = 32
	maxRoutePaths = 32

	// A challenge holds both lists: at most 2 KiB of values, which every client and proxy takes in a header.
	maxDemanded     = 8
	maxDemandedText = 128
	maxAuthAge      = 30 * 24 * time.Hour
)

// Demands reports whether a token alone is not enough.
func (s Sensitivity) Demands() bool { return len(s.ACR)+len(s.AMR) > 0 || s.MaxAuthAge != 0 }

// Check says why the demands are none that a token can meet and that a challenge can carry (RFC 9470).
func (s Sensitivity) Check() error {
	for _, list := range [][]string{s.ACR, s.AMR} {
		if len(list) > maxDemanded {
			return fmt.Errorf("acr and amr have at most %d values each", maxDemanded)
		}
		if !allChallengeTexts(list) {
			return errChallengeText
		}
	}
	if s.MaxAuthAge < 0 || s.MaxAuthAge > maxAuthAge || s.MaxAuthAge%time.Second != 0 {
		return fmt.Errorf("maxAuthAge is whole seconds, at most %dh", maxAuthAge/time.Hour)
	}
	return nil
}

func (s Sensitivity) clone() Sensitivity {
	s.ACR, s.AMR = slices.Clone(s.ACR), slices.Clone(s.AMR)
	return s
}

var errChallengeText = fmt.Errorf(`acr and amr are 1 to %d characters of visible ASCII, without space, " and \`, maxDemandedText)

func allChallengeTexts(list []string) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !challengeText(s) })
}

// challengeText reports whether s can stand in a list of a challenge's parameter: an NQCHAR of RFC 6750 (appendix A) has
// the same meaning to those who read the header's escapes and to those who do not.
func challengeText(s string) bool {
	if s == "" || len(s) > maxDemandedText {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\' {
			return false
		}
	}
	return true
}

// class is a class of the Mesh.
type class struct {
	sensitivity Sensitivity
	token       TokenMode // the least that a service of the class says
	broken      bool      // it has problems, so nothing follows from it
}

// readClasses drafts the classes of a Mesh that is whole.
func (b *builder) readClasses(mesh *v1alpha1.Mesh) {
	b.classes = map[string]class{}
	for name, doc := range mesh.Spec.Sensitivity {
		before := len(b.problems)
		b.name(doc.Name, "a class of sensitivity")
		b.demanded(doc.ACR, "acr")
		b.demanded(doc.AMR, "amr")
		c := class{token: tokenMode(doc.Token.Value), sensitivity: Sensitivity{
			Class: name, ACR: values(doc.ACR), AMR: values(doc.AMR), MaxAuthAge: doc.MaxAuthAge.Value,
		}}
		if age := doc.MaxAuthAge; age.IsSet() && (age.Value == 0 || Sensitivity{MaxAuthAge: age.Value}.Check() != nil) {
			b.reportAt(age.Pos, v1alpha1.CodeSensitivity, "write for example 5m",
				"maxAuthAge is whole seconds, from 1s to %dh", maxAuthAge/time.Hour)
		}
		if c.sensitivity.Demands() && c.token != TokenRequired {
			b.reportAt(doc.Pos, v1alpha1.CodeSensitivity, "add token: required to the class",
				"acr, amr and maxAuthAge are demands on a token, so the class must require one")
		}
		c.broken = len(b.problems) > before
		b.classes[name] = c
	}
}

// demanded checks the values of a list that tokens are held against.
func (b *builder) demanded(list []v1alpha1.String, what string) {
	b.unique(list, what)
	if len(list) > maxDemanded {
		b.reportAt(list[maxDemanded].Pos, v1alpha1.CodeSensitivity, "", "%s has at most %d values", what, maxDemanded)
	}
	for _, s := range list {
		if !challengeText(s.Value) {
			b.reportAt(s.Pos, v1alpha1.CodeSensitivity, "", "a value of %s is 1 to %d characters of ASCII, without space, \" and \\, not %s", what, maxDemandedText, v1alpha1.Quote(s.Value))
		}
	}
}

// readSensitivity gives a service and its routes the demands of their classes, and reports a service that asks less for
// tokens than they do.
func (b *builder) readSensitivity(s *draftService) {
	spec := s.doc.Spec
	if len(spec.Ports) == 0 {
		if spec.Sensitivity.IsSet() {
			b.reportAt(spec.Sensitivity.Pos, v1alpha1.CodeNoEffect, "", "sensitivity has no effect on a service without ports")
		}
		if len(spec.Routes) > 0 {
			b.reportAt(spec.Routes[0].Pos, v1alpha1.CodeNoEffect, "", "routes have no effect on a service without ports")
		}
		return
	}
	if spec.Sensitivity.IsSet() {
		if c, ok := b.class(spec.Sensitivity); !ok {
			s.token = TokenRequired // so that nothing seems to follow from it, such as roles without a token
		} else if b.asks(s, c.token, spec.Sensitivity) {
			s.sensitivity = c.sensitivity
		}
	}
	if len(spec.Routes) > 0 && s.port.Protocol == TCP {
		b.reportAt(spec.Routes[0].Pos, v1alpha1.CodeNotOfTCP, "remove routes", "a TCP connection has no method and no path")
		return
	}
	if len(spec.Routes) > maxRoutes {
		b.reportAt(spec.Routes[maxRoutes].Pos, v1alpha1.CodeTooMuch, "", "a service has at most %d routes", maxRoutes)
		return
	}
	for _, r := range spec.Routes {
		b.readRoute(s, r)
	}
}

// readRoute lets a service that says nothing of tokens read them where the route's class does: which requests must carry
// one is the route's to say.
func (b *builder) readRoute(s *draftService, doc v1alpha1.Route) {
	route := Route{}
	route.Methods, route.Paths = b.requests(doc.Methods, doc.Paths)
	if len(doc.Paths) > maxRoutePaths {
		b.reportAt(doc.Paths[maxRoutePaths].Pos, v1alpha1.CodeTooMuch, "", "a route has at most %d paths", maxRoutePaths)
	}
	c, ok := b.class(doc.Sensitivity)
	if !ok {
		s.token = max(s.token, TokenOptional)
		return
	}
	route.TokenRequired, route.Sensitivity = c.token == TokenRequired, c.sensitivity
	own, further := s.sensitivity, c.sensitivity
	both := func(acr string) bool { return slices.Contains(further.ACR, acr) }
	if len(own.ACR) > 0 && len(further.ACR) > 0 && !slices.ContainsFunc(own.ACR, both) {
		b.reportAt(doc.Sensitivity.Pos, v1alpha1.CodeSensitivity, "let the two classes have one acr in common, or give the service another class",
			"a token has one acr, and none meets both class %s and the service's, %s", further.Class, own.Class)
		return
	}
	if b.asks(s, min(c.token, TokenOptional), doc.Sensitivity) {
		s.routes = append(s.routes, route)
	}
}

// class finds a class of the Mesh; false where nothing follows from the name, which is reported unless it is the Mesh's own
// problem and must not become the owner's.
func (b *builder) class(name v1alpha1.String) (class, bool) {
	c, known := b.classes[name.Value]
	if !known && b.classes != nil {
		b.reportAt(name.Pos, v1alpha1.CodeUnknownReference, v1alpha1.Suggest(name.Value, keys(b.classes)),
			"the Mesh has no class of sensitivity %s", v1alpha1.Quote(name.Value))
	}
	return c, known && !c.broken
}

// asks raises what a service says of tokens to the least that a class of its data needs. A service that says less in so
// many words is reported.
func (b *builder) asks(s *draftService, least TokenMode, of v1alpha1.String) bool {
	token := s.doc.Spec.Token
	if token.IsSet() && tokenMode(token.Value) < least {
		b.reportAt(token.Pos, v1alpha1.CodeSensitivity, fmt.Sprintf("write token: %s, or leave it out", least),
			"token: %s is less than class %s demands", token.Value, of.Value)
		return false
	}
	s.token = max(s.token, least)
	return true
}
