package health

import "strings"

// Code is the stable name of a failed check, RC and four digits.
type Code string

// The checks of the control plane and of the way to it.
const (
	CodeUnreachable  Code = "RC1001"
	CodeNotPermitted Code = "RC1002"
	CodeUnpublished  Code = "RC1003"
	CodeNoAnswer     Code = "RC1004"
)

// The checks of certificates.
const (
	CodePlaneSVID     Code = "RC1101"
	CodePlaneStale    Code = "RC1102"
	CodeRootInvalid   Code = "RC1103"
	CodeRootEnds      Code = "RC1104"
	CodeRootOpen      Code = "RC1105"
	CodeNoRoot        Code = "RC1106"
	CodeSidecarStale  Code = "RC1107"
	CodeOwnSVID       Code = "RC1108"
	CodeSidecarExpiry Code = "RC1109"
)

// The checks of clocks.
const (
	CodePlaneClock   Code = "RC1201"
	CodeSidecarClock Code = "RC1202"
)

// The checks of the issuer.
const (
	CodeIssuerAway    Code = "RC1301"
	CodeIssuerForeign Code = "RC1302"
)

// The checks of the configuration.
const (
	CodeProblems    Code = "RC1401"
	CodeStale       Code = "RC1402"
	CodeNotIsolated Code = "RC1403"
	CodeTrouble     Code = "RC1404"
	CodeWarnings    Code = "RC1451"
)

// The checks of sidecars.
const (
	CodeDisconnected Code = "RC1501"
	CodeBehind       Code = "RC1502"
	CodeNoSidecar    Code = "RC1503"
	CodeRefused      Code = "RC1601"
	CodeAgentAway    Code = "RC1701"
	CodeAgentUnready Code = "RC1702"
	CodeNoSecret     Code = "RC1703"
	CodeAgentSVID    Code = "RC1704"
)

// The checks of Envoy.
const (
	CodeEnvoyOld  Code = "RC1801"
	CodeEnvoyOpen Code = "RC1802"
)

// The checks before anything runs.
const (
	CodeNoEnvoy     Code = "RC2001"
	CodeEnvoyBroken Code = "RC2002"
	CodePortTaken   Code = "RC2003"
	CodeStateOpen   Code = "RC2004"
	CodeInvalid     Code = "RC2005"
	CodeLongPath    Code = "RC2006"
	CodeClock       Code = "RC2007"
	CodeAside       Code = "RC2008"
	CodeNoRoom      Code = "RC2009"
	CodeAPIAway     Code = "RC2010"
	CodeNoSVID      Code = "RC2011"
	CodeOtherSVID   Code = "RC2012"
)

// CodeInfo explains a Code.
type CodeInfo struct {
	Code Code
	// Title is what failed in a few words, Meaning says why it matters, Fix what to do.
	Title, Meaning, Fix string
}

// Codes lists every Code in order, with its explanation; docs/checks.md is this table.
func Codes() []CodeInfo {
	return []CodeInfo{
		{CodeUnreachable, "control plane not reached", "Nobody answers where the control plane should be. Sidecars go on with what they have, but get nothing new, and no SVID is renewed.", "Start ringfence serve, or name the right --state, --admin-socket or --control-plane."},
		{CodeNotPermitted, "not permitted to ask", "The control plane does not answer this user, or this certificate.", "Run as the control plane's user, or show the SVID of an operator with --svid and --key."},
		{CodeUnpublished, "no configuration is published", "Without a first configuration nothing is served and every call is denied.", "See the problems of the documents, here or in the control plane's log."},
		{CodeNoAnswer, "control plane does not answer the question", "It is reached and answers something else, as a control plane of an earlier build does.", "See the text; bring both to the same release."},
		{CodePlaneSVID, "control plane without a valid SVID", "Agents cannot prove the control plane, so they take nothing from it.", "See the text; mostly the issuer's state, its sealing key or the clock is wrong."},
		{CodePlaneStale, "control plane's SVID not renewed", "It is renewed at half of its life, and more than three quarters of it are over.", "See the control plane's log for why the issuer does not sign."},
		{CodeRootInvalid, "root outside its validity", "By this machine's clock the root has ended or not begun, so it vouches for nobody.", "Correct the clock, or give the trust domain a new root."},
		{CodeRootEnds, "root ends soon", "A root that ends takes every SVID below it along.", "Give the trust domain a new root while both can be trusted."},
		{CodeRootOpen, "root not confined to its trust domain", "Without a name constraint the root could vouch for the identities of other tenants.", "Replace it by a root whose name constraints permit its own trust domain only, as those of the issuer do. Of external roots this is a warning."},
		{CodeNoRoot, "no root", "Nobody of this trust domain can be believed.", "See the control plane's log for why there is no root."},
		{CodeSidecarStale, "sidecar's SVID not renewed", "It is renewed at half of its life, and more than three quarters of it are over. When it ends, every call is denied there.", "See the agent's log for why the issuer refuses, or its Workload API gives none; join again with a new token if it must be."},
		{CodeOwnSVID, "own SVID not valid", "The certificate that this command shows has ended or not begun.", "Take the present one, which an agent keeps as svid.pem in its state directory, or correct the clock."},
		{CodeSidecarExpiry, "sidecar's SVID has expired", "Every call to and from the workload is denied.", "Join again with a new token: ringfence token create. With a Workload API, see the agent's log for why it gives none."},
		{CodePlaneClock, "clock differs from the control plane's", "Certificates and tokens are judged by each machine's own clock: beyond half a minute new SVIDs are not valid yet, or ended ones still are.", "Let a time service set the clocks of both machines."},
		{CodeSidecarClock, "sidecar's clock differs from the control plane's", "Certificates and tokens are judged by each machine's own clock: beyond half a minute new SVIDs are not valid yet, or ended ones still are.", "Let a time service set the clock of that machine."},
		{CodeIssuerAway, "issuer not reached", "No workload can join.", "See that ringfence serve runs, and that --issuer is its --issuer-listen address."},
		{CodeIssuerForeign, "issuer is somebody else", "What listens there cannot prove that it is the control plane, so no agent gives it a join token.", "Name the right address, platform root and control plane's ID."},
		{CodeProblems, "documents with problems", "Their owner stays on the last accepted documents, or has none.", "Correct them; ringfence validate shows each with its position. docs/problems.md explains the codes."},
		{CodeStale, "newest documents not served", "The owner stays on the last accepted documents, or nothing of it is served.", "Correct the problems of its documents."},
		{CodeNotIsolated, "new configuration not isolated", "The prover found a way from one tenant to another in the newest configuration, so the last one stays for everybody.", "Take back the last change, and please report it: documents that are accepted should be isolated."},
		{CodeTrouble, "newest configuration cannot be brought", "Something outside the documents is in the way: the source, the roots, or the state directory.", "See the text; the attempt is made again by itself."},
		{CodeWarnings, "weaker than it looks", "The documents are accepted, and something in them is weaker or emptier than it looks. This is no failure.", "Run ringfence validate, which shows each with its position."},
		{CodeDisconnected, "sidecar not connected", "No agent holds a stream, so the sidecar gets no changes.", "Start the agent, or see its log."},
		{CodeBehind, "sidecar behind", "Its Envoy has not acknowledged everything yet. For a moment that is normal.", "Ask again; if it stays, see the agent's log, and whether its Envoy runs."},
		{CodeNoSidecar, "no sidecar to see", "No document names such a workload, or it is not yours to see.", "Correct --tenant or --proxy, or ask as somebody who may see it."},
		{CodeRefused, "configuration refused", "An Envoy or its agent refused something and goes on with what it had.", "See what it said: a port that is taken is yours to free, everything else is a fault; please report it."},
		{CodeAgentAway, "agent not reached", "Nobody answers at the address of the agent.", "Start the agent, or correct --agent: it is the agent's --http-listen."},
		{CodeAgentUnready, "agent not ready", "Calls cannot pass at this sidecar.", "See what is missing, and the agent's log."},
		{CodeNoSecret, "Envoy without a secret", "An Envoy that lacks its SVID, or roots that it verifies by, refuses the connections that need them.", "See that Envoy runs, and its log."},
		{CodeAgentSVID, "agent without a new SVID from its Workload API", "The agent goes on with its last SVID until that ends; then every call is denied there.", "See the text: start the SPIFFE agent, correct --workload-api, or register the workload once, for the user that the agent runs as."},
		{CodeEnvoyOld, "Envoy too old", "Before 1.40 a removed root could live on in resumed sessions, and settings that guard tenants are missing.", "Use Envoy 1.40 or newer."},
		{CodeEnvoyOpen, "Envoy with a known vulnerability", "Its version has a vulnerability that a newer one has not.", "Use the version that the text names, or a newer one."},
		{CodeNoEnvoy, "no Envoy", "An agent with --envoy and the demo start Envoy; there is none.", "Install Envoy 1.40 or newer and name it with --envoy or $ENVOY; --envoy none where this machine runs no sidecar."},
		{CodeEnvoyBroken, "Envoy does not say its version", "The file is no Envoy, or cannot run here.", "See the text; run it with --version to see what it is, and name another one."},
		{CodePortTaken, "port taken", "Another process listens at an address that is needed.", "End it, or choose another address."},
		{CodeStateOpen, "state directory not usable", "The state directory holds keys: it is a directory of this user, mode 0700, or can be made.", "See the text: chown or chmod 700 it, or choose another one."},
		{CodeInvalid, "configuration not accepted", "ringfence serve would not serve all of these documents.", "Correct them; ringfence validate shows each problem with its position."},
		{CodeLongPath, "path too long for a socket", "A Unix socket's path has at most 107 bytes, so the sockets in this directory could not be made.", "Choose a directory with a shorter path."},
		{CodeClock, "clock not sane", "Certificates are judged by the clock, and this one cannot be right.", "Let a time service set the clock."},
		{CodeAside, "file set aside as damaged", "A file of the state directory could not be used and has another name now; what it held is gone until it comes anew.", "See whether the disk is well (docs/repair.md), then remove the file that was set aside."},
		{CodeNoRoom, "disk full", "What cannot be written is lost with the process: a renewed SVID, a configuration, the entry of an SVID, without which none is given.", "Make room, or move the state directory to a disk of its own (docs/repair.md)."},
		{CodeAPIAway, "Workload API not reached", "Nobody answers at the socket, so an agent that is started with it gets no SVID.", "Start the SPIFFE agent, name its socket, and let this user connect to it."},
		{CodeNoSVID, "no SVID from the Workload API", "It gives this process none that can be used: it is told apart by its user, and by what else its issuer looks at.", "See the text; register the workload once, for the user that the agent will run as, and ask as that user."},
		{CodeOtherSVID, "SVID of another workload", "The Workload API takes this process for somebody else, of this tenant or of another one.", "Correct --id, or the registration: its SPIFFE ID is the one that the Mesh maps to the workload."},
	}
}

func (c Code) info() CodeInfo {
	for _, i := range Codes() {
		if i.Code == c {
			return i
		}
	}
	return CodeInfo{Code: c}
}

// Anchor is where the documentation explains the code, from the top of the repository.
func (i CodeInfo) Anchor() string {
	words := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r >= '0' && r <= '9', r >= 'a' && r <= 'z':
			return r
		default:
			return -1
		}
	}, strings.ToLower(string(i.Code)+" "+i.Title))
	return "docs/checks.md#" + words
}
