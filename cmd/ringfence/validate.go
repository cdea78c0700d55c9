package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/source"
)

func newValidate(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "validate DIR",
		Short: "Say every problem of a configuration directory, with its position and what was probably meant",
		Long: `Judges a configuration directory as "ringfence serve" does: decodes, builds, compiles and proves it, with roots that are
thrown away. Policy tests are judged too, though serve does not read them and "ringfence test" runs them. Exit code 0: all of
it is accepted, perhaps with warnings about what is weaker or emptier than it looks. 1: there are problems.`,
		Example: `  ringfence validate examples/two-tenants`,
		Args:    cobra.ExactArgs(1),
	}
	format := addOutput(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		_, report, err := try(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if *format == outputJSON {
			err = printJSON(p.out, newValidation(report))
		} else {
			printReport(p, report)
		}
		if err == nil && (!report.Clean() || len(report.TestProblems) > 0) {
			return found()
		}
		return err
	}
	return cmd
}

// try makes of a directory what "ringfence serve" would publish, with roots that are thrown away.
func try(ctx context.Context, dir string) (*pipeline.Generation, pipeline.Report, error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, pipeline.Report{}, usage("%s is not a directory that can be read", dir)
	}
	roots, err := issuer.OpenMemory(issuer.Options{})
	if err != nil {
		return nil, pipeline.Report{}, fmt.Errorf("throw-away roots: %w", err)
	}
	bundles := func(domains ...identity.TrustDomain) (identity.Bundles, error) {
		return roots.Bundles(time.Now(), domains...)
	}
	g, report, err := pipeline.Try(ctx, source.NewDirectory(dir, zap.NewNop()), bundles, nil)
	if err != nil {
		return nil, report, fmt.Errorf("cannot judge %s: %w", dir, err)
	}
	return g, report, nil
}

// validation is a report as programs read it.
type validation struct {
	APIVersion     string             `json:"apiVersion"`
	Kind           string             `json:"kind"`
	Valid          bool               `json:"valid"`
	Problems       []v1alpha1.Problem `json:"problems"`
	Warnings       []v1alpha1.Problem `json:"warnings"`
	Counterexample string             `json:"counterexample,omitempty"`
	Files          int                `json:"files"`
	Tenants        int                `json:"tenants"`
	Services       int                `json:"services"`
	Workloads      int                `json:"workloads"`
}

func newValidation(r pipeline.Report) validation {
	v := validation{
		APIVersion: v1alpha1.APIVersion, Kind: "Validation", Problems: allProblems(r), Warnings: r.Warnings,
		Files: r.Files, Tenants: r.Tenants, Services: r.Services, Workloads: r.Workloads,
	}
	if v.Problems == nil {
		v.Problems = []v1alpha1.Problem{} // a list for programs, also when it is empty
	}
	if v.Warnings == nil {
		v.Warnings = []v1alpha1.Problem{}
	}
	if r.Counterexample != nil {
		v.Counterexample = r.Counterexample.Error()
	}
	v.Valid = r.Clean() && len(v.Problems) == 0
	return v
}

// allProblems are those of the policy tests too.
func allProblems(r pipeline.Report) []v1alpha1.Problem {
	return v1alpha1.SortProblems(slices.Concat(r.Problems, r.TestProblems))
}

func printReport(p process, r pipeline.Report) {
	problems := allProblems(r)
	for _, problem := range problems {
		fmt.Fprintf(p.out, "%s\n\n", problem.Render())
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(p.out, "warning: %s\n\n", warning.Render())
	}
	if r.Counterexample != nil {
		fmt.Fprintf(p.out, "not isolated: %s\n\n", r.Counterexample)
	}
	switch {
	case r.Clean() && len(problems) == 0:
		warnings := ""
		if n := len(r.Warnings); n > 0 {
			warnings = ", " + count(n, "warning")
		}
		fmt.Fprintf(p.out, "no problems%s: %s, %s, %s in %s\n",
			warnings, count(r.Tenants, "tenant"), count(r.Services, "service"), count(r.Workloads, "workload"), count(r.Files, "file"))
	case r.Counterexample != nil:
		fmt.Fprintf(p.out, "the configuration is not isolated, and serve would refuse it\n")
	default:
		files := map[string]bool{}
		for _, problem := range problems {
			files[problem.File] = true
		}
		fmt.Fprintf(p.out, "%s in %s\n", count(len(problems), "problem"), count(len(files), "file"))
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
