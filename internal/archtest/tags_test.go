package archtest

import (
	"bytes"
	"os/exec"
	"testing"
)

// TestNoBuildTagWidensIdentities builds with go-spiffe's tag for its old, wider alphabet, and demands that what identities are is the
// same. An environment variable for it does not exist in the library: the tag alone decides.
func TestNoBuildTagWidensIdentities(t *testing.T) {
	t.Parallel()
	const ran = "--- PASS: TestTheLibrarysOldAlphabetIsNone"
	cmd := exec.CommandContext(t.Context(), "go", "test", "-v", "-count=1", "-tags", "spiffeid_charset_backcompat",
		"-run", "^(TestTheLibrarysOldAlphabetIsNone|TestMappingParse|TestVerifyLeaf|TestURISANMalformed|FuzzSPIFFEID|FuzzPeerCertificate)$", "./identity")
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(ran)) {
		t.Errorf("%v\n%s", err, out)
	}
}
