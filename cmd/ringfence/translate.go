package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

func newTranslate(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "translate DIR --workload SPIFFE-ID",
		Short: "Print the exact Envoy configuration that a workload would get, offline",
		Long: `Compiles and proves a configuration directory as "ringfence serve" does, with roots that are thrown away, and prints as
JSON what one workload would get: its Envoy resources, byte for byte but for the roots, and the table that calls to it are
decided by. Exit code 1: the directory has problems, or no document names the workload.`,
		Example: `  ringfence translate examples/two-tenants --workload spiffe://acme.demo.test/ns/acme/sa/orders`,
		Args:    cobra.ExactArgs(1),
	}
	workload := cmd.Flags().String("workload", "", "SPIFFE ID of the workload (required)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *workload == "" {
			return usage("--workload is missing: name a SPIFFE ID, for example spiffe://acme.demo.test/ns/acme/sa/orders")
		}
		g, report, err := try(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if !report.Clean() {
			printReport(process{out: p.err}, report)
			return found()
		}
		w, ok := g.Workload(*workload)
		if !ok {
			return fmt.Errorf("%s: no document names a workload of that SPIFFE ID", *workload)
		}
		snapshot, table, ok := g.Snapshot(w)
		if !ok {
			return fmt.Errorf("%s has no configuration", w)
		}
		t := translation{APIVersion: v1alpha1.APIVersion, Kind: "Translation", Workload: w.String(), Snapshot: snapshot.Version()}
		for _, r := range snapshot.All() {
			readable, err := newConfigResource(r.TypeURL(), r.Name(), r.Version(), r.Value())
			if err != nil {
				return err
			}
			t.Resources = append(t.Resources, readable)
		}
		if t.Table, err = tableJSON(table); err != nil {
			return err
		}
		return printJSON(p.out, t)
	}
	return cmd
}

// translation is what translate prints.
type translation struct {
	APIVersion string           `json:"apiVersion"`
	Kind       string           `json:"kind"`
	Workload   string           `json:"workload"`
	Snapshot   string           `json:"snapshot"`
	Resources  []configResource `json:"resources"`
	Table      json.RawMessage  `json:"table"`
}
