package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

func newVersion(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
	}
	format := addOutput(cmd.Flags())
	cmd.RunE = func(*cobra.Command, []string) error {
		if *format == outputText {
			fmt.Fprintf(p.out, "ringfence %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		}
		return printJSON(p.out, struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Version    string `json:"version"`
			Go         string `json:"go"`
			Platform   string `json:"platform"`
		}{v1alpha1.APIVersion, "Version", version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH})
	}
	return cmd
}

func newSchema(p process) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the documents, for editors",
		Example: `  ringfence schema > .ringfence.schema.json
  # then, as the first line of a document:
  # yaml-language-server: $schema=.ringfence.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			schema, err := v1alpha1.Schema()
			if err != nil {
				return fmt.Errorf("schema: %w", err)
			}
			fmt.Fprintf(p.out, "%s", schema)
			return nil
		},
	}
}

// printJSON writes a value as people and programs can read it.
func printJSON(w interface{ Write([]byte) (int, error) }, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("output: %w", err)
	}
	return nil
}
