//go:build !wasip1

package nar_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/nix/nar"
)

// many is a tree of 15,000 files of about 10 KiB in 150 directories.
func many(b *testing.B) string {
	tree := []entry{{"", 'd', ""}}
	for d := range 150 {
		dir := fmt.Sprintf("directory-%03d", d)
		tree = append(tree, entry{dir, 'd', ""})
		for f := range 100 {
			tree = append(tree, entry{fmt.Sprintf("%s/file-%04d.txt", dir, f), 'f', strings.Repeat("v", 2000+f*160)})
		}
	}
	return plant(b, tree)
}

func one(b *testing.B) string {
	return plant(b, []entry{{"", 'f', strings.Repeat("0123456789abcdef", 256<<20/16)}})
}

func BenchmarkScan(b *testing.B) {
	root := many(b)
	for b.Loop() {
		l, err := nar.Scan(context.Background(), root)
		if err != nil {
			b.Fatal(err)
		}
		l.Close()
	}
}

// BenchmarkLayout reports how long writing the NAR takes as a multiple of just
// reading the same files in the same run.
func BenchmarkLayout(b *testing.B) {
	for name, make := range map[string]func(*testing.B) string{"many": many, "one": one} {
		b.Run(name, func(b *testing.B) {
			root := make(b)
			l, err := nar.Scan(context.Background(), root)
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			var buf [256 << 10]byte
			plain := best(b, func() { readAll(b, root) })
			b.SetBytes(l.Size())
			fastest := time.Duration(1 << 62)
			for b.Loop() {
				start := time.Now()
				if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.NewSectionReader(l, 0, l.Size()), buf[:]); err != nil {
					b.Fatal(err)
				}
				fastest = min(fastest, time.Since(start))
			}
			b.ReportMetric(float64(fastest)/float64(plain), "×plain-read")
		})
	}
}

func best(b *testing.B, f func()) time.Duration {
	b.Helper()
	fastest := time.Duration(1 << 62)
	for range 3 {
		start := time.Now()
		f()
		fastest = min(fastest, time.Since(start))
	}
	return fastest
}

func readAll(b *testing.B, root string) {
	buf := make([]byte, 256<<10)
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		for {
			if _, err := f.Read(buf); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkChecker reports the check's time as a multiple of SHA-256 over the
// same bytes in the same run.
func BenchmarkChecker(b *testing.B) {
	for name, make := range map[string]func(*testing.B) string{"many": many, "one": one} {
		b.Run(name, func(b *testing.B) {
			p := whole(b, scan(b, make(b)))
			hash := best(b, func() { sha256.Sum256(p) })
			b.SetBytes(int64(len(p)))
			fastest := time.Duration(1 << 62)
			for b.Loop() {
				start := time.Now()
				if err := checkPieces(p, 256<<10); err != nil {
					b.Fatal(err)
				}
				fastest = min(fastest, time.Since(start))
			}
			b.ReportMetric(float64(fastest)/float64(hash), "×sha256")
		})
	}
}
