package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// process is what a command may use of the process that it runs in.
type process struct {
	out, err  io.Writer
	lookupEnv func(string) (string, bool)
}

// run runs one command line and gives back the exit code.
func run(ctx context.Context, args []string, p process) int {
	p.out, p.err = newPlain(p.out), newPlain(p.err)
	root := newRoot(p) //nolint:contextcheck // cobra hands the context to the command that runs
	root.SetArgs(args)
	root.SetOut(p.out)
	root.SetErr(p.err)
	err := root.ExecuteContext(ctx)
	var marked *exitError
	switch {
	case err == nil:
	case errors.As(err, &marked) && marked.err == nil:
	default:
		// An error of several lines, or one that holds somebody's line break, begins none that could be taken for another's.
		fmt.Fprintf(p.err, "ringfence: %s\n", strings.ReplaceAll(message(err), "\n", "\n  "))
	}
	code := exitCode(err)
	if code == exitUsage {
		fmt.Fprintf(p.err, "See %q.\n", helpOf(root, args))
	}
	return code
}

func newRoot(p process) *cobra.Command {
	root := &cobra.Command{
		Use:   "ringfence",
		Short: "Gives every tenant its own mesh on shared Envoys",
		Long: `Ringfence pushes each sidecar only its own tenant's configuration, decides every call from the caller's SPIFFE identity
and token, and publishes no configuration that it has not proved isolated.

"ringfence demo" shows all of it on this machine; "ringfence serve" and "ringfence agent" run a mesh of your own. It is
described by YAML documents in a directory, DIR below, which "ringfence validate" checks. A workload is named by its SPIFFE
ID, such as spiffe://acme.demo.test/ns/acme/sa/web, and proves it by a certificate, its SVID.

Every flag can also be given as an environment variable: --xds-listen is RINGFENCE_XDS_LISTEN. A flag wins over the
environment. Exit codes: 0 done, 1 findings or denied, 2 wrong usage, 3 cannot reach, 4 not permitted.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          subcommand,
		RunE:          help,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return fromEnvironment(cmd.Flags(), p.lookupEnv)
		},
	}
	root.SetHelpCommand(&cobra.Command{Use: "no-help", Hidden: true})
	root.AddCommand(
		newDemo(p),
		newServe(p),
		newAgent(p),
		newAuthz(p),
		newReady(p),
		newCheck(p),
		newToken(p),
		newRevoke(p),
		newTenant(p),
		newProxy(p),
		newInit(p),
		newValidate(p),
		newTest(p),
		newExplain(p),
		newWhy(p),
		newTranslate(p),
		newBootstrap(p),
		newSchema(p),
		newMan(p),
		newVersion(p),
	)
	markUsage(root)
	return root
}

// help is what a command does that only holds others.
func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// subcommand refuses what is none of the command's, and says what was probably meant.
func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	const misspelt = 2
	cmd.SuggestionsMinimumDistance = misspelt
	hint := ""
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf(", did you mean %q?", strings.Join(near, `" or "`))
	}
	return fmt.Errorf("unknown command %q for %q%s", args[0], cmd.CommandPath(), hint)
}

// markUsage makes what cobra itself finds wrong a usage error, and what a command returns not one by accident.
func markUsage(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exitError{code: exitUsage, err: err} })
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			err := check(c, args)
			switch {
			case err == nil:
				return nil
			case c.HasSubCommands(): // the error is subcommand's
			case len(args) == 0:
				err = fmt.Errorf("an argument is missing: write %s", c.UseLine())
			default:
				err = fmt.Errorf("wrong arguments %q: write %s", strings.Join(args, " "), c.UseLine())
			}
			return &exitError{code: exitUsage, err: err}
		}
	}
	for _, sub := range cmd.Commands() {
		markUsage(sub)
	}
}

// fromEnvironment sets every flag that the command line does not from its environment variable.
func fromEnvironment(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "RINGFENCE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := lookup(name)
		if !ok || f.Changed || f.Name == "help" {
			return
		}
		// Not by flags.Set, whose error speaks of a flag that nobody wrote.
		if err := f.Value.Set(value); err != nil {
			errs = append(errs, usage("%s: %w", name, err))
			return
		}
		f.Changed = true
	})
	return errors.Join(errs...)
}

// message is an error as people read it.
func message(err error) string {
	text := err.Error()
	// cobra puts its usage behind some errors.
	if first, _, ok := strings.Cut(text, "\n\nUsage:"); ok {
		text = first
	}
	return strings.TrimSpace(text)
}

// helpOf is the command line that explains the command that was meant.
func helpOf(root *cobra.Command, args []string) string {
	cmd, _, err := root.Find(args)
	if err != nil || cmd == nil {
		cmd = root
	}
	return cmd.CommandPath() + " --help"
}

// output is the flag -o of a command.
type output string

const (
	outputText output = "text"
	outputJSON output = "json"
)

var _ pflag.Value = (*output)(nil)

func addOutput(flags *pflag.FlagSet) *output {
	o := outputText
	flags.VarP(&o, "output", "o", "text or json")
	return &o
}

func (o *output) String() string { return string(*o) }

// Set takes the formats that there are.
func (o *output) Set(s string) error {
	switch v := output(s); v {
	case outputText, outputJSON:
		*o = v
		return nil
	case "table": // what text is for people
		*o = outputText
		return nil
	default:
		return fmt.Errorf("%q is not one of text, json", s)
	}
}

// Type is what help says of the value.
func (*output) Type() string { return "format" }
