//go:build !wasip1

package nar_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	gonar "github.com/nix-community/go-nix/pkg/nar"

	"github.com/drv-thru/drv-thru/core/nix/nar"
)

// FuzzChecker: any cutting into pieces gives the same answer, and what passes
// is the canonical form: unpacking it and taking the layout gives it back.
func FuzzChecker(f *testing.F) {
	for _, p := range accepted {
		f.Add(p, uint8(0))
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
		if _, err := l.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		equalBytes(t, "layout of what was unpacked", b.Bytes(), p)
	})
}

// unpack writes the tree with go-nix's reader; false when that or the file
// system cannot.
func unpack(t *testing.T, p []byte, root string) bool {
	r, err := gonar.NewReader(bytes.NewReader(p))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		h, err := r.Next()
		if err == io.EOF {
			return true
		}
		if err != nil {
			return false
		}
		path := root
		if h.Path != "/" {
			path = filepath.Join(root, h.Path)
		}
		switch h.Type {
		case gonar.TypeDirectory:
			err = os.Mkdir(path, 0o755)
		case gonar.TypeSymlink:
			err = os.Symlink(h.LinkTarget, path)
		case gonar.TypeRegular:
			mode := os.FileMode(0o644)
			if h.Executable {
				mode = 0o755
			}
			var body []byte
			if body, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, body, mode)
			}
		}
		if err != nil {
			return false
		}
	}
}
