package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
)

// report collects the rows of the table of bars.
type report struct {
	out  io.Writer
	rows []row
}

// row is a bar, and what was reached: a number for each repeat, of which the median counts.
type row struct {
	what   string
	bar    float64 // 0: none, it is only shown
	unit   string  // "×" for a ratio
	values []float64
	remark string
}

func (r *report) add(what string, bar float64, unit string, values ...float64) {
	r.rows = append(r.rows, row{what: what, bar: bar, unit: unit, values: values})
}

// missing is a bar that nothing here measures.
func (r *report) missing(what, why string) { r.rows = append(r.rows, row{what: what, remark: why}) }

// remark says more about the last row.
func (r *report) remark(format string, args ...any) {
	r.rows[len(r.rows)-1].remark = fmt.Sprintf(format, args...)
}

func (r *report) note(format string, args ...any) { fmt.Fprintf(r.out, "# "+format+"\n", args...) }

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// spread is how far the repeats lie apart, in hundredths of the median.
func spread(values []float64) float64 {
	m := median(values)
	if m == 0 {
		return 0
	}
	return 100 * (slices.Max(values) - slices.Min(values)) / m
}

func (r row) verdict() string {
	switch {
	case r.bar == 0:
		return ""
	case median(r.values) <= r.bar:
		return "met"
	default:
		return "missed"
	}
}

// number shows three digits that mean something.
func number(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) }

func (r *report) show() {
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tBAR\tREACHED\tSPREAD\tVERDICT\tREMARK")
	for _, row := range r.rows {
		if len(row.values) == 0 {
			fmt.Fprintf(w, "%s\t-\t-\t-\tnot measured\t%s\n", row.what, row.remark)
			continue
		}
		bar, reached := "-", number(median(row.values))+" "+row.unit
		if row.bar != 0 {
			bar = "≤ " + number(row.bar) + " " + row.unit
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.0f %%\t%s\t%s\n", row.what, bar, reached, spread(row.values), row.verdict(), row.remark)
	}
	_ = w.Flush()
}
