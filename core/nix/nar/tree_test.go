package nar_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// entry is one line of a test tree.
type entry struct {
	path string // relative, empty for the root
	kind byte   // d, f, x (executable), l
	body string // contents or target
}

// everything has each kind of node, each padding, and names whose order by
// bytes is not the one that a file system or a locale has.
// testdata/everything.nar.gz is what nix-store --dump (Nix 2.8.0) makes of it.
var everything = []entry{
	{"", 'd', ""},
	{"Z", 'f', "upper case sorts first"},
	{"a", 'd', ""},
	{"a/empty", 'f', ""},
	{"a/empty-dir", 'd', ""},
	{"a.b", 'f', "1"},
	{"a0", 'f', "12345678"},
	{"bin", 'd', ""},
	{"bin/prog", 'x', "#!/bin/sh\nexec true\n"},
	{"bin/none", 'x', ""},
	{"big", 'f', strings.Repeat("0123456789abcdef", 40<<10)},
	{"link", 'l', "../outside/of the tree"},
	{"link-dir", 'l', "a"},
	{"name with spaces\nand a line", 'f', "1234567"},
	{"zz\xc3\xa9", 'f', "123456789"},
}

// bytesOnly has names and targets that are no text, which Node's file system
// calls cannot say.
var bytesOnly = []entry{
	{"", 'd', ""},
	{"link", 'l', "\xff\xfe"},
	{"zz\xc3\xa9", 'f', "123456789"},
	{"zz\xfe", 'f', "not UTF-8 in its name"},
}

// plant makes the tree below a fresh directory and returns its root.
func plant(tb testing.TB, tree []entry) string {
	tb.Helper()
	root := filepath.Join(tb.TempDir(), "root")
	for _, e := range tree {
		p := filepath.Join(root, filepath.FromSlash(e.path))
		var err error
		switch e.kind {
		case 'd':
			err = os.Mkdir(p, 0o755)
		case 'f':
			err = os.WriteFile(p, []byte(e.body), 0o644)
		case 'x':
			err = os.WriteFile(p, []byte(e.body), 0o755)
		case 'l':
			err = os.Symlink(e.body, p)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	return root
}

func golden(tb testing.TB, name string) []byte {
	tb.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func equalBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	t.Fatalf("%s: %d bytes, want %d; they differ from byte %d on", what, len(got), len(want), i)
}
