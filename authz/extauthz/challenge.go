package extauthz

import (
	"strconv"
	"strings"
	"time"

	"github.com/ringfence-mesh/ringfence/tenancy"
)

// The challenges of refusals for which a caller must bring another token (RFC 6750, section 3).
const (
	challengeMissing = `Bearer realm="ringfence"`
	challengeInvalid = challengeMissing + `, error="invalid_token"`
	challengeStepUp  = challengeMissing + `, error="insufficient_user_authentication"`
)

// stepUp is the challenge of RFC 9470, section 3: what the class demands, all of it, whatever of it was not met, so that
// the user authenticates once. The parameters say what authorization servers can be asked for; methods have none there.
// Nothing needs an escape: a Table holds only values that a quoted-string carries as they are.
func stepUp(s tenancy.Sensitivity) string {
	var b strings.Builder
	b.WriteString(challengeStepUp + `, error_description="The user must authenticate again`)
	if len(s.AMR) > 0 {
		b.WriteString(" by all of: " + strings.Join(s.AMR, " "))
	}
	b.WriteString(`"`)
	if len(s.ACR) > 0 {
		b.WriteString(`, acr_values="` + strings.Join(s.ACR, " ") + `"`)
	}
	if s.MaxAuthAge > 0 {
		b.WriteString(`, max_age="` + strconv.FormatInt(int64(s.MaxAuthAge/time.Second), 10) + `"`)
	}
	return b.String()
}
