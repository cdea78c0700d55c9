package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

const defaultRevokedFor = 24 * time.Hour

func newRevoke(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke",
		Short: "Refuse a workload, a certificate or tokens from the next call on",
		Long: `Revocations are kept by the control plane on this machine, which is asked through its admin socket, and travel to the
sidecars that the revoked one could call. They refuse the next call, also on connections that are open, and hold until their
time limit or until they are undone, whatever becomes of the control plane. Revocation documents do the same for good reasons
that belong into the configuration.`,
		Args: subcommand,
		RunE: help,
	}
	cmd.AddCommand(newRevokeToken(p), newRevokeWorkload(p), newRevokeUndo(p), newRevokeList(p))
	return cmd
}

// revokeFlags are those of every command that revokes.
type revokeFlags struct {
	socket func() string
	reason string
	length time.Duration
	yes    bool
	format *output
}

func addRevoke(cmd *cobra.Command, p process) *revokeFlags {
	r := &revokeFlags{socket: addAdminSocket(cmd, p), format: addOutput(cmd.Flags())}
	cmd.Flags().StringVar(&r.reason, "reason", "", "why, for people")
	cmd.Flags().DurationVar(&r.length, "for", defaultRevokedFor, "how long it holds")
	addYes(cmd, &r.yes)
	return r
}

func addYes(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVar(yes, "yes", false, "do not ask first")
}

// confirm asks who sits at a terminal. Nobody else is there to be asked.
func confirm(p process, yes bool, what string) error {
	if yes {
		return nil
	}
	if !isTerminal(os.Stdin) || !isTerminal(p.err) {
		return usage("%s: say --yes to do it", what)
	}
	fmt.Fprintf(p.err, "%s? Type yes: ", what)
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n') // what cannot be read is no yes
	if strings.TrimSpace(line) != "yes" {
		return usage("nothing was done")
	}
	return nil
}

func newRevokeWorkload(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "workload [SPIFFE-ID]",
		Short: "Refuse calls of one workload, or of one of its certificates",
		Long: `With a SPIFFE ID: every call of that workload, whichever certificate it shows, and JWT-SVIDs that name it. With --serial and
--trust-domain: that one certificate.`,
		Example: `  ringfence revoke workload spiffe://acme.demo.test/ns/acme/sa/web --reason "host stolen" --for 72h
  ringfence revoke workload --serial 1f:3a:09 --trust-domain acme.demo.test --reason "key leaked"`,
		Args: cobra.MaximumNArgs(1),
	}
	r := addRevoke(cmd, p)
	serial := cmd.Flags().String("serial", "", "serial number of a certificate, in hex, in place of the SPIFFE ID")
	domain := cmd.Flags().String("trust-domain", "", "trust domain of that certificate")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id := &agentv1alpha1.RevokedIdentity{Serial: *serial, TrustDomain: *domain}
		if len(args) == 1 {
			id.Workload = args[0]
		}
		switch {
		case id.GetWorkload() == "" && *serial == "":
			return usage("name a workload by its SPIFFE ID, or a certificate by --serial and --trust-domain")
		case id.GetWorkload() != "" && (*serial != "" || *domain != ""):
			return usage("name a workload or a certificate, not both")
		case (*serial == "") != (*domain == ""):
			return usage("--serial and --trust-domain go together")
		}
		return r.revoke(cmd.Context(), p, id)
	}
	return cmd
}

func newRevokeToken(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Refuse one bearer token, or all of a subject or session",
		Long: `Tokens are meant by one of their claims: jti (one token), sub (all of one user) or sid (all of one session). Services that
read no tokens do not notice.`,
		Example: `  ringfence revoke token --jti 5b0c2f --tenant acme --reason "token in a log"
  ringfence revoke token --subject alice --issuer https://idp.acme.example.com --for 2h --reason "account taken over"`,
		Args: cobra.NoArgs,
	}
	r := addRevoke(cmd, p)
	id := &agentv1alpha1.RevokedIdentity{}
	f := cmd.Flags()
	f.StringVar(&id.Jti, "jti", "", "the jti of one token")
	f.StringVar(&id.Subject, "subject", "", "the sub of the tokens")
	f.StringVar(&id.Session, "session", "", "the sid of the tokens")
	f.StringVar(&id.Issuer, "issuer", "", "only tokens with this iss")
	f.StringVar(&id.Tenant, "tenant", "", "only tokens of this tenant (default every tenant's)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		named := 0
		for _, claim := range []string{id.GetJti(), id.GetSubject(), id.GetSession()} {
			if claim != "" {
				named++
			}
		}
		if named != 1 {
			return usage("name the tokens by one of --jti, --subject and --session")
		}
		return r.revoke(cmd.Context(), p, id)
	}
	return cmd
}

func (r *revokeFlags) revoke(ctx context.Context, p process, id *agentv1alpha1.RevokedIdentity) error {
	switch {
	case r.reason == "":
		return usage("--reason is missing: say why, for those who find it later")
	case r.length < time.Second:
		return usage("--for must be a second or more")
	}
	if err := confirm(p, r.yes, "revoke "+whom(id)); err != nil {
		return err
	}
	until := time.Now().Add(r.length)
	var answer *agentv1alpha1.RevokeResponse
	err := askAdmin(ctx, r.socket(), whom(id), func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		answer, err = agentv1alpha1.NewRevocationsClient(conn).Revoke(ctx, &agentv1alpha1.RevokeRequest{
			Identity: id, Reason: r.reason, NotAfterUnix: until.Unix(),
		})
		return err
	})
	if err != nil {
		return err
	}
	row := newRevocationRow(&agentv1alpha1.ListedRevocation{
		Name: answer.GetName(), Identity: id, Reason: r.reason, NotAfterUnix: until.Unix(),
	})
	if *r.format == outputJSON {
		row.APIVersion, row.Kind = v1alpha1.APIVersion, "RevocationStatus"
		err = printJSON(p.out, row)
	} else {
		fmt.Fprintln(p.out, row.Name)
	}
	fmt.Fprintf(p.err, "Revoked %s until %s, in generation %d. To undo it: ringfence revoke undo %s\n",
		whom(id), row.NotAfter.Format(time.RFC3339), answer.GetGeneration(), row.Name)
	return err
}

func newRevokeUndo(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "undo NAME",
		Short:   "Let in again whom a revocation refuses",
		Long:    `Forgets a revocation that ringfence revoke made, by the name that it printed. One that a document made ends with the document.`,
		Example: `  ringfence revoke undo r-5e0c88a1`,
		Args:    cobra.ExactArgs(1),
	}
	socket := addAdminSocket(cmd, p)
	var yes bool
	addYes(cmd, &yes)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := confirm(p, yes, "undo revocation "+args[0]); err != nil {
			return err
		}
		return askAdmin(cmd.Context(), socket(), args[0], func(ctx context.Context, conn *grpc.ClientConn) error {
			answer, err := agentv1alpha1.NewRevocationsClient(conn).Undo(ctx, &agentv1alpha1.UndoRevocationRequest{Name: args[0]})
			if err == nil {
				fmt.Fprintf(p.err, "Undone, in generation %d.\n", answer.GetGeneration())
			}
			return err
		})
	}
	return cmd
}

func newRevokeList(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Say who is revoked, by whom and until when",
		Long:    `Lists what operators have revoked and what Revocation documents revoke, as far as its time limit is not over.`,
		Example: `  ringfence revoke list --tenant acme`,
		Args:    cobra.NoArgs,
	}
	socket := addAdminSocket(cmd, p)
	tenant := cmd.Flags().String("tenant", "", "only what is about this tenant")
	format := addOutput(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var answer *agentv1alpha1.ListRevocationsResponse
		err := askAdmin(cmd.Context(), socket(), "", func(ctx context.Context, conn *grpc.ClientConn) (err error) {
			answer, err = agentv1alpha1.NewRevocationsClient(conn).List(ctx, &agentv1alpha1.ListRevocationsRequest{Tenant: *tenant})
			return err
		})
		if err != nil {
			return err
		}
		return printRevocations(p, *format, answer.GetRevocations())
	}
	return cmd
}

// revocationRow is a revocation as people and programs see it.
type revocationRow struct {
	APIVersion  string    `json:"apiVersion,omitempty"`
	Kind        string    `json:"kind,omitempty"`
	Name        string    `json:"name"`
	Workload    string    `json:"workload,omitempty"`
	Serial      string    `json:"serial,omitempty"`
	TrustDomain string    `json:"trustDomain,omitempty"`
	JTI         string    `json:"jti,omitempty"`
	Subject     string    `json:"subject,omitempty"`
	Session     string    `json:"session,omitempty"`
	Issuer      string    `json:"issuer,omitempty"`
	Tenant      string    `json:"tenant,omitempty"`
	Reason      string    `json:"reason"`
	NotAfter    time.Time `json:"notAfter"`
	// Document is where it is written; empty for an operator's.
	Document string `json:"document,omitempty"`
}

func newRevocationRow(r *agentv1alpha1.ListedRevocation) revocationRow {
	id := r.GetIdentity()
	return revocationRow{
		Name: r.GetName(), Workload: id.GetWorkload(), Serial: id.GetSerial(), TrustDomain: id.GetTrustDomain(), JTI: id.GetJti(),
		Subject: id.GetSubject(), Session: id.GetSession(), Issuer: id.GetIssuer(), Tenant: id.GetTenant(), Reason: r.GetReason(),
		NotAfter: time.Unix(r.GetNotAfterUnix(), 0).UTC(), Document: r.GetPosition(),
	}
}

// whom says in words who is revoked.
func whom(id *agentv1alpha1.RevokedIdentity) string {
	var text string
	switch {
	case id.GetWorkload() != "":
		return id.GetWorkload()
	case id.GetSerial() != "":
		return "certificate " + id.GetSerial() + " of " + id.GetTrustDomain()
	case id.GetJti() != "":
		text = "token " + id.GetJti()
	case id.GetSubject() != "":
		text = "tokens of subject " + id.GetSubject()
	default:
		text = "tokens of session " + id.GetSession()
	}
	if id.GetIssuer() != "" {
		text += " by " + id.GetIssuer()
	}
	if id.GetTenant() != "" {
		text += " for " + id.GetTenant()
	}
	return text
}

func printRevocations(p process, format output, list []*agentv1alpha1.ListedRevocation) error {
	if format == outputJSON {
		rows := make([]revocationRow, 0, len(list))
		for _, r := range list {
			rows = append(rows, newRevocationRow(r))
		}
		return printJSON(p.out, struct {
			APIVersion  string          `json:"apiVersion"`
			Kind        string          `json:"kind"`
			Revocations []revocationRow `json:"revocations"`
		}{v1alpha1.APIVersion, "RevocationList", rows})
	}
	if len(list) == 0 {
		fmt.Fprintln(p.err, "nobody is revoked")
		return nil
	}
	const padding = 2
	w := tabwriter.NewWriter(p.out, 0, 0, padding, ' ', 0)
	fmt.Fprintln(w, "NAME\tREVOKED\tUNTIL\tREASON")
	for _, r := range list {
		row := newRevocationRow(r)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", row.Name, whom(r.GetIdentity()), row.NotAfter.Format(time.RFC3339), row.Reason)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("output: %w", err)
	}
	return nil
}
