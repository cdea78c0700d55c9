// Command mutation changes one thing at a time in the code of some packages and runs their unit tests, to see whether one of
// them notices: the mutation score. It fails where a change survives and no line of a list explains why it may.
//
// The changes of tokens are those that the tool gremlins finds; changes of whole conditions, results and statements are its
// own. gremlins' own runner is not used: it takes a change that does not compile for a killed one, never tries the
// conditions of a switch, and builds the tests anew for each change. Here nearly all changes are compiled into one test
// binary, switched on by an environment variable, and of the tests only those run that come by the change.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "mutation:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("mutation", flag.ContinueOnError)
	gremlins := flags.String("gremlins", ".cache/tools/gremlins", "the `program` that lists changes of tokens")
	list := flags.String("explained", "", "the `file` with the survivors that are explained")
	match := flags.String("run", "", "run only tests whose name matches this `expression`")
	skip := flags.String("skip", "", "leave tests out whose name matches this `expression`")
	only := flags.String("only", "", "try only changes whose line in the list matches this `expression`")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: mutation [flags] FOLDER[:FILE,FILE...]...")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("no package is named")
	}
	r := runner{dir: ".", gremlins: *gremlins, leastCPU: 5 * time.Second, out: out}
	var err error
	if r.match, err = regexp.Compile(*match); err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	if *skip != "" {
		if r.skip, err = regexp.Compile(*skip); err != nil {
			return fmt.Errorf("-skip: %w", err)
		}
	}
	if r.only, err = regexp.Compile(*only); err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	var known explained
	if *list != "" {
		if known, err = readExplained(*list); err != nil {
			return err
		}
	}
	var all []result
	for _, arg := range flags.Args() {
		folder, files, _ := strings.Cut(arg, ":")
		t := target{folder: strings.TrimPrefix(folder, "./")}
		if files != "" {
			t.files = strings.Split(files, ",")
		}
		results, err := r.target(ctx, t)
		if err != nil {
			return fmt.Errorf("%s: %w", t.folder, err)
		}
		score(out, t.folder, results)
		all = append(all, results...)
	}
	return known.compare(out, all, *only == "")
}
