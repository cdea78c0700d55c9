package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

func newTenant(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tenant",
		Short: "Change what belongs to one tenant: the root of its identities",
		Args:  subcommand,
		RunE:  help,
	}
	cmd.AddCommand(newRotateKeys(p))
	return cmd
}

func newRotateKeys(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate-keys TENANT",
		Short: "Replace the root of a tenant's identities without losing a call",
		Long: `Makes a new root for the tenant's trust domain and lets it take the old one's place, in steps that the control plane takes by
itself, also across its restarts, each when everybody concerned is ready:

  published  both roots are trusted, the old one signs, until every sidecar that trusts the tenant has acknowledged the new one
  signing    the new one signs, until every SVID of the old one is renewed and has ended: about the life of an SVID
  withdrawn  the old root is trusted no more and its key removed, until every sidecar has acknowledged that

--status names the workloads that the present step waits for, and why. --rollback goes back to the old root, until that is
withdrawn. Sidecars that are not connected hold a step up only as long as their SVID holds. Other tenants' sidecars get nothing.

A Tenant or Mesh that says rootLife lets a rotation begin by itself when the root is so old; --status then says when.

--compromised is for a root whose key may be in a stranger's hands. It waits for nobody: whatever the tenant's roots have signed is
worth nothing at once, a new root signs, and the tenant is down until each of its workloads has joined again with a new token. It
works at any step of a rotation, and cannot be taken back. --status then says who has joined again and who has not.`,
		Example: `  ringfence tenant rotate-keys acme --yes
  ringfence tenant rotate-keys acme --status
  ringfence tenant rotate-keys acme --rollback
  ringfence tenant rotate-keys acme --compromised --yes`,
		Args: cobra.ExactArgs(1),
	}
	socket := addAdminSocket(cmd, p)
	show := cmd.Flags().Bool("status", false, "say where the rotation stands, and change nothing")
	rollback := cmd.Flags().Bool("rollback", false, "go back to the old root")
	compromised := cmd.Flags().Bool("compromised", false, "withdraw the root at once: the tenant is down until its workloads have joined again")
	yes := cmd.Flags().Bool("yes", false, "begin: the rotation ends by itself with the old root withdrawn")
	format := addOutput(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ask := agentv1alpha1.RotationsClient.Begin
		switch {
		case (*show && *rollback) || ((*yes || *compromised) && (*show || *rollback)):
			return usage("--status, --rollback and --yes exclude each other, and --compromised the first two")
		case *show:
			ask = agentv1alpha1.RotationsClient.Show
		case *rollback:
			ask = agentv1alpha1.RotationsClient.Rollback
		case *compromised && !*yes:
			return usage("this withdraws every root of %s at once, and cannot be taken back: the whole tenant is DOWN until each of its workloads "+
				"has joined again with a new join token. Nobody else is. Say --yes to do it; if the key is safe, a rotation without --compromised loses no call", args[0])
		case *compromised:
			ask = agentv1alpha1.RotationsClient.Compromised
		case !*yes:
			return usage("this replaces the root of %s, and the old one cannot be had back once it is withdrawn: say --yes to begin, or --status to look", args[0])
		}
		var answer *agentv1alpha1.RotationStatus
		err := askAdmin(cmd.Context(), socket(), args[0], func(ctx context.Context, conn *grpc.ClientConn) (err error) {
			answer, err = ask(agentv1alpha1.NewRotationsClient(conn), ctx, &agentv1alpha1.RotationRequest{Tenant: args[0]})
			return err
		})
		if err != nil {
			return err
		}
		r := newKeyRotation(answer)
		if *format == outputJSON {
			return printJSON(p.out, r)
		}
		return r.print(p)
	}
	return cmd
}

// keyRotation is what `tenant rotate-keys` prints.
type keyRotation struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Tenant     string `json:"tenant"`
	// Step is none, published, signing, withdrawn or attesting.
	Step     string `json:"step"`
	Rollback bool   `json:"rollback"`
	// SigningRoot and TrustedRoot are generations: of the root that signs, and of the other one that is trusted, 0 for none.
	SigningRoot int64      `json:"signingRoot"`
	TrustedRoot int64      `json:"trustedRoot"`
	Started     *time.Time `json:"started,omitempty"`
	Since       *time.Time `json:"since,omitempty"`
	// Due is when the next rotation begins by itself.
	Due     *time.Time     `json:"due,omitempty"`
	Waiting []keyStraggler `json:"waiting"`
	// Attested are the workloads that have joined again since their SVIDs were ended as compromised.
	Attested []string `json:"attested,omitempty"`
	// TrustFile is where the control plane keeps the tenant's roots for those who only verify.
	TrustFile string `json:"trustFile,omitempty"`
}

type keyStraggler struct {
	Workload string `json:"workload"`
	Why      string `json:"why"`
	// Until is when it holds the step up no longer in any case.
	Until *time.Time `json:"until,omitempty"`
	Do    string     `json:"do"`

	attests bool
}

func newKeyRotation(answer *agentv1alpha1.RotationStatus) keyRotation {
	r := keyRotation{
		APIVersion: v1alpha1.APIVersion, Kind: "KeyRotation", Tenant: answer.GetTenant(), Step: stepName(answer.GetStep()),
		Rollback: answer.GetRollback(), SigningRoot: answer.GetSigning(), TrustedRoot: answer.GetBeside(),
		Started: moment(answer.GetStartedUnix()), Since: moment(answer.GetSinceUnix()), Due: moment(answer.GetDueUnix()),
		Waiting:  []keyStraggler{},
		Attested: answer.GetAttested(), TrustFile: answer.GetTrustFile(),
	}
	for _, s := range answer.GetWaiting() {
		why, do := whyWaiting(s.GetWhy())
		attests := s.GetWhy() == agentv1alpha1.Waiting_WAITING_ATTESTATION
		if attests {
			do = "ringfence token create " + s.GetWorkload()
		}
		r.Waiting = append(r.Waiting, keyStraggler{
			Workload: s.GetWorkload(), Why: why, Do: do, Until: moment(s.GetUntilUnix()), attests: attests,
		})
	}
	return r
}

func stepName(s agentv1alpha1.RotationStep) string {
	switch s {
	case agentv1alpha1.RotationStep_ROTATION_STEP_PUBLISHED:
		return "published"
	case agentv1alpha1.RotationStep_ROTATION_STEP_SIGNING:
		return "signing"
	case agentv1alpha1.RotationStep_ROTATION_STEP_WITHDRAWN:
		return "withdrawn"
	case agentv1alpha1.RotationStep_ROTATION_STEP_ATTESTING:
		return "attesting"
	case agentv1alpha1.RotationStep_ROTATION_STEP_NONE:
	}
	return "none"
}

// whyWaiting says what a workload holds up, and what can be done.
func whyWaiting(w agentv1alpha1.Waiting) (why, do string) {
	switch w {
	case agentv1alpha1.Waiting_WAITING_ACKNOWLEDGEMENT:
		return "has not acknowledged the roots", "wait; if it stays, look at it with: ringfence proxy list"
	case agentv1alpha1.Waiting_WAITING_REFUSED:
		return "refuses its configuration", "see what it refuses: ringfence proxy list"
	case agentv1alpha1.Waiting_WAITING_CONNECTION:
		return "is not connected", "start its agent, or wait until its SVID has ended; it then joins with a new token"
	case agentv1alpha1.Waiting_WAITING_RENEWAL:
		return "has not renewed its SVID", "wait: it renews at half of its life; if it does not, its agent's log says why"
	case agentv1alpha1.Waiting_WAITING_END:
		return "has renewed; connections of its SVID before may be open", "wait until that SVID has ended"
	case agentv1alpha1.Waiting_WAITING_ATTESTATION:
		return "is down: it has not joined again", "give its agent a new join token"
	case agentv1alpha1.Waiting_WAITING_UNSPECIFIED:
	}
	return "is waited for", "use a ringfence of the control plane's version to see why"
}

func moment(unix int64) *time.Time {
	if unix == 0 {
		return nil
	}
	t := time.Unix(unix, 0).UTC()
	return &t
}

// says is one sentence for where the rotation stands.
func (r keyRotation) says() string {
	switch {
	case r.Step == "published":
		return fmt.Sprintf("root %d signs, root %d is published: every sidecar that trusts %s is to acknowledge it", r.SigningRoot, r.TrustedRoot, r.Tenant)
	case r.Step == "signing" && r.Rollback:
		return fmt.Sprintf("taken back: root %d signs again; what root %d has signed is renewed, and ends", r.SigningRoot, r.TrustedRoot)
	case r.Step == "signing":
		return fmt.Sprintf("root %d signs; what root %d has signed is renewed, and ends", r.SigningRoot, r.TrustedRoot)
	case r.Step == "attesting" && r.missing() == 0:
		return fmt.Sprintf("root %d signs, every root before is withdrawn as compromised: every sidecar is to acknowledge that", r.SigningRoot)
	case r.Step == "attesting":
		return fmt.Sprintf("root %d signs, every root before is withdrawn as compromised: of %d workloads %d are down until they have joined again",
			r.SigningRoot, r.missing()+len(r.Attested), r.missing())
	case r.Step == "withdrawn":
		return fmt.Sprintf("root %d signs, the other is withdrawn: every sidecar is to acknowledge that", r.SigningRoot)
	case r.Due != nil:
		return fmt.Sprintf("no rotation is under way, root %d signs; the next one begins by itself on %s", r.SigningRoot, r.Due.Format(time.RFC3339))
	default:
		return fmt.Sprintf("no rotation is under way, root %d signs", r.SigningRoot)
	}
}

// missing is how many workloads have not joined again.
func (r keyRotation) missing() int {
	n := 0
	for _, s := range r.Waiting {
		if s.attests {
			n++
		}
	}
	return n
}

func (r keyRotation) print(p process) error {
	fmt.Fprintf(p.out, "%s: %s: %s\n", r.Tenant, r.Step, r.says())
	for _, w := range r.Attested {
		fmt.Fprintf(p.out, "joined again: %s\n", w)
	}
	if len(r.Waiting) > 0 {
		w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "WAITING FOR\tWHY\tUNTIL\tDO")
		for _, s := range r.Waiting {
			until := "-"
			if s.Until != nil {
				until = s.Until.Format(time.RFC3339)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Workload, s.Why, until, s.Do)
		}
		if err := w.Flush(); err != nil {
			return fmt.Errorf("output: %w", err)
		}
	}
	if r.missing() > 0 {
		fmt.Fprint(p.err, "For each of them: make a token (the command in DO, with --out FILE), and start its agent again with --join-token-file FILE.\n"+
			"The agent has removed its old identity and gets the new root with the new one; --platform-root stays as it is.\n")
	}
	if r.Step == "attesting" && r.TrustFile != "" {
		fmt.Fprintf(p.err, "Whoever verifies %s by a file (ringfence authz --trust on another machine) needs the new one: %s\n", r.Tenant, r.TrustFile)
	}
	if !r.Rollback && (r.Step == "published" || r.Step == "signing") {
		fmt.Fprintf(p.err, "To undo it, until the old root is withdrawn: ringfence tenant rotate-keys %s --rollback\n", r.Tenant)
	}
	return nil
}
