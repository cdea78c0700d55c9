package main

import "fmt"

// requirement is a kind of bytes that strangers write, and the target that must feed it.
type requirement struct {
	reads  string
	pkg    string // the package's folder in the module
	target string
}

// required are the inputs that must never be without a fuzz target.
func required() []requirement {
	return []requirement{
		{"documents", "api/v1alpha1", "FuzzDecode"},
		{"SPIFFE IDs", "identity", "FuzzSPIFFEID"}, //nolint:goconst // a table
		{"peer certificates", "identity", "FuzzPeerCertificate"},
		{"successors of roots", "identity", "FuzzSuccession"},
		{"tokens", "identity", "FuzzToken"},
		{"key sets of documents", "identity", "FuzzTokenIssuerJWKS"},
		{"key sets that issuers publish", "identity", "FuzzKeySet"},
		{"answers of a Workload API", "identity/workloadapi", "FuzzAnswer"},
		{"certificate requests", "identity/issuer", "FuzzCSR"},
		{"the ledger of SVIDs", "identity/issuer", "FuzzLedger"},
		{"resource names", "tenancy", "FuzzResourceName"},
		{"relayed resources", "prove", "FuzzRelayed"},
		{"tables", "authz", "FuzzDecodeTable"},
		{"CheckRequests", "authz/extauthz", "FuzzCheck"},
		{"encoded CheckRequests", "authz/extauthz", "FuzzScan"},
		{"x-forwarded-client-cert headers", "authz/extauthz", "FuzzXFCC"},
		{"discovery requests", "xds/delta", "FuzzConversation"},
		{"discovery requests for the state of the world", "xds/sotw", "FuzzConversation"},
		{"what clients of discovery say of themselves", "xds", "FuzzReadHint"},
		{"the agent's cache", "agent", "FuzzState"},
		{"what applications ask for", "agent", "FuzzWorkloadAPI"},
		{"the control plane's accepted documents", "internal/controlplane", "FuzzAccepted"},
	}
}

// missing says which requirements no target fulfils.
func missing(need []requirement, found []target) []string {
	have := make(map[string]bool, len(found))
	for _, t := range found {
		have[t.folder+"."+t.name] = true
	}
	var gaps []string
	for _, r := range need {
		if !have[r.pkg+"."+r.target] {
			gaps = append(gaps, fmt.Sprintf("nothing fuzzes %s: there is no %s in %s", r.reads, r.target, r.pkg))
		}
	}
	return gaps
}
