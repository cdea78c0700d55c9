package v1alpha1_test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

// TestOtherReadersReadTheSame changes the examples at random and gives what Decode accepts to another YAML reader, the
// one of Kubernetes' tools: a document that two programs read differently says one thing to who reviews it and another
// to who enforces it.
func TestOtherReadersReadTheSame(t *testing.T) {
	t.Parallel()
	changes := 20_000
	if testing.Short() {
		changes = 2_000
	}
	files := exampleFiles(t)
	files["tests/orders.yaml"] = accessTest // shorter, so that more of its claims are changed in the same time
	names := slices.Sorted(maps.Keys(files))
	r := rand.New(rand.NewPCG(1, 2)) // the same changes each time
	accepted := 0
	for range changes {
		name := names[r.IntN(len(names))]
		text := mutate(r, files[name])
		docs, problems := decode(name, text)
		if len(problems) > 0 {
			continue
		}
		accepted++
		theirs, err := readOtherwise(text)
		if err != nil {
			// It knows no \/ in double quotes, which YAML 1.2 took over from JSON.
			if !strings.Contains(err.Error(), "unknown escape character") {
				t.Fatalf("accepted, but not YAML for others: %v\n%s", err, text)
			}
			continue
		}
		var ours []any
		for _, d := range docs {
			ours = append(ours, tree(reflect.ValueOf(d).Elem()))
		}
		if diff := cmp.Diff(theirs, ours); diff != "" {
			t.Fatalf("read differently (-others +ours):\n%s\n%s", diff, text)
		}
	}
	if accepted < changes/20 {
		t.Errorf("only %d of %d changed files were accepted: the test compares too little", accepted, changes)
	}
}

func mutate(r *rand.Rand, s string) string {
	pieces := []string{
		" ", "  ", "\n", "\n ", "\n  ", "#", " # x\n", ":", ": ", ",", "\"", "'", "[", "]", "{", "}", "- ", "---\n", "...\n", "\t", "\r\n",
		"|", "|\n", ">", "&a ", "*a", "!!str ", "?", "? ", "\\", "%", "~", "null", "''", "\"\"", "a", "0", "-", "<<: ", "\n\n", "\\n", "\u00a0", "é", "@", "`", "--- ",
	}
	for range 1 + r.IntN(4) {
		i := r.IntN(len(s) + 1)
		switch r.IntN(4) {
		case 0, 1:
			s = s[:i] + pieces[r.IntN(len(pieces))] + s[i:]
		case 2:
			s = s[:i] + s[min(len(s), i+1+r.IntN(4)):]
		default:
			j := min(len(s), i+1+r.IntN(20))
			s = s[:j] + s[i:j] + s[j:]
		}
	}
	return s
}

func readOtherwise(text string) ([]any, error) {
	var docs []any
	d := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	for {
		var doc any
		err := d.Decode(&doc)
		switch {
		case errors.Is(err, io.EOF):
			return docs, nil
		case err != nil:
			return nil, err
		case doc != nil:
			docs = append(docs, plainTimes("", doc))
		}
	}
}

// plainTimes writes times and lengths of time in one form, as tree does.
func plainTimes(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, value := range v {
			v[k] = plainTimes(k, value)
		}
	case []any:
		for i, value := range v {
			v[i] = plainTimes(key, value)
		}
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	case string:
		if at, err := time.Parse(time.RFC3339, v); err == nil && (key == "notAfter" || key == "at") {
			return at.UTC().Format(time.RFC3339Nano)
		}
		if l, err := time.ParseDuration(v); err == nil && (key == "maxLifetime" || key == "maxAuthAge" || key == "rootLife") {
			return l.String()
		}
		if n, err := strconv.Atoi(strings.TrimSuffix(v, "d")); err == nil && strings.HasSuffix(v, "d") && key == "rootLife" {
			return (time.Duration(n) * 24 * time.Hour).String()
		}
	}
	return v
}

// tree is what a document says, without positions.
func tree(v reflect.Value) any {
	switch x := v.Interface().(type) {
	case v1alpha1.String:
		return written(x.IsSet(), x.Value)
	case v1alpha1.Int:
		return written(x.IsSet(), int(x.Value))
	case v1alpha1.Bool:
		return written(x.IsSet(), x.Value)
	case v1alpha1.Time:
		return written(x.IsSet(), x.Value.Format(time.RFC3339Nano))
	case v1alpha1.Duration:
		return written(x.IsSet(), x.Value.String())
	case v1alpha1.Claims:
		return written(!x.Pos.IsZero(), claims(x.Values))
	case v1alpha1.TestTokenRef:
		if x.Name.IsSet() {
			return x.Name.Value
		}
		return written(x.IsSet(), claims(x.Claims.Values))
	case v1alpha1.Expectation:
		if x.Allow {
			return "allow"
		}
		return map[string]any{"deny": x.Deny.Value}
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return tree(v.Elem())
	case reflect.Slice:
		var list []any
		for i := range v.Len() {
			list = append(list, tree(v.Index(i)))
		}
		return written(list != nil, list)
	case reflect.Map:
		m := map[string]any{}
		for key, value := range v.Seq2() {
			m[key.String()] = tree(value)
		}
		return written(len(m) > 0, m)
	default:
		m := map[string]any{}
		fill(m, v)
		return m
	}
}

// claims are claims with whole numbers as the other reader gives them.
func claims(v any) any {
	switch v := v.(type) {
	case map[string]any:
		all := map[string]any{}
		for k, value := range v {
			all[k] = claims(value)
		}
		return all
	case []any:
		all := make([]any, len(v))
		for i, value := range v {
			all[i] = claims(value)
		}
		return all
	case float64:
		return int(v)
	default:
		return v
	}
}

func fill(m map[string]any, v reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			fill(m, v.Field(i))
		case f.IsExported() && name != "-":
			if value := tree(v.Field(i)); value != nil {
				m[name] = value
			}
		}
	}
}

func written(set bool, v any) any {
	if !set {
		return nil
	}
	return v
}
