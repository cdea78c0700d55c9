package identity

import (
	"fmt"
	"time"
)

// MaxJWTSVIDLife is how long a JWT-SVID lives at most that the embedded issuer signs.
const MaxJWTSVIDLife = 5 * time.Minute

// What a JWT-SVID may be asked for, so that with the longest SPIFFE ID it stays below what verifiers read of a token.
const (
	maxSVIDAudiences    = 16
	maxSVIDAudienceText = 1536
)

// CheckAudience says what is wrong with the audiences that a JWT-SVID is asked for: there is at least one, since a token
// without any would be good everywhere (JWT-SVID standard, section 3.2), they are few, and each is visible ASCII.
func CheckAudience(audience []string) error {
	if len(audience) == 0 || len(audience) > maxSVIDAudiences {
		return fmt.Errorf("a JWT-SVID is for 1 to %d audiences, not %d", maxSVIDAudiences, len(audience))
	}
	sum := 0
	for n, a := range audience {
		if !visible(a, maxClaimText) {
			return fmt.Errorf("audience %d: visible ASCII, 1 to %d characters", n+1, maxClaimText)
		}
		sum += len(a)
	}
	if sum > maxSVIDAudienceText {
		return fmt.Errorf("the audiences have %d characters together, at most %d are possible", sum, maxSVIDAudienceText)
	}
	return nil
}
