package nar_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf8"

	"github.com/drv-thru/drv-thru/core/nix/nar"
)

// FuzzChecker: any cutting into pieces gives the same answer, and what passes
// is the canonical form: unpacking it and taking the layout gives it back.
func FuzzChecker(f *testing.F) {
	for _, p := range accepted {
		if len(p) < 4096 {
			f.Add(p, uint8(0))
		}
	}
	for _, p := range refused {
		if len(p) < 4096 {
			f.Add(p, uint8(5))
		}
	}
	f.Fuzz(func(t *testing.T, p []byte, cut uint8) {
		err := check(p)
		if again := checkPieces(p, int(cut)); (err == nil) != (again == nil) {
			t.Fatalf("whole: %v; in pieces of %d: %v", err, cut, again)
		}
		if err != nil {
			return
		}
		root := filepath.Join(t.TempDir(), "root")
		if !unpack(t, p, root) {
			return
		}
		l, err := nar.Scan(context.Background(), root)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var b bytes.Buffer
		if _, err := io.Copy(&b, io.NewSectionReader(l, 0, l.Size())); err != nil {
			t.Fatal(err)
		}
		equalBytes(t, "layout of what was unpacked", b.Bytes(), p)
	})
}

var errCannot = errors.New("beyond this file system")

// unpack writes the tree; false when the file system cannot hold it.
func unpack(t *testing.T, p []byte, root string) bool {
	path := []string{root}
	var file string
	c := nar.Checker{Handler: nar.Handler{
		Node: func(n nar.Node) error {
			if n.Depth > 20 || !utf8.Valid(n.Name) || !utf8.Valid(n.Target) {
				return errCannot
			}
			if n.Depth > 0 {
				path = append(path[:n.Depth], string(n.Name))
			}
			at := filepath.Join(path...)
			var err error
			switch n.Kind {
			case nar.Directory:
				err = os.Mkdir(at, 0o755)
			case nar.Symlink:
				err = os.Symlink(string(n.Target), at)
			case nar.Regular:
				mode := os.FileMode(0o644)
				if n.Executable {
					mode = 0o755
				}
				file = at
				err = os.WriteFile(at, nil, mode)
			}
			if err != nil {
				return fmt.Errorf("%w: %w", errCannot, err)
			}
			return nil
		},
		Contents: func(p []byte) error {
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			_, err = f.Write(p)
			return errors.Join(err, f.Close())
		},
	}}
	err := errors.Join(feed(&c, p, 0), c.Close())
	if err != nil && !errors.Is(err, errCannot) {
		t.Fatal(err)
	}
	return err == nil
}
