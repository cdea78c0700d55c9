package v1alpha1

import (
	"fmt"
	"strings"
)

// maxSuggest bounds the words that are compared: longer ones were not mistyped.
const maxSuggest = 64

// Suggest is the hint for a word that is not one of known: "did you mean …?" with the nearest of them, or nothing where
// none is near.
func Suggest(word string, known []string) string {
	if near := nearest(word, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return ""
}

// nearest is the one of known that word was probably meant to be, or "".
func nearest(word string, known []string) string {
	best, bestDistance := "", 1+len(word)/3
	if len(word) > maxSuggest {
		return ""
	}
	lower := strings.ToLower(word)
	for _, k := range known {
		if len(k) > maxSuggest {
			continue
		}
		d := distance(lower, strings.ToLower(k))
		if d < bestDistance || (d == bestDistance && (best == "" || k < best)) {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance counts the insertions, deletions, substitutions and swaps of neighbours that turn a into b.
func distance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		cur[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			cur[j+1] = min(prev[j+1]+1, cur[j]+1, prev[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				cur[j+1] = min(cur[j+1], before[j-1]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
