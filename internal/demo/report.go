package demo

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Row is one line of the printed matrix.
type Row struct {
	Call   Call
	Result Result
}

// OK reports whether the call ended as expected.
func (r Row) OK() bool { return r.Result.As(r.Call.Want) }

// RunMatrix sends the calls one after the other, so that every refusal can be told to its layer, and prints each as it
// ends. It returns the rows; an error is a fault of the test bed.
func (m *Caller) RunMatrix(ctx context.Context, calls []Call, w io.Writer) ([]Row, error) {
	columns := []column{
		{"#", 2}, {"from", 0}, {"request", 0}, {"token", 0}, {"expected", 0}, {"got", 0}, {"refused by", 0}, {"ms", 4}, {"", 1},
	}
	for _, c := range calls {
		for i, cell := range []string{"", c.From, describe(c), c.Token.String(), c.Want.outcome(), c.Want.outcome(), string(c.Want.Layer)} {
			columns[i].width = max(columns[i].width, utf8.RuneCountInString(cell), utf8.RuneCountInString(columns[i].title))
		}
	}
	printRow(w, columns, headings(columns))
	var rows []Row
	for i, c := range calls {
		result, err := m.Do(ctx, c)
		if err != nil {
			return rows, fmt.Errorf("call %d: %w", i+1, err)
		}
		row := Row{Call: c, Result: result}
		rows = append(rows, row)
		mark := "✓"
		if !row.OK() {
			mark = "✗ expected " + c.Want.String()
		}
		got := Want{Status: result.Status, Layer: result.Layer, Reason: result.Reason}
		printRow(w, columns, []string{
			strconv.Itoa(i + 1), c.From, describe(c), c.Token.String(), c.Want.outcome(), got.outcome(), string(result.Layer),
			milliseconds(result.Took), mark,
		})
	}
	return rows, nil
}

// String is the outcome in a few words: the status, its reason, and the layer that refused.
func (w Want) String() string {
	if w.Layer == LayerNone || w.Refused {
		return w.outcome()
	}
	return w.outcome() + " by " + string(w.Layer)
}

func (w Want) outcome() string {
	switch {
	case w.Refused:
		return "refused " + w.Reason
	case w.Status == 0:
		return "no connection"
	case w.Reason != "":
		return strconv.Itoa(w.Status) + " " + w.Reason
	default:
		return strconv.Itoa(w.Status)
	}
}

func describe(c Call) string {
	if c.Raw == nil {
		return fmt.Sprintf("%s http://%s%s", c.Method, c.To, c.Path)
	}
	how := "no SNI"
	if c.Raw.SNI != "" {
		how = "SNI of " + c.Raw.SNI
	}
	if c.Raw.Anonymous {
		how += ", no cert"
	}
	if len(c.Header) > 0 {
		how += ", forged headers"
	}
	return fmt.Sprintf("TLS to %s (%s)", c.To, how)
}

type column struct {
	title string
	width int
}

func headings(columns []column) []string {
	var titles []string
	for _, c := range columns {
		titles = append(titles, c.title)
	}
	return titles
}

func printRow(w io.Writer, columns []column, cells []string) {
	var line strings.Builder
	for i, c := range columns {
		pad := max(0, c.width-utf8.RuneCountInString(cells[i]))
		line.WriteString("  " + cells[i] + strings.Repeat(" ", pad))
	}
	fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
}

func milliseconds(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 1, 64)
}
