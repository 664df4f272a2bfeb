package pack

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/drv-thru/drv-thru/core/chunk"
)

func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache", "chunks")
	c := newClock()
	s := open(t, dir, config(c))
	if have := present(t, s, 0, 3); have != nil {
		t.Fatal(have)
	}
	put(t, s, 0, 20)
	all(t, s, 0, 20) // some of them not yet written
	before := size(t, dir)
	put(t, s, 0, 20)
	if size(t, dir) != before {
		t.Fatal("what is there is stored again")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if have := present(t, s, 0, 20); have != nil {
		t.Fatal("a closed store has", have)
	}
	s = open(t, dir, config(c))
	all(t, s, 0, 20)
	put(t, s, 20, 25)
	all(t, s, 0, 25)
	s.Close()
	if packs := files(t, dir, packSuffix); len(packs) != 1 {
		t.Fatalf("a second session began another pack: %v", packs)
	}
	s = open(t, dir, config(c))
	all(t, s, 0, 25)
}

func TestNothingStored(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	cfg := config(newClock())
	cfg.MaxBytes = 0
	s := open(t, dir, cfg)
	put(t, s, 0, 3)
	if _, err := os.Stat(dir); !os.IsNotExist(err) || present(t, s, 0, 3) != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Config{}); err == nil {
		t.Fatal("an empty configuration is taken")
	}
}

func TestConcurrent(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, config(c))
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 30 {
				n := (i*7 + g*11) % 60
				if err := s.Put(id(n), data(n)); err != nil {
					t.Error(err)
				}
				if p, ok := s.Get(id(n), nil); !ok || chunk.Sum(p) != id(n) {
					t.Errorf("chunk %d: %v", n, ok)
				}
			}
		})
	}
	wg.Wait()
	s.Close()
	all(t, open(t, dir, config(c)), 0, 0)
}

// Two stores on one directory are as two processes are.
func TestShared(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	a, b := open(t, dir, config(c)), open(t, dir, config(c))
	put(t, a, 0, 10)
	put(t, b, 10, 20)
	if packs := files(t, dir, packSuffix); len(packs) != 2 {
		t.Fatalf("two writers have %d packs", len(packs))
	}
	if have := present(t, a, 10, 20); have != nil {
		t.Fatalf("looked again before it was time: %v", have)
	}
	c.add(stale)
	if have := present(t, a, 10, 20); len(have) == 0 {
		t.Fatal("what the other wrote is not seen")
	}
	b.Close()
	c.add(stale)
	all(t, a, 0, 20)
	// What one removes, the other no longer has, nor does it hold its space.
	d := open(t, dir, config(c))
	all(t, d, 0, 20)
	held := d.packs[0].file
	starve(t, a)
	if info, err := held.Stat(); err != nil || info.Size() != 0 {
		t.Fatal(info.Size(), err)
	}
	if have := present(t, d, 0, 20); have != nil {
		t.Fatal(have)
	}
	d.Close()
	if have := present(t, a, 0, 20); have != nil {
		t.Fatal(have)
	}
	d = open(t, dir, config(c))
	put(t, d, 0, 10)
	put(t, a, 10, 20)
	d.Close()
	c.add(stale)
	all(t, a, 0, 20)
}

func TestWriteError(t *testing.T) {
	for _, fail := range []int{0, 1, 2, 3, 5, 6} { // even: packs; odd: indexes
		for _, part := range []int{0, 10, 50_000} {
			dir, c := t.TempDir(), newClock()
			s := open(t, dir, config(c))
			writes := 0
			s.writeAt = func(f *os.File, p []byte, off int64) (int, error) {
				if writes++; writes > fail {
					n, _ := f.WriteAt(p[:min(part, len(p))], off)
					return n, syscall.ENOSPC
				}
				return f.WriteAt(p, off)
			}
			errs := 0
			for i := range 60 {
				if err := s.Put(id(i), data(i)); err != nil {
					errs++
					if !errors.Is(err, syscall.ENOSPC) {
						t.Fatal(err)
					}
				}
			}
			if errs != 1 {
				t.Fatalf("%d errors", errs)
			}
			have := present(t, s, 0, 60)
			if fail > 0 && len(have) == 0 || len(have) > 40 {
				t.Fatalf("after %d writes there are %d chunks", fail, len(have))
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir, config(c))
			if again := present(t, s, 0, 60); len(again) != len(have) {
				t.Fatalf("%d chunks, then %d", len(have), len(again))
			}
			put(t, s, 0, 60)
			s.Close()
			all(t, open(t, dir, config(c)), 0, 60)
		}
	}
}

// What a process has read of a pack before its writer cut it off again, because its
// disk is full, is not what this one appends there.
func TestCutOffByAnother(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	reader, other := open(t, dir, config(c)), open(t, dir, config(c))
	other.writeAt = func(f *os.File, p []byte, off int64) (int, error) {
		n, _ := f.WriteAt(p, off)
		c.add(stale)
		if !reader.Has(id(0)) {
			t.Error("the reader does not see what was written")
		}
		return n, syscall.ENOSPC
	}
	n := 0
	for ; other.Put(id(n), data(n)) == nil; n++ {
	}
	for i := 100; i < 120; i++ {
		put(t, reader, i, i+1)
		present(t, reader, 0, n)
		all(t, reader, 100, i+1)
	}
	if packs := files(t, dir, packSuffix); len(packs) != 1 {
		t.Errorf("%q", packs)
	}
	put(t, reader, 0, n)
	reader.Close()
	s := open(t, dir, config(c))
	all(t, s, 0, n)
	all(t, s, 100, 120)
}

// An error is not for ever: a mount lives for months.
func TestWriteErrorPasses(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, config(c))
	failing := true
	s.writeAt = func(f *os.File, p []byte, off int64) (int, error) {
		if failing {
			return 0, syscall.ENOSPC
		}
		return f.WriteAt(p, off)
	}
	i := 0
	for ; s.Put(id(i), data(i)) == nil; i++ {
	}
	failing = false
	c.add(pause - 1)
	put(t, s, 0, 40)
	if have := present(t, s, 0, 40); have != nil {
		t.Fatalf("stored at once: %v", have)
	}
	c.add(1)
	put(t, s, 0, 40)
	all(t, s, 0, 40)
	s.Close()
	all(t, open(t, dir, config(c)), 0, 40)
}

// A file system may have no locks.
func TestNoLock(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, config(c))
	s.lock = func(string) (*os.File, error) { return nil, syscall.ENOLCK }
	if err := s.Put(id(0), data(0)); !errors.Is(err, syscall.ENOLCK) {
		t.Error(err)
	}
	if left := files(t, dir, packSuffix); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestMaxBytes(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	cfg := config(c)
	cfg.MaxBytes = minBytes
	first := open(t, dir, cfg)
	put(t, first, 0, 10)
	first.Close()
	const more = 400 // 26 MB
	for i := 10; i < more; i += 10 {
		c.add(2 * usedEvery)
		s := open(t, dir, cfg)
		if i < 100 {
			all(t, s, 0, 10) // used all the time
		}
		put(t, s, i, i+10)
		s.Close()
		if n := size(t, dir); n > cfg.MaxBytes {
			t.Fatalf("%d bytes after %d chunks", n, i)
		}
	}
	s := open(t, dir, cfg)
	all(t, s, more-30, more)
	if have := present(t, s, 0, 10); have != nil {
		t.Fatalf("not used for long, still there: %v", have)
	}
	if n := size(t, dir); n < cfg.MaxBytes/2 {
		t.Fatalf("only %d bytes are left", n)
	}
}

// Many sessions that store little do not leave many packs.
func TestMaxPacks(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	var stores []*Store
	maxPacks := open(t, dir, config(c)).maxPacks()
	for i := range maxPacks + 5 {
		s := open(t, dir, config(c))
		stores = append(stores, s)
		if i < maxPacks-1 {
			put(t, s, i, i+1)
		}
	}
	if n := len(files(t, dir, packSuffix)); n != maxPacks-1 {
		t.Fatalf("%d packs", n)
	}
	stores[0].Close()
	put(t, stores[maxPacks], 100, 101)
	if n := len(files(t, dir, packSuffix)); n > maxPacks {
		t.Fatalf("%d packs", n)
	}
}

// A large store is as large as it may be, although a pack of it has 1 GiB at most.
func TestLargeStore(t *testing.T) {
	dir, cfg := t.TempDir(), config(newClock())
	cfg.MaxBytes = 100 << 30
	const packs = 60
	var index []byte
	end := int64(0)
	for end < 1<<30 {
		e := entry{id: id(len(index)), off: uint32(end), size: chunk.MaxSize}
		index = e.append(index)
		end = e.end()
	}
	for i := range packs {
		path := filepath.Join(dir, sprint(i, packSuffix))
		mustWrite(t, path, nil)
		if err := os.Truncate(path, end); err != nil { // with a hole
			t.Fatal(err)
		}
		mustWrite(t, indexOf(path), index)
	}
	s := open(t, dir, cfg)
	put(t, s, 1, 2)
	if n := len(files(t, dir, packSuffix)); n != packs+1 {
		t.Errorf("%d packs are left", n)
	}
	s.Close()
	if cfg.MaxBytes = 1 << 60; (&Store{cfg: cfg}).maxPacks() != maxSlots {
		t.Error("there may be more packs than slots")
	}
}

func TestFreeSpace(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	cfg := config(c)
	s := open(t, dir, cfg)
	put(t, s, 10, 20)
	s.Close()
	cfg.Free = func(string) (uint64, uint64, error) { return 256<<20 + 1<<19, 1 << 30, nil }
	s = open(t, dir, cfg)
	all(t, s, 10, 20)
	errs := 0
	for i := 30; i < 50; i++ {
		if err := s.Put(id(i), data(i)); err != nil {
			errs++
			if !errors.Is(err, ErrNoSpace) {
				t.Fatal(err)
			}
		}
	}
	if errs != 1 {
		t.Fatalf("%d errors", errs)
	}
	if have := present(t, s, 30, 50); have != nil {
		t.Fatal("stored", have)
	}
	if size(t, dir) != 0 {
		t.Fatal("the store does not make way for others")
	}
	for _, total := range []uint64{1 << 20, 1 << 30, 1 << 40} {
		if r := Reserve(total); r < 256<<20 || r < total/100 {
			t.Errorf("of %d bytes %d stay free", total, r)
		}
	}
}

// Packs of a time when the clock was wrong do not outlive all that comes later, unless
// they are of use.
func TestClockWasAhead(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	cfg := config(c)
	cfg.MaxBytes = minBytes
	const ahead = 10_000 * usedEvery
	c.add(ahead)
	first := open(t, dir, cfg)
	put(t, first, 0, 300)
	first.Close()
	if n := size(t, dir); n < minBytes*3/4 {
		t.Fatalf("only %d bytes are full", n)
	}
	c.add(-ahead)
	s := open(t, dir, cfg)
	all(t, s, 299, 300)
	put(t, s, 300, 400)
	all(t, s, 299, 400)
}
