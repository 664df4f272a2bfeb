// go-nix, against which these tests compare, does not build for wasip1.

//go:build !wasip1

package nar_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	gonar "github.com/nix-community/go-nix/pkg/nar"

	"github.com/drv-thru/drv-thru/core/nix/nar"
)

func scan(tb testing.TB, root string) *nar.Layout {
	tb.Helper()
	l, err := nar.Scan(context.Background(), root)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

func whole(tb testing.TB, l *nar.Layout) []byte {
	tb.Helper()
	var b bytes.Buffer
	n, err := io.Copy(&b, io.NewSectionReader(l, 0, l.Size()))
	if err != nil || n != l.Size() || int64(b.Len()) != n {
		tb.Fatalf("read %d of %d bytes, %v", n, l.Size(), err)
	}
	return b.Bytes()
}

func dump(tb testing.TB, root string) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := gonar.DumpPath(&b, root); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func TestLayoutIsWhatNixDumps(t *testing.T) {
	want := golden(t, "everything.nar.gz")
	l := scan(t, plant(t, everything))
	equalBytes(t, "layout", whole(t, l), want)
	if err := check(want); err != nil {
		t.Fatal(err)
	}
}

func TestLayoutIsWhatGoNixDumps(t *testing.T) {
	trees := map[string][]entry{
		"file":          {{"", 'f', "hello\n"}},
		"empty file":    {{"", 'f', ""}},
		"program":       {{"", 'x', strings.Repeat("x", 1<<20+3)}},
		"symlink":       {{"", 'l', "/nowhere"}},
		"empty":         {{"", 'd', ""}},
		"bytes as text": bytesOnly,
	}
	for name, tree := range trees {
		t.Run(name, func(t *testing.T) {
			if name == "bytes as text" && (runtime.GOOS == "js" || runtime.GOOS == "darwin") {
				return // file names there are text
			}
			root := plant(t, tree)
			got := whole(t, scan(t, root))
			equalBytes(t, "layout", got, dump(t, root))
			if err := check(got); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestLayoutRanges(t *testing.T) {
	want := golden(t, "everything.nar.gz")
	l := scan(t, plant(t, everything))
	rng := rand.New(rand.NewPCG(1, 2))
	var wg sync.WaitGroup
	for range 4 {
		seed := rng.Uint64()
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 3))
			buf := make([]byte, len(want))
			for range 200 {
				off := rng.IntN(len(want))
				n := rng.IntN(min(len(want)-off, 1<<(1+rng.IntN(20)))) + 1
				k, err := l.ReadAt(buf[:n], int64(off))
				if err != nil || !bytes.Equal(buf[:k], want[off:off+n]) {
					t.Errorf("ReadAt(%d, %d) = %d, %v, or other bytes", n, off, k, err)
				}
			}
		})
	}
	wg.Wait()

	buf := make([]byte, 100)
	if n, err := l.ReadAt(buf, l.Size()-10); n != 10 || err != io.EOF {
		t.Errorf("ReadAt over the end = %d, %v; want 10, EOF", n, err)
	}
	if n, err := l.ReadAt(buf, l.Size()); n != 0 || err != io.EOF {
		t.Errorf("ReadAt at the end = %d, %v; want 0, EOF", n, err)
	}
	if _, err := l.ReadAt(buf, -1); err == nil {
		t.Error("ReadAt before the beginning succeeded")
	}
}

func TestLayoutNoticesChanges(t *testing.T) {
	changes := map[string]func(file string) error{
		"shorter":  func(f string) error { return os.Truncate(f, 10) },
		"longer":   func(f string) error { return os.Truncate(f, 1<<20) },
		"vanished": os.Remove,
		"symlink": func(f string) error {
			return errors.Join(os.Rename(f, f+"x"), os.Symlink(filepath.Base(f)+"x", f))
		},
		"directory": func(f string) error { return errors.Join(os.Remove(f), os.Mkdir(f, 0o755)) },
		"parent is a symlink": func(f string) error {
			d := filepath.Dir(f)
			other := filepath.Join(d, "..", "..", "elsewhere")
			return errors.Join(os.Rename(d, other), os.Symlink(other, d))
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			root := plant(t, []entry{{"", 'd', ""}, {"d", 'd', ""}, {"d/file", 'f', strings.Repeat("z", 100<<10)}})
			l := scan(t, root)
			if err := change(filepath.Join(root, "d", "file")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, io.NewSectionReader(l, 0, l.Size())); !errors.Is(err, nar.ErrChanged) {
				t.Errorf("read: %v, want ErrChanged", err)
			}
			if _, err := l.ReadAt(make([]byte, 20), 50<<10); !errors.Is(err, nar.ErrChanged) {
				t.Errorf("ReadAt: %v, want ErrChanged", err)
			}
		})
	}
	t.Run("while open", func(t *testing.T) {
		root := plant(t, []entry{{"", 'f', strings.Repeat("z", 100<<10)}})
		l := scan(t, root)
		buf := make([]byte, 4096)
		if _, err := l.ReadAt(buf, 1000); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(root, 8); err != nil {
			t.Fatal(err)
		}
		if _, err := l.ReadAt(buf, 5000); !errors.Is(err, nar.ErrChanged) {
			t.Errorf("ReadAt: %v, want ErrChanged", err)
		}
	})
}

func TestScanRefuses(t *testing.T) {
	if _, err := nar.Scan(context.Background(), filepath.Join(t.TempDir(), "nothing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing root: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := nar.Scan(ctx, plant(t, everything)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestLayoutAfterClose(t *testing.T) {
	l := scan(t, plant(t, everything))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, io.NewSectionReader(l, 0, l.Size())); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
}

// More files at once than the cache holds, each read in parts by several readers.
func TestLayoutManyReaders(t *testing.T) {
	tree := []entry{{"", 'd', ""}}
	for i := range 30 {
		tree = append(tree, entry{fmt.Sprintf("f%02d", i), 'f', strings.Repeat(string(rune('a'+i%26)), 5000)})
	}
	l := scan(t, plant(t, tree))
	want := whole(t, l)
	var wg sync.WaitGroup
	for w := range 12 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			buf := make([]byte, 64)
			for range 500 {
				off := rng.IntN(len(want) - len(buf))
				if _, err := l.ReadAt(buf, int64(off)); err != nil || !bytes.Equal(buf, want[off:off+len(buf)]) {
					t.Errorf("ReadAt(%d): %v, or other bytes", off, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestWriteFile(t *testing.T) {
	for _, n := range []int{0, 1, 7, 8, 9, 64 << 10, 64<<10 + 1} {
		for _, x := range []bool{false, true} {
			kind := byte('f')
			if x {
				kind = 'x'
			}
			body := strings.Repeat("q", n)
			want := dump(t, plant(t, []entry{{"", kind, body}}))
			var b bytes.Buffer
			if err := nar.WriteFile(&b, []byte(body), x); err != nil {
				t.Fatal(err)
			}
			equalBytes(t, fmt.Sprintf("%d bytes, executable %v", n, x), b.Bytes(), want)
			if got := nar.FileSize(int64(n), x); got != int64(len(want)) {
				t.Errorf("FileSize(%d, %v) = %d, want %d", n, x, got, len(want))
			}
		}
	}
}
