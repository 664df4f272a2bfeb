package cache

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
)

func TestImportInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var paths []fakePath
		for k := range 300 {
			paths = append(paths, newPath(k, int64(1000+k*37)))
		}
		paths = append(paths, newPath(300, 40<<20))
		m := newFetcher(paths)
		v := newView(t, shuffled(paths, 1), m, ViewConfig{})
		v.RunAhead(nil)
		for _, p := range paths {
			readAll(t, v, p, 64<<10)
		}
		if n := len(m.log()); n != 1 {
			t.Errorf("%d requests", n)
		}
		s := v.Stats()
		if s.Fetched != s.Read || s.Evicted != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

// The order in which `nix copy` reads is depth first by name, not by rank.
func TestImportOrder(t *testing.T) {
	a := newPath(9, 1)
	b := newPath(5, 1, a)
	c := newPath(1, 1, b, a)
	d := newPath(7, 1)
	e := newPath(3, 1, d, newPath(99, 1)) // 99 is not imported
	all := map[nix.Path]nix.PathInfo{}
	var paths []nix.Path
	for _, p := range []fakePath{d, e, c, b, a} {
		all[p.info.Path] = p.info
		paths = append(paths, p.info.Path)
	}
	got := importOrder(paths, func(p nix.Path) []nix.Path { return all[p].References })
	want := []nix.Path{a.info.Path, b.info.Path, c.info.Path, d.info.Path, e.info.Path}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// A cycle must not hang it.
	ring := func(p nix.Path) []nix.Path { return paths }
	if got := importOrder(paths, ring); len(got) != len(paths) {
		t.Errorf("cycle: %v", got)
	}
}

func TestRunAheadOnlyWhatIsImported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		paths := []fakePath{newPath(0, 1<<20), newPath(1, 1<<20), newPath(2, 1<<20)}
		m := newFetcher(paths)
		v := newView(t, paths, m, ViewConfig{})
		v.RunAhead([]nix.Path{paths[2].info.Path, newPath(50, 1).info.Path, paths[0].info.Path})
		synctest.Wait()
		readAll(t, v, paths[0], 64<<10)
		readAll(t, v, paths[2], 64<<10)
		log := m.log()
		if len(log) != 1 || len(log[0]) != 2 {
			t.Errorf("requests: %v", log)
		}
	})
}

// A reader that wants what is far from everything that is on its way is served
// by a request of its own, though the budget is full of data that nobody reads.
func TestDemandJumpsTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		paths := []fakePath{newPath(0, 200<<20), newPath(1, 200<<20)}
		m := newFetcher(paths)
		v := newView(t, paths, m, ViewConfig{Budget: 16 << 20})
		v.RunAhead(nil)
		first := mustOpen(t, v, paths[0])
		defer first.Close()
		buf := make([]byte, 1<<20)
		if _, err := first.ReadAt(buf, 0); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()

		second := mustOpen(t, v, paths[1])
		defer second.Close()
		if _, err := second.ReadAt(buf, 150<<20); err != nil {
			t.Fatal(err)
		}
		paths[1].check(t, buf, 150<<20)
		log := m.log()
		last := log[len(log)-1]
		if last[0].NarHash != paths[1].info.NarHash.Nix32() || last[0].Offset != 150<<20 {
			t.Errorf("requests: %v", log)
		}
		// And the first goes on where it was.
		if _, err := first.ReadAt(buf, 1<<20); err != nil {
			t.Fatal(err)
		}
		paths[0].check(t, buf, 1<<20)
	})
}

// An import that skips paths must not cost a round trip for each that it does
// read.
func TestSkippedPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var paths []fakePath
		for k := range 40 {
			paths = append(paths, newPath(k, 4<<20))
		}
		m := newFetcher(paths)
		v := newView(t, paths, m, ViewConfig{})
		v.RunAhead(nil)
		for _, p := range paths[20:] {
			synctest.Wait() // the network is fast
			readAll(t, v, p, 64<<10)
		}
		if n := len(m.log()); n > 3 {
			t.Errorf("%d requests: %v", n, m.log())
		}
	})
}

// Data that nobody reads must give way, whatever it is.
func TestParallelReadersInAnyOrder(t *testing.T) {
	for _, ahead := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var paths []fakePath
			for k := range 60 {
				paths = append(paths, newPath(k, int64(k*k*k*40+1)))
			}
			m := newFetcher(paths)
			m.onRead = func(ctx context.Context, _ string, off int64) (int, error) {
				time.Sleep(time.Millisecond)
				return 16 << 10, nil
			}
			v := newView(t, paths, m, ViewConfig{Budget: 1})
			if ahead {
				v.RunAhead(nil)
			}
			queue := make(chan fakePath)
			var wg sync.WaitGroup
			for range 40 {
				wg.Go(func() {
					for p := range queue {
						readAll(t, v, p, 100_000)
					}
				})
			}
			for _, p := range shuffled(append(paths, paths...), 7) {
				queue <- p
			}
			close(queue)
			wg.Wait()
			if err := v.Err(); err != nil {
				t.Error(err)
			}
			if s := v.Stats(); s.Buffers > minSlabs*slabSize {
				t.Errorf("%d bytes of buffers", s.Buffers)
			}
		})
	}
}

// More readers than runs, each of a large NAR, none at the same place.
func TestMoreReadersThanRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(0, 1<<40)
		m := newFetcher([]fakePath{p})
		v := newView(t, []fakePath{p}, m, ViewConfig{Budget: 1})
		var wg sync.WaitGroup
		for k := range 50 {
			wg.Go(func() {
				f := mustOpen(t, v, p)
				defer f.Close()
				buf := make([]byte, 300_000)
				for i := range 5 {
					off := int64(k)<<34 + int64(i*len(buf))
					if _, err := f.ReadAt(buf, off); err != nil {
						t.Error(err)
						return
					}
					p.check(t, buf, off)
				}
			})
		}
		wg.Wait()
	})
}

// As many NARs are fetched at once as were asked for, and one alone is enough
// for any number of readers.
func TestFetches(t *testing.T) {
	for _, fetches := range []int{1, 3, 32} {
		synctest.Test(t, func(t *testing.T) {
			var paths []fakePath
			for k := range 40 {
				paths = append(paths, newPath(k, 500_000))
			}
			m := newFetcher(paths)
			var now, most int
			m.onRead = func(ctx context.Context, _ string, off int64) (int, error) {
				m.mu.Lock()
				now++
				most = max(most, now)
				m.mu.Unlock()
				time.Sleep(time.Millisecond)
				m.mu.Lock()
				now--
				m.mu.Unlock()
				return 100_000, nil
			}
			v := newView(t, paths, m, ViewConfig{Fetches: fetches})
			var wg sync.WaitGroup
			for _, p := range paths {
				wg.Go(func() { readAll(t, v, p, 300_000) })
			}
			wg.Wait()
			if most > fetches || most < fetches/2 {
				t.Errorf("%d at once; want %d", most, fetches)
			}
		})
	}
}

func TestTwoReadersOfOneNar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(0, 20<<20)
		m := newFetcher([]fakePath{p})
		v := newView(t, []fakePath{p}, m, ViewConfig{})
		var wg sync.WaitGroup
		for k := range 2 {
			f := mustOpen(t, v, p) // before anybody has passed anything
			wg.Go(func() {
				defer f.Close()
				buf := make([]byte, 64<<10)
				for off := int64(0); off < f.Size(); off += int64(len(buf)) {
					if k == 1 {
						time.Sleep(time.Millisecond)
					}
					if _, err := f.ReadAt(buf, off); err != nil {
						t.Error(err)
						return
					}
					p.check(t, buf, off)
				}
			})
		}
		wg.Wait()
		if s := v.Stats(); s.Fetched != uint64(p.info.NarSize) {
			t.Errorf("fetched %d bytes for two readers", s.Fetched)
		}
	})
}

func TestBackwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(0, 30<<20)
		v := newView(t, []fakePath{p}, newFetcher([]fakePath{p}), ViewConfig{})
		f := mustOpen(t, v, p)
		defer f.Close()
		buf := make([]byte, 3<<20)
		for off := f.Size() - int64(len(buf)); off >= 0; off -= int64(len(buf)) {
			if _, err := f.ReadAt(buf, off); err != nil {
				t.Fatal(err)
			}
			p.check(t, buf, off)
		}
		readAll(t, v, p, 1<<20)
		readAll(t, v, p, 1<<20)
	})
}

// What has been read is given up at once; what has not stays.
func TestNothingIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		paths := []fakePath{newPath(0, 2<<20), newPath(1, 2<<20)}
		v := newView(t, paths, newFetcher(paths), ViewConfig{})
		v.RunAhead(nil)
		synctest.Wait()
		f := mustOpen(t, v, paths[0])
		f.ReadAt(make([]byte, 1<<20), 0)
		f.Close()
		readAll(t, v, paths[0], 1<<20)
		readAll(t, v, paths[1], 1<<20)
		if s := v.Stats(); s.Requests != 1 {
			t.Errorf("%+v", s)
		}
		for _, s := range v.pool.all {
			if s.run != nil {
				t.Error("a slab is in use")
			}
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(0, 1<<20)
		m := newFetcher([]fakePath{p})
		m.onRead = func(ctx context.Context, _ string, _ int64) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		v := newView(t, []fakePath{p}, m, ViewConfig{})
		read := func(f *File, ctx context.Context) <-chan error {
			done := make(chan error, 1)
			go func() {
				_, err := f.ReadAtContext(ctx, make([]byte, 100), 0)
				done <- err
			}()
			synctest.Wait()
			return done
		}
		start := time.Now()

		ctx, cancel := context.WithCancel(t.Context())
		f := mustOpen(t, v, p)
		done := read(f, ctx)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
		done = read(f, t.Context())
		f.Close()
		if err := <-done; !errors.Is(err, fs.ErrClosed) {
			t.Errorf("file closed: %v", err)
		}
		if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("closed twice: %v", err)
		}
		f = mustOpen(t, v, p)
		done = read(f, t.Context())
		v.Close()
		if err := <-done; !errors.Is(err, fs.ErrClosed) {
			t.Errorf("view closed: %v", err)
		}
		if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
		if _, err := v.Open("nix-cache-info"); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("open after close: %v", err)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("took %v", d)
		}
		if err := v.Err(); err != nil {
			t.Errorf("%v is no failure", err)
		}
	})
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		paths := []fakePath{newPath(0, 3<<20), newPath(1, 100)}
		seen := map[nix.Path]Progress{}
		v := newView(t, paths, newFetcher(paths), ViewConfig{Progress: func(p Progress) { seen[p.Path] = p }})
		v.RunAhead(nil)
		synctest.Wait()
		for _, p := range paths {
			if got := seen[p.info.Path]; got.Fetched != p.info.NarSize || got.Size != p.info.NarSize {
				t.Errorf("%+v", got)
			}
		}
	})
}

type logFetcher struct{ *memFetcher }

func (logFetcher) Log(ctx context.Context, drv string) (io.ReadCloser, error) {
	switch {
	case strings.HasSuffix(drv, "-slow.drv"):
		return nil, hang(ctx)
	case strings.HasSuffix(drv, "-huge.drv"):
		return io.NopCloser(io.LimitReader(zeros{}, maxLog+1)), nil
	case strings.HasSuffix(drv, "-x.drv"):
		return io.NopCloser(strings.NewReader("built\n")), nil
	}
	return nil, fs.ErrNotExist
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestFS(t *testing.T) {
	paths := []fakePath{newPath(0, 3000), newPath(1, 1), newPath(2, 5000, newPath(1, 1))}
	realisation := `{"dependentRealisations":{},"id":"sha256:` + strings.Repeat("0a", 32) + `!out","outPath":"` + paths[0].info.Path.Base() + `","signatures":[]}`
	v := newView(t, paths, logFetcher{newFetcher(paths)}, ViewConfig{Realisations: []string{realisation}})
	doi := "realisations/sha256:" + strings.Repeat("0a", 32) + "!out.doi"
	names := []string{"nix-cache-info", "nar", "log", "build-trace-v2", doi}
	for _, p := range paths {
		names = append(names, nix.NarInfoURL(p.info.Path), p.narName())
	}
	if err := fstest.TestFS(v, names...); err != nil {
		t.Fatal(err)
	}
	if got, _ := fs.ReadFile(v, "nix-cache-info"); string(got) != "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 50\n" {
		t.Errorf("%q", got)
	}
	if got, _ := fs.ReadFile(v, doi); string(got) != realisation {
		t.Errorf("%q", got)
	}
	log := "log/" + strings.Repeat("0", 32)
	if got, err := fs.ReadFile(v, log+"-x.drv"); string(got) != "built\n" {
		t.Errorf("%q, %v", got, err)
	}
	for _, name := range []string{log + "-y.drv", log + "-x", "log/x", "nar/x.nar", paths[0].narName() + "x", "x.narinfo", "nope"} {
		if _, err := v.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat %s: %v", name, err)
		}
	}
	if _, err := v.Stat(log + "-huge.drv"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("huge log: %v", err)
	}
	if _, err := v.OpenFile(t.Context(), "nar"); err == nil {
		t.Error("a directory is no file")
	}

	// What appears later is found.
	late := newPath(3, 10)
	if _, err := v.Stat(late.narName()); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := v.Add(narInfos([]fakePath{late, paths[1]})); err != nil {
		t.Fatal(err)
	}
	if info, err := v.Stat(late.narName()); err != nil || info.Size() != 10 {
		t.Error(info, err)
	}
	if n := len(v.Infos()); n != 4 {
		t.Errorf("%d infos", n)
	}
	if info, ok := v.Info(late.info.Path); !ok || info.NarSize != 10 {
		t.Error(info, ok)
	}
}

// A log that does not come holds nobody up longer than a read would.
func TestSlowLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newView(t, nil, logFetcher{newFetcher(nil)}, ViewConfig{})
		name := "log/" + strings.Repeat("0", 32)
		start := time.Now()
		if _, err := v.Stat(name + "-slow.drv"); err == nil || time.Since(start) != DefaultReadTimeout {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := v.StatContext(ctx, name+"-slow.drv"); err == nil || time.Since(start) != DefaultReadTimeout+time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		// Nor does it hold up others, and Close ends it.
		done := make(chan error)
		go func() {
			_, err := v.Stat(name + "-slow.drv")
			done <- err
		}()
		synctest.Wait()
		if _, err := v.Stat(name + "-x.drv"); err != nil {
			t.Error(err)
		}
		v.Close()
		if err := <-done; err == nil {
			t.Error("no error after Close")
		}
	})
}

func TestRequestsStayBelowTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var paths []fakePath
		for k := range 2*maxBatch + 10 {
			paths = append(paths, newPath(k, 10))
		}
		m := newFetcher(paths)
		v := newView(t, paths, m, ViewConfig{})
		v.RunAhead(nil)
		synctest.Wait()
		var all []NarRange
		for _, r := range m.log() {
			if len(r) > maxBatch {
				t.Errorf("%d NARs in one request", len(r))
			}
			all = append(all, r...)
		}
		if len(all) != len(paths) || len(m.log()) != 3 {
			t.Errorf("%d NARs in %d requests", len(all), len(m.log()))
		}
	})
}

// Whole gives a small NAR that is here, once, and frees what it took.
func TestWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		small, large, late := newPath(0, 3000), newPath(1, 300<<10), newPath(2, 3000)
		m := newFetcher([]fakePath{small, large, late})
		v := newView(t, []fakePath{small, large, late}, m, ViewConfig{})
		v.RunAhead([]nix.Path{small.info.Path, large.info.Path})
		synctest.Wait()
		for _, c := range []struct {
			p    fakePath
			here bool
		}{{small, true}, {small, false}, {large, false}, {late, false}} {
			f := mustOpen(t, v, c.p)
			data := f.Whole(100 << 10)
			if (data != nil) != c.here {
				t.Errorf("%s: %d bytes", c.p.info.Path, len(data))
			}
			if c.here {
				c.p.check(t, data, 0)
				if len(data) != 3000 {
					t.Errorf("%d bytes", len(data))
				}
			}
			_ = f.Close()
		}
		if s := v.Stats(); s.Read != 3000 {
			t.Errorf("%d bytes count as read", s.Read)
		}
		readAll(t, v, large, 64<<10)
		readAll(t, v, late, 64<<10)
	})
}
