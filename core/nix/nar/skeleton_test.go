package nar_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix/nar"
)

func TestRestore(t *testing.T) {
	for name, tree := range map[string][]entry{
		"everything": everything,
		"file":       {{"", 'f', "contents of a file"}},
		"executable": {{"", 'x', "1234567"}},
		"empty file": {{"", 'f', ""}},
		"link":       {{"", 'l', "target"}},
		"empty dir":  {{"", 'd', ""}},
	} {
		root := plant(t, tree)
		scanned, err := nar.Scan(t.Context(), root)
		if err != nil {
			t.Fatal(err)
		}
		defer scanned.Close()
		restored, err := nar.Restore(root, bytes.Clone(scanned.Skeleton()))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer restored.Close()
		var want, got bytes.Buffer
		if _, err := io.Copy(&want, io.NewSectionReader(scanned, 0, scanned.Size())); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(&got, io.NewSectionReader(restored, 0, restored.Size())); err != nil || restored.Size() != scanned.Size() {
			t.Fatalf("%s: %d bytes: %v", name, restored.Size(), err)
		}
		equalBytes(t, name, got.Bytes(), want.Bytes())
	}
}

// A tree that is another one by now is found at the latest when it is read.
func TestRestoreChanged(t *testing.T) {
	root := plant(t, everything)
	l, err := nar.Scan(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	skeleton := bytes.Clone(l.Skeleton())
	l.Close()
	if err := os.WriteFile(filepath.Join(root, "Z"), []byte("longer than it was"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err = nar.Restore(root, skeleton)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, io.NewSectionReader(l, 0, l.Size())); !errors.Is(err, nar.ErrChanged) {
		t.Errorf("got %v", err)
	}
	l.Close()
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	if _, err := nar.Restore(root, skeleton); err == nil {
		t.Error("restored what is gone")
	}
	if err := os.WriteFile(root, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := nar.Restore(root, skeleton); !errors.Is(err, nar.ErrChanged) {
		t.Errorf("got %v", err)
	}
}

// FuzzRestore: whatever the bytes are, nothing panics, and what is taken has
// the files that the bytes say.
func FuzzRestore(f *testing.F) {
	root := plant(f, everything)
	l, err := nar.Scan(f.Context(), root)
	if err != nil {
		f.Fatal(err)
	}
	defer l.Close()
	f.Add(l.Skeleton())
	f.Fuzz(func(t *testing.T, skeleton []byte) {
		r, err := nar.Restore(root, skeleton)
		if err != nil {
			return
		}
		defer r.Close()
		if r.Size() < int64(len(skeleton)) {
			t.Errorf("%d bytes of %d", r.Size(), len(skeleton))
		}
		p := make([]byte, 64<<10)
		_, _ = r.ReadAt(p, 0)
		_, _ = r.ReadAt(p, r.Size()/2)
	})
}
