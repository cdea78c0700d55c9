package pipeline

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/prove"
)

// Report is what Check found.
type Report struct {
	// Problems are all of them, sorted. Without any, and without a Counterexample, Run accepts everything as it is.
	Problems       []v1alpha1.Problem
	Counterexample *prove.Counterexample
	// TestProblems are those of the policy tests, sorted. Run does not read these documents, so it accepts the rest also
	// where they have problems. Where the rest has problems, only those of each test alone are told.
	TestProblems []v1alpha1.Problem
	// Tests are the policy tests without problems, by position.
	Tests []*v1alpha1.AccessTest
	// Warnings are what is accepted, and weaker or emptier than it looks. There are none beside problems.
	Warnings []v1alpha1.Problem
	// What was read and what it makes. The last three are 0 where there are problems.
	Files, Tenants, Services, Workloads int
}

// Clean reports whether Run accepts everything as it is.
func (r Report) Clean() bool { return len(r.Problems) == 0 && r.Counterexample == nil }

// Check judges what a source holds as Run would, without keeping or publishing anything: every owner's newest documents
// together. The error is of the source or of the bundles. keySets may be nil: then issuers that publish their keys have none.
func Check(ctx context.Context, s Source, bundles Bundles, keySets KeySets) (Report, error) {
	_, r, err := Try(ctx, s, bundles, keySets)
	return r, err
}

// Try is Check, and gives what Run would publish; nil where the Report is not clean.
func Try(ctx context.Context, s Source, bundles Bundles, keySets KeySets) (*Generation, Report, error) {
	files, found, revision, err := s.Load(ctx)
	if err != nil {
		return nil, Report{}, err
	}
	r := Report{Files: len(files)}
	tests, testProblems := decodeTests(files, found)
	r.TestProblems = v1alpha1.SortProblems(testProblems)
	newest, problems := decode(files, found)
	for _, owner := range slices.Sorted(maps.Keys(newest)) {
		problems = append(problems, newest[owner].problems...)
	}
	b := builder{bundles: bundles, keySets: keySets}
	made, more := b.make(newest)
	if b.trouble != nil {
		return nil, Report{}, b.trouble
	}
	if r.Problems = v1alpha1.SortProblems(append(problems, more...)); len(r.Problems) > 0 {
		return nil, r, nil
	}
	proof, counterexample := prove.Prove(made.model, made.parts(), made.tables())
	if counterexample != nil {
		r.Counterexample = counterexample
		return nil, r, nil //nolint:nilerr // what the prover finds is a finding, as problems are
	}
	g, err := newGeneration(1, revision, time.Time{}, made, proof)
	if err != nil {
		return nil, r, err
	}
	var (
		mismatched []v1alpha1.Problem
		warned     []v1alpha1.Problem
	)
	r.Tests, mismatched, warned = made.model.CheckTests(tests)
	r.TestProblems = v1alpha1.SortProblems(append(testProblems, mismatched...))
	r.Warnings = v1alpha1.SortProblems(append(made.model.Warnings(), warned...))
	count(&r, made)
	return g, r, nil
}

func count(r *Report, made build) {
	for _, id := range made.model.Tenants() {
		t, ok := made.model.Tenant(id)
		if !ok {
			continue
		}
		if !id.IsPlatform() {
			r.Tenants++
		}
		r.Services += len(t.Services())
		r.Workloads += len(t.Workloads())
	}
}
