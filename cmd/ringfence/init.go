package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/examples"
)

// schemaFile is where the documents of a new directory find their schema. No source reads a name that begins with a dot.
const schemaFile = ".ringfence.schema.json"

func newInit(p process) *cobra.Command {
	return &cobra.Command{
		Use:   "init DIR",
		Short: "Write a small configuration directory to begin with",
		Long: `Writes the documents of a small mesh, with comments: one tenant, a service and its caller, the rules between them and a
policy test, and the JSON Schema by which editors complete and check them. The directory is made, or is empty.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := writeStarter(args[0]); err != nil {
				return err
			}
			dir := shellQuote(args[0])
			fmt.Fprintf(p.out, `%[1]s holds a mesh: begin with %[2]s.

Next:
  ringfence validate %[3]s                  every problem, with its position
  ringfence test %[3]s --coverage           what the policy test expects, and which rules it does not reach
  ringfence demo --config %[3]s             all of it on this machine, on real Envoys
  ringfence serve --config %[3]s            the control plane
`, args[0], filepath.Join(args[0], "mesh.yaml"), dir)
			return nil
		},
	}
}

// writeStarter fills a directory that is empty or does not exist; any other is left as it is.
func writeStarter(dir string) error {
	switch entries, err := os.ReadDir(dir); {
	case err == nil && len(entries) > 0:
		return usage("%s is not empty, and nothing was written: name a new directory", dir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return usage("%s is not a directory that can be written: %w", dir, err)
	}
	schema, err := v1alpha1.Schema()
	if err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	if err := os.CopyFS(dir, examples.Starter()); err != nil {
		return fmt.Errorf("documents: %w", err)
	}
	const readable = 0o644
	if err := os.WriteFile(filepath.Join(dir, schemaFile), schema, readable); err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	return nil
}
