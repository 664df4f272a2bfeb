package nar

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A kernel without openat2, or a seccomp filter that refuses it, changes nothing.
func TestWithoutOpenat2(t *testing.T) {
	root := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "a/b"), 0o755),
		os.WriteFile(filepath.Join(root, "a/b/c"), []byte("hello"), 0o644),
		os.Symlink("a/b/c", filepath.Join(root, "link"))); err != nil {
		t.Fatal(err)
	}
	l, err := Scan(context.Background(), root)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var with, without bytes.Buffer
	if _, err := io.Copy(&with, io.NewSectionReader(l, 0, l.Size())); err != nil {
		t.Fatal(err)
	}
	l.tree.fast.off.Store(true)
	if _, err := io.Copy(&without, io.NewSectionReader(l, 0, l.Size())); err != nil || !bytes.Equal(with.Bytes(), without.Bytes()) {
		t.Error(err)
	}
	if entries, err := l.tree.readDir("a/b"); err != nil || len(entries) != 1 || entries[0].size != 5 {
		t.Error(entries, err)
	}
	if _, _, err := l.tree.openFile("link"); err == nil {
		t.Error("a symlink was followed")
	}
}

func TestScanUnsupported(t *testing.T) {
	root := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(root, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{root, filepath.Join(root, "pipe")} {
		if _, err := Scan(context.Background(), p); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// A file that became a pipe must not make the reader wait for a writer.
func TestFileBecamePipe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{file, filepath.Dir(file)} {
		l, err := Scan(context.Background(), root)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := errors.Join(os.Remove(file), unix.Mkfifo(file, 0o644)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(&bytes.Buffer{}, io.NewSectionReader(l, 0, l.Size())); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: %v", root, err)
		}
		if err := errors.Join(os.Remove(file), os.WriteFile(file, []byte("hello"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// Paths beyond PATH_MAX and nesting up to the limit.
func TestScanDeep(t *testing.T) {
	for _, c := range []struct {
		name  string
		depth int
		fails bool
	}{{strings.Repeat("n", 200), 40, false}, {"d", MaxDepth - 1, false}, {"d", MaxDepth, true}} {
		dir := t.TempDir()
		r, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		below := strings.TrimSuffix(strings.Repeat(c.name+"/", c.depth), "/")
		if err := errors.Join(r.MkdirAll(below, 0o755), r.WriteFile(below+"/f", []byte("hello"), 0o644)); err != nil {
			t.Fatal(err)
		}
		l, err := Scan(context.Background(), dir)
		if c.fails {
			if !errors.Is(err, ErrUnsupported) {
				t.Errorf("depth %d: %v", c.depth, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var got bytes.Buffer
		if _, err := io.Copy(&got, io.NewSectionReader(l, 0, l.Size())); err != nil {
			t.Fatal(err)
		}
		want := appendStrings(nil, magic)
		for range c.depth {
			want = appendStrings(want, wordOpen, wordType, wordDir, wordEntry, wordOpen, wordName, c.name, wordNode)
		}
		want = appendStrings(want, wordOpen, wordType, wordDir, wordEntry, wordOpen, wordName, "f", wordNode,
			wordOpen, wordType, wordRegular, wordBytes, "hello", wordClose, wordClose, wordClose)
		for range c.depth {
			want = appendStrings(want, wordClose, wordClose)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("depth %d: %d bytes, want %d", c.depth, got.Len(), len(want))
		}
	}
}
