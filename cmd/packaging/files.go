package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func readFile(elem ...string) (string, error) {
	text, err := os.ReadFile(filepath.Join(elem...))
	return string(text), err
}

func writeFile(path, text string) error { return os.WriteFile(path, []byte(text), 0o644) }

// documents are README.md and the pages that it leads to, below the checkout.
func (r *release) documents() ([]string, error) {
	names := []string{"README.md"}
	for _, pattern := range []string{"docs/*.md", "docs/*.svg"} {
		found, err := filepath.Glob(filepath.Join(r.dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			names = append(names, "docs/"+filepath.Base(path))
		}
	}
	if len(names) == 1 {
		return nil, errors.New("there are no pages in docs")
	}
	return names, nil
}

// checksums writes SHA256SUMS, as sha256sum --check reads it, of what this run
// has made.
func (r *release) checksums() error {
	slices.Sort(r.written)
	var list strings.Builder
	for _, name := range r.written {
		text, err := os.ReadFile(filepath.Join(r.out, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&list, "%x  %s\n", sha256.Sum256(text), name)
	}
	fmt.Print(list.String())
	return writeFile(filepath.Join(r.out, "SHA256SUMS"), list.String())
}
