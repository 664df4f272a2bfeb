package nar_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix/nar"
)

// words builds a NAR by hand, so that tests can say what no writer would.
func words(ws ...any) []byte {
	var b []byte
	for _, w := range ws {
		switch w := w.(type) {
		case string:
			b = binary.LittleEndian.AppendUint64(b, uint64(len(w)))
			b = append(b, w...)
			for len(b)%8 != 0 {
				b = append(b, 0)
			}
		case int:
			b = binary.LittleEndian.AppendUint64(b, uint64(w))
		case uint64:
			b = binary.LittleEndian.AppendUint64(b, w)
		case []byte:
			b = append(b, w...)
		}
	}
	return b
}

const mg = "nix-archive-1"

// fileNode is a small regular file's node.
var fileNode = words("(", "type", "regular", "contents", "hello", ")")

// dirOf is a whole archive: a directory with empty files of these names.
func dirOf(names ...string) []byte {
	b := words(mg, "(", "type", "directory")
	for _, n := range names {
		b = append(b, words("entry", "(", "name", n, "node", fileNode, ")")...)
	}
	return append(b, words(")")...)
}

// nested is a file below depth directories, each the only one in the one before.
func nested(depth int, name string) []byte {
	b := words(mg)
	for range depth {
		b = append(b, words("(", "type", "directory", "entry", "(", "name", name, "node")...)
	}
	b = append(b, fileNode...)
	for range depth {
		b = append(b, words(")", ")")...)
	}
	return b
}

var accepted = map[string][]byte{
	"file":            words(mg, fileNode),
	"empty file":      words(mg, "(", "type", "regular", "contents", "", ")"),
	"program":         words(mg, "(", "type", "regular", "executable", "", "contents", "12345678", ")"),
	"symlink":         words(mg, "(", "type", "symlink", "target", "../x", ")"),
	"longest target":  words(mg, "(", "type", "symlink", "target", strings.Repeat("t", 4095), ")"),
	"empty directory": dirOf(),
	"names":           dirOf(" ", "...", "a", "a.b", "a0", "b", strings.Repeat("n", 255), "\xff"),
	"deepest":         nested(63, "d"),
	"deepest empty":   words(bytes.Replace(nested(63, "d"), fileNode, words("(", "type", "directory", ")"), 1)),
	"longest path":    nested(15, strings.Repeat("n", 255)),
}

var refused = map[string][]byte{
	"nothing":                     {},
	"other magic":                 words("nix-archive-2", fileNode),
	"no node":                     words(mg),
	"two roots":                   words(mg, fileNode, fileNode),
	"byte behind":                 append(words(mg, fileNode), 0),
	"dot":                         dirOf("."),
	"dot dot":                     dirOf(".."),
	"empty name":                  dirOf(""),
	"slash":                       dirOf("a/b"),
	"root slash":                  dirOf("/etc"),
	"NUL":                         dirOf("a\x00b"),
	"name of 256":                 dirOf(strings.Repeat("n", 256)),
	"unsorted":                    dirOf("b", "a"),
	"duplicate":                   dirOf("a", "b", "b"),
	"prefix after":                dirOf("ab", "a"),
	"too deep":                    nested(64, "d"),
	"far too deep":                nested(10_000, "d"),
	"path too long":               nested(16, strings.Repeat("n", 255)),
	"empty target":                words(mg, "(", "type", "symlink", "target", "", ")"),
	"target with NUL":             words(mg, "(", "type", "symlink", "target", "a\x00", ")"),
	"target of 4096":              words(mg, "(", "type", "symlink", "target", strings.Repeat("t", 4096), ")"),
	"symlink with contents":       words(mg, "(", "type", "symlink", "contents", "x", ")"),
	"unknown type":                words(mg, "(", "type", "fifo", ")"),
	"no type":                     words(mg, "(", ")"),
	"executable with value":       words(mg, "(", "type", "regular", "executable", "y", "contents", "", ")"),
	"executable twice":            words(mg, "(", "type", "regular", "executable", "", "executable", "", "contents", "", ")"),
	"no contents":                 words(mg, "(", "type", "regular", ")"),
	"contents twice":              words(mg, "(", "type", "regular", "contents", "", "contents", "", ")"),
	"padding of contents":         bytes.Replace(words(mg, fileNode), []byte("hello\x00"), []byte("hello\x01"), 1),
	"padding of a word":           bytes.Replace(words(mg, fileNode), []byte("type\x00"), []byte("type\x01"), 1),
	"padding of a name":           bytes.Replace(dirOf("abc"), []byte("abc\x00"), []byte("abc\x01"), 1),
	"padding of the end":          append(words(mg, fileNode)[:len(words(mg, fileNode))-1], 1),
	"contents of 2^64-1":          words(mg, "(", "type", "regular", "contents", ^uint64(0)),
	"contents of 2^63":            words(mg, "(", "type", "regular", "contents", uint64(1)<<63, []byte("abc")),
	"contents that lie, more":     words(mg, "(", "type", "regular", "contents", 1<<40, []byte("hello"), ")"),
	"contents that lie, fewer":    words(mg, "(", "type", "regular", "contents", 2, []byte("hello\x00\x00\x00"), ")"),
	"word of 2^64-1":              words(mg, ^uint64(0)),
	"word of 1 GiB":               words(mg, 1<<30),
	"name of 1 GiB":               words(mg, "(", "type", "directory", "entry", "(", "name", 1<<30),
	"entry not closed":            words(mg, "(", "type", "directory", "entry", "(", "name", "a", "node", fileNode, "entry"),
	"entry without a name":        words(mg, "(", "type", "directory", "entry", "(", "node", fileNode, ")", ")"),
	"entry without a node":        words(mg, "(", "type", "directory", "entry", "(", "name", "a", ")", ")"),
	"words that are not entries":  words(mg, "(", "type", "directory", "contents", "", ")"),
	"first word padded to length": words([]byte("\x0e\x00\x00\x00\x00\x00\x00\x00nix-archive-1\x00\x00\x00"), fileNode),
}

// feed writes p in pieces of n bytes, all at once for 0.
func feed(w io.Writer, p []byte, n int) error {
	if n == 0 {
		n = max(len(p), 1)
	}
	for len(p) > 0 {
		k := min(n, len(p))
		if _, err := w.Write(p[:k]); err != nil {
			return err
		}
		p = p[k:]
	}
	return nil
}

func checkPieces(p []byte, n int) error {
	var c nar.Checker
	if err := feed(&c, p, n); err != nil {
		return err
	}
	return c.Close()
}

func TestCheckerAccepts(t *testing.T) {
	for name, p := range accepted {
		for _, n := range []int{0, 1, 3, 8, 100} {
			if err := checkPieces(p, n); err != nil {
				t.Errorf("%s, in pieces of %d: %v", name, n, err)
			}
		}
	}
}

func TestCheckerRefuses(t *testing.T) {
	for name, p := range refused {
		for _, n := range []int{0, 1, 3, 8, 100} {
			if err := checkPieces(p, n); !errors.Is(err, nar.ErrSyntax) {
				t.Errorf("%s, in pieces of %d: %v, want ErrSyntax", name, n, err)
			}
		}
	}
}

func TestCheckerRefusesEveryTruncation(t *testing.T) {
	p := dirOf("a", "b")
	for n := range p {
		if err := check(p[:n]); !errors.Is(err, nar.ErrSyntax) {
			t.Fatalf("the first %d of %d bytes: %v", n, len(p), err)
		}
	}
}

func check(p []byte) error { return checkPieces(p, 0) }

func TestCheckerErrorStays(t *testing.T) {
	var c nar.Checker
	_, first := c.Write(words("nonsense"))
	n, again := c.Write(words(mg))
	if first == nil || n != 0 || !errors.Is(again, first) || !errors.Is(c.Close(), first) {
		t.Errorf("first %v, then %d, %v, Close %v", first, n, again, c.Close())
	}
	var d nar.Checker
	if err := feed(&d, words(mg, fileNode), 0); err != nil || d.Close() != nil {
		t.Fatal(err)
	}
	if _, err := d.Write([]byte{0}); err == nil {
		t.Error("Write after Close succeeded")
	}
}

func TestCheckerTellsTheTree(t *testing.T) {
	p := words(mg, "(", "type", "directory",
		"entry", "(", "name", "d", "node", "(", "type", "directory",
		"entry", "(", "name", "f", "node", fileNode, ")", ")", ")",
		"entry", "(", "name", "l", "node", "(", "type", "symlink", "target", "d/f", ")", ")",
		"entry", "(", "name", "x", "node", "(", "type", "regular", "executable", "", "contents", "", ")", ")",
		"entry", "(", "name", "y", "node", fileNode, ")", ")")
	want := `0 "" 2 false 0 ""
1 "d" 2 false 0 ""
2 "f" 1 false 5 ""
hello
1 "l" 3 false 0 "d/f"
1 "x" 1 true 0 ""
1 "y" 1 false 5 ""
hello`
	for _, n := range []int{0, 1, 7} {
		var b strings.Builder
		inFile := false
		c := nar.Checker{Handler: nar.Handler{
			Node: func(n nar.Node) error {
				if inFile {
					b.WriteByte('\n')
					inFile = false
				}
				_, err := fmt.Fprintf(&b, "%d %q %d %v %d %q\n", n.Depth, n.Name, n.Kind, n.Executable, n.Size, n.Target)
				return err
			},
			Contents: func(p []byte) error {
				inFile = true
				_, err := b.Write(p)
				return err
			},
		}}
		if err := errors.Join(feed(&c, p, n), c.Close()); err != nil {
			t.Fatal(err)
		}
		if b.String() != want {
			t.Errorf("in pieces of %d:\n%swant\n%s", n, b.String(), want)
		}
	}
}

// No handler is told of a file that no disk can hold.
func TestCheckerSizes(t *testing.T) {
	for _, size := range []uint64{1 << 63, 1<<64 - 1} {
		told := false
		c := nar.Checker{Handler: nar.Handler{Node: func(nar.Node) error { told = true; return nil }}}
		_, err := c.Write(words(mg, "(", "type", "regular", "contents", size))
		if !errors.Is(err, nar.ErrSyntax) || told {
			t.Errorf("%d bytes: %v, told of them: %t", size, err, told)
		}
	}
}

// What a stranger declares must not become memory.
func TestCheckerMemory(t *testing.T) {
	long := strings.Repeat("n", 255)
	b := words(mg)
	for range nar.MaxPathLen / (1 + len(long)) {
		b = append(b, words("(", "type", "directory", "entry", "(", "name", long, "node")...)
	}
	b = append(b, words("(", "type", "regular", "contents", uint64(1)<<62)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var c nar.Checker
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for range 64 {
		if _, err := c.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
		t.Errorf("%d bytes allocated", got)
	}
	if err := c.Close(); !errors.Is(err, nar.ErrSyntax) {
		t.Errorf("Close: %v", err)
	}
}
