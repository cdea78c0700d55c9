package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// place is where a token stands in a file, counted as go/token does.
type place struct{ line, column int }

// gremlinsFlags turn on what gremlins leaves out unless asked.
func gremlinsFlags() []string {
	return []string{
		"--invert-assignments", "--invert-bitwise", "--invert-bwassign", "--invert-logical", "--invert-loopctrl",
		"--remove-self-assignments",
	}
}

// changes asks gremlins which tokens of a folder's own files it would change, and how.
func (r runner) changes(ctx context.Context, folder, work string) (map[string]map[place][]string, error) {
	output := filepath.Join(work, "gremlins.json")
	program, err := filepath.Abs(r.gremlins)
	if err != nil {
		return nil, err
	}
	args := append([]string{"unleash", "--dry-run", "--silent", "--output", output}, gremlinsFlags()...)
	cmd := exec.CommandContext(ctx, program, append(args, "./"+folder)...) //nolint:gosec // the program that -gremlins names
	cmd.Dir = r.dir
	// It measures coverage first, which is not used here: no test need run for it.
	cmd.Env = append(os.Environ(), "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -run=^$"))
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("gremlins: %w\n%s", err, text)
	}
	data, err := os.ReadFile(output)
	if err != nil {
		return nil, err
	}
	var report struct {
		Files []struct {
			Name      string `json:"file_name"` //nolint:tagliatelle // gremlins' name
			Mutations []struct {
				Type   string `json:"type"`
				Line   int    `json:"line"`
				Column int    `json:"column"`
			} `json:"mutations"`
		} `json:"files"`
	}
	if err := json.Unmarshal(data, &report); err != nil {
		return nil, fmt.Errorf("gremlins: %w", err)
	}
	all := map[string]map[place][]string{}
	for _, f := range report.Files {
		all[f.Name] = map[place][]string{}
		for _, m := range f.Mutations {
			at := place{m.Line, m.Column}
			all[f.Name][at] = append(all[f.Name][at], m.Type)
		}
	}
	return all, nil
}
