package tenancy

import (
	"fmt"
	"slices"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

// Sensitivity is a service's class of data, and what the class demands of how the user of a token was authenticated. Only
// a service that requires tokens has demands; the zero value has none.
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

const (
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

// readSensitivity gives a service the demands of its class, and reports a service that asks less for tokens than the class.
func (b *builder) readSensitivity(s *draftService) {
	name, token := s.doc.Spec.Sensitivity, s.doc.Spec.Token
	if !name.IsSet() {
		return
	}
	if len(s.doc.Spec.Ports) == 0 {
		b.reportAt(name.Pos, v1alpha1.CodeNoEffect, "", "sensitivity has no effect on a service without ports")
		return
	}
	c, known := b.classes[name.Value]
	switch {
	case b.classes == nil || c.broken:
		// The Mesh's problem, which must not become the owner's by what seems to follow, such as roles without a token.
		s.token = TokenRequired
	case !known:
		b.reportAt(name.Pos, v1alpha1.CodeUnknownReference, v1alpha1.Suggest(name.Value, keys(b.classes)),
			"the Mesh has no class of sensitivity %s", v1alpha1.Quote(name.Value))
	case token.IsSet() && s.token < c.token:
		b.reportAt(token.Pos, v1alpha1.CodeSensitivity, fmt.Sprintf("write token: %s, or leave it out", c.token),
			"token: %s is less than class %s demands", token.Value, name.Value)
	default:
		s.token, s.sensitivity = max(s.token, c.token), c.sensitivity
	}
}
