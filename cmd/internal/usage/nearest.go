package usage

import (
	"errors"
	"flag"

	"github.com/peterbourgon/ff/v3/ffcli"
)

// maxNear bounds the words that are compared; nobody mistypes longer ones.
const maxNear = 64

// Nearest returns the one of words that somebody who typed word may have meant, ""
// for none: one that differs by a character in three at most, two that are
// swapped counting as one.
func Nearest(word string, words []string) string {
	best, least := "", len(word)/3+1
	if len(word) < 2 || len(word) > maxNear {
		return ""
	}
	for _, w := range words {
		if d := distance(word, w); len(w) <= maxNear && d < least {
			best, least = w, d
		}
	}
	return best
}

// distance is the number of characters to insert, remove, change or swap with the
// next one (Damerau's, no part twice).
func distance(a, b string) int {
	var before []int
	last := make([]int, len(b)+1)
	for k := range last {
		last[k] = k
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for k := range len(b) {
			cost := 1
			if a[i] == b[k] {
				cost = 0
			}
			row[k+1] = min(row[k]+1, last[k+1]+1, last[k]+cost)
			if i > 0 && k > 0 && a[i] == b[k-1] && a[i-1] == b[k] {
				row[k+1] = min(row[k+1], before[k-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// NearestCommand returns the name of the command below c that word may have meant.
func NearestCommand(c *ffcli.Command, word string) string {
	var names []string
	for _, s := range subcommands(c) {
		names = append(names, s.Name)
	}
	return Nearest(word, names)
}

// NearestFlag returns the flag, with its dashes, that an [UnknownFlagError] may have
// meant; "" for other errors, too.
func NearestFlag(fs *flag.FlagSet, err error) string {
	var unknown *UnknownFlagError
	if !errors.As(err, &unknown) {
		return ""
	}
	var names []string
	fs.VisitAll(func(f *flag.Flag) {
		if len(f.Name) > 1 {
			names = append(names, f.Name)
		}
	})
	if near := Nearest(unknown.Name, names); near != "" {
		return dashed(near)
	}
	return ""
}
