package main

import (
	"errors"
	"fmt"
	"math/big"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/internal/whatif"
	"github.com/ringfence-mesh/ringfence/source"
)

// testOptions are the flags of test.
type testOptions struct {
	run         string
	junit       string
	failOnEmpty bool
	coverage    bool
	threshold   percent
	format      *output
}

func newTest(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test DIR",
		Short: "Run the policy tests of a configuration directory",
		Long: `Decides the calls of every AccessTest document, in tests/ and tenants/<tenant>/tests/, with the code that decides real calls,
and compares each with what the document expects. Nothing is sent, and nothing needs to run. Callers and tokens are believed
as "ringfence explain" believes them.

--coverage lists the rules and Grants that no case was allowed by. Its percentage is always rounded down.

Exit code 0: every case that ran was decided as expected. 1: one was not, a document has problems, nothing ran and
--fail-on-empty is set, or --threshold is missed. 2: wrong usage.`,
		Example: `  ringfence test DIR
  ringfence test DIR --run 'orders/.*manager'
  ringfence test DIR --fail-on-empty --threshold 100 --junit report.xml`,
		Args: cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	var o testOptions
	f.StringVar(&o.run, "run", "", "run only the cases whose TEST/CASE this regular expression matches somewhere")
	f.StringVar(&o.junit, "junit", "", "also write the results into this file, as JUnit XML")
	f.BoolVar(&o.failOnEmpty, "fail-on-empty", false, "fail if no case ran")
	f.BoolVar(&o.coverage, "coverage", false, "say which rules and Grants no case was allowed by")
	f.Var(&o.threshold, "threshold", "fail if less than so many percent of the rules and Grants are covered (implies --coverage)")
	o.format = addOutput(f)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.coverage = o.coverage || o.threshold.Rat != nil
		return runTests(cmd, p, args[0], o)
	}
	return cmd
}

func runTests(cmd *cobra.Command, p process, dir string, o testOptions) error {
	pattern, err := regexp.Compile(o.run)
	if err != nil {
		return usage("--run: %w", err)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return usage("%s is not a directory that can be read", dir)
	}
	start := time.Now()
	chosen := func(c whatif.Case) bool { return pattern.MatchString(c.FullName()) }
	run, report, err := whatif.RunTests(cmd.Context(), source.NewDirectory(dir, zap.NewNop()), start, chosen)
	if err != nil {
		return fmt.Errorf("cannot test %s: %w", dir, err)
	}
	if run == nil {
		printReport(process{out: p.err}, report)
		return found()
	}
	for _, w := range report.Warnings {
		if v1alpha1.IsTest(w.File) {
			fmt.Fprintf(p.err, "warning: %s\n\n", w.Render())
		}
	}
	r := newTestReport(dir, run, o)
	if o.junit != "" {
		if err := writeJUnit(o.junit, r, time.Since(start)); err != nil {
			return err
		}
	}
	if *o.format == outputJSON {
		err = printJSON(p.out, r)
	} else {
		printTestReport(p.out, r)
	}
	if err == nil && !r.Passed {
		return found()
	}
	return err
}

// percent is the flag --threshold: 0 to 100, exact. The zero value is none.
type percent struct{ *big.Rat }

var _ pflag.Value = (*percent)(nil)

var (
	percentForm = regexp.MustCompile(`^[0-9]{1,3}(\.[0-9]{1,9})?$`)
	errPercent  = errors.New("a percentage is a number from 0 to 100, for example 95 or 99.5")
)

// Set reads a percentage.
func (p *percent) Set(text string) error {
	if !percentForm.MatchString(text) { // big.Rat would also take fractions, and exponents of any size
		return errPercent
	}
	const whole = 100
	value, ok := new(big.Rat).SetString(text)
	if !ok || value.Cmp(big.NewRat(whole, 1)) > 0 {
		return errPercent
	}
	p.Rat = value
	return nil
}

// String is the percentage as people write it.
func (p *percent) String() string {
	if p.Rat == nil {
		return ""
	}
	const digits = 9
	return strings.TrimSuffix(strings.TrimRight(p.FloatString(digits), "0"), ".")
}

// Type is what help says of the value.
func (*percent) Type() string { return "percent" }
