package pack

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
)

// clock is the time of a test.
type clock struct{ now time.Time }

func (c *clock) add(d time.Duration) { c.now = c.now.Add(d) }

func newClock() *clock { return &clock{time.Unix(1_700_000_000, 0)} }

func config(c *clock) Config {
	return Config{
		MaxBytes: 64 << 20,
		Now:      func() time.Time { return c.now },
		Rand:     rand.Reader,
		Free:     func(string) (uint64, uint64, error) { return 1 << 40, 1 << 41, nil },
	}
}

func open(t testing.TB, dir string, cfg Config) *Store {
	t.Helper()
	s, err := Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// numbered is a chunk of the tests.
type numbered struct {
	id   chunk.ID
	data []byte
}

var made sync.Map // of numbered, by number

// number is the same chunk for the same number everywhere. Sizes vary; from 1000 on
// they are small.
func number(i int) numbered {
	if n, ok := made.Load(i); ok {
		return n.(numbered)
	}
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(i))
	r := mathrand.NewChaCha8(seed)
	most := uint64(chunk.MaxSize / 2)
	if i >= 1000 {
		most = 4 << 10
	}
	p := make([]byte, 1+r.Uint64()%most)
	r.Read(p)
	n := numbered{chunk.Sum(p), p}
	made.Store(i, n)
	return n
}

func data(i int) []byte { return number(i).data }

func id(i int) chunk.ID { return number(i).id }

func put(t testing.TB, s *Store, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := s.Put(id(i), data(i)); err != nil {
			t.Fatalf("put %d: %v", i, err)
		}
	}
}

// present returns which of the chunks the store has, and checks what it gives.
func present(t testing.TB, s *Store, from, to int) (have []int) {
	t.Helper()
	for i := from; i < to; i++ {
		had := s.Has(id(i))
		p, ok := s.Get(id(i), []byte("before"))
		if ok != s.Has(id(i)) || ok && !had {
			t.Fatalf("has %d: %v, then got it: %v, then has: %v", i, had, ok, s.Has(id(i)))
		}
		if string(p[:6]) != "before" || ok != bytes.Equal(p[6:], data(i)) || !ok && len(p) != 6 {
			t.Fatalf("chunk %d: %v with %d bytes", i, ok, len(p))
		}
		if ok {
			have = append(have, i)
		}
	}
	return have
}

func all(t testing.TB, s *Store, from, to int) {
	t.Helper()
	if have := present(t, s, from, to); len(have) != to-from {
		t.Fatalf("%d of the chunks %d to %d: %v", len(have), from, to, have)
	}
}

// starve has a store remove all packs to which nobody appends, its own included, as
// if the file system were full.
func starve(t testing.TB, s *Store) {
	t.Helper()
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	if s.own != nil {
		s.release()
	}
	free := s.cfg.Free
	defer func() { s.cfg.Free = free }()
	s.cfg.Free = func(string) (uint64, uint64, error) { return 0, 1 << 40, nil }
	if err := s.makeRoom(); !errors.Is(err, ErrNoSpace) {
		t.Fatal(err)
	}
}

func files(t testing.TB, dir, suffix string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	return paths
}

func size(t testing.TB, dir string) (n int64) {
	t.Helper()
	for _, path := range files(t, dir, "") {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size()
	}
	return n
}

// copyDir is a copy of a store that a test may damage.
func copyDir(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustWrite(t testing.TB, path string, p []byte) {
	t.Helper()
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
}

func sprint(v ...any) string { return fmt.Sprint(v...) }
