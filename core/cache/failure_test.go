package cache

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
)

var errBroken = errors.New("connection broken")

func hang(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// readOne reads the beginning of a NAR and tells how long that took.
func readOne(t *testing.T, v *View, p fakePath, n int) (time.Duration, error) {
	t.Helper()
	f := mustOpen(t, v, p)
	defer f.Close()
	start := time.Now()
	buf := make([]byte, n)
	k, err := f.ReadAt(buf, 0)
	p.check(t, buf[:k], 0)
	return time.Since(start), err
}

// Wherever the builder falls silent, the read ends at its deadline.
func TestStall(t *testing.T) {
	stalls := map[string]func(m *memFetcher){
		"request": func(m *memFetcher) {
			m.onFetch = func(ctx context.Context, _ []NarRange) error { return hang(ctx) }
		},
		"first byte": func(m *memFetcher) {
			m.onRead = func(ctx context.Context, _ string, _ int64) (int, error) { return 0, hang(ctx) }
		},
		"half way": func(m *memFetcher) {
			m.onRead = func(ctx context.Context, _ string, off int64) (int, error) {
				if off >= 16<<10 {
					return 0, hang(ctx)
				}
				return 16 << 10, nil
			}
		},
		"a byte now and then": func(m *memFetcher) {
			m.onRead = func(ctx context.Context, _ string, _ int64) (int, error) {
				select {
				case <-time.After(time.Second):
					return 1, nil
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			}
		},
	}
	for name, stall := range stalls {
		for _, ahead := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					paths := []fakePath{newPath(0, 1<<20), newPath(1, 1<<20)}
					m := newFetcher(paths)
					stall(m)
					v := newView(t, paths, m, ViewConfig{})
					if ahead {
						v.RunAhead(nil)
						synctest.Wait()
					}
					d, err := readOne(t, v, paths[0], 64<<10)
					if !errors.Is(err, ErrTimeout) && !errors.Is(err, errStalled) || d > DefaultReadTimeout+time.Second {
						t.Errorf("%v after %v", err, d)
					}
					if !errors.Is(v.Err(), ErrTimeout) && !errors.Is(v.Err(), errStalled) {
						t.Errorf("Err: %v", v.Err())
					}
				})
			})
		}
	}
}

// Slow is not stalled.
func TestSlowLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(0, 2<<20)
		m := newFetcher([]fakePath{p})
		m.onRead = func(context.Context, string, int64) (int, error) {
			time.Sleep(5 * time.Second)
			return 32 << 10, nil
		}
		v := newView(t, []fakePath{p}, m, ViewConfig{})
		start := time.Now()
		readAll(t, v, p, 1<<20)
		if d := time.Since(start); d < 5*time.Minute || v.Stats().Requests != 1 {
			t.Errorf("%v, %+v", d, v.Stats())
		}
	})
}

// A builder that answers again before the deadline is forgiven.
func TestStalledRequestIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(0, 1<<20)
		m := newFetcher([]fakePath{p})
		m.onRead = func(ctx context.Context, _ string, off int64) (int, error) {
			if off == 512<<10 && len(m.log()) == 1 {
				return 0, hang(ctx)
			}
			return 0, nil
		}
		m.onFrame = nil
		v := newView(t, []fakePath{p}, m, ViewConfig{})
		readAll(t, v, p, 64<<10)
		log := m.log()
		if len(log) != 2 || log[1][0].Offset != 512<<10 {
			t.Errorf("requests %v", log)
		}
	})
}

// A stream that breaks is resumed at the byte that it came to, as often as it
// makes progress.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		paths := []fakePath{newPath(0, 3<<20), newPath(1, 5<<20), newPath(2, 10)}
		m := newFetcher(paths)
		var mu sync.Mutex
		left := 300_000
		m.onRead = func(context.Context, string, int64) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			if left == 0 {
				left = 300_000
				return 0, errBroken
			}
			n := min(left, 10_000)
			left -= n
			return n, nil
		}
		v := newView(t, paths, m, ViewConfig{})
		v.RunAhead(nil)
		for _, p := range paths {
			readAll(t, v, p, 64<<10)
		}
		s := v.Stats()
		if s.Fetched != s.Read || s.Requests < 27 || v.Err() != nil {
			t.Errorf("%+v, %v", s, v.Err())
		}
	})
}

func TestGivesUpAfterRetries(t *testing.T) {
	truncated := func(f *Frame, _ NarRange) error { return nil }
	cases := map[string]struct {
		set   func(m *memFetcher)
		want  error
		tries int
	}{
		"no connection": {func(m *memFetcher) {
			m.onFetch = func(context.Context, []NarRange) error { return errBroken }
		}, errBroken, 1 + maxRetries},
		"refused": {func(m *memFetcher) {
			m.onFetch = func(context.Context, []NarRange) error {
				return Permanent(wire.Errorf(wire.CodeTicketRevoked, "so there"))
			}
		}, wire.CodeTicketRevoked.Err(), 1},
		"truncated": {func(m *memFetcher) {
			m.onFrame = truncated
			m.onRead = func(_ context.Context, _ string, off int64) (int, error) {
				if off == 1000 {
					return 0, io.EOF
				}
				return 1000, nil
			}
		}, io.ErrUnexpectedEOF, 1 + maxRetries},
		"too long": {func(m *memFetcher) {
			m.onFrame = func(f *Frame, _ NarRange) error { f.Size++; return nil }
		}, ErrStream, 1},
		"too short": {func(m *memFetcher) {
			m.onFrame = func(f *Frame, _ NarRange) error { f.Size--; return nil }
		}, ErrStream, 1},
		"another NAR": {func(m *memFetcher) {
			m.onFrame = func(f *Frame, _ NarRange) error { f.Index++; return nil }
		}, ErrStream, 1},
		"gone": {func(m *memFetcher) {
			m.onFrame = func(f *Frame, _ NarRange) error { *f = Frame{Index: f.Index, Unavailable: true}; return nil }
		}, ErrUnavailable, 1},
		"reads nothing": {func(m *memFetcher) {
			m.onRead = func(context.Context, string, int64) (int, error) { return 0, io.ErrNoProgress }
		}, io.ErrNoProgress, 1 + maxRetries},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPath(0, 100_000)
				m := newFetcher([]fakePath{p})
				c.set(m)
				v := newView(t, []fakePath{p}, m, ViewConfig{})
				d, err := readOne(t, v, p, 64<<10)
				if !errors.Is(err, c.want) || d > DefaultReadTimeout {
					t.Errorf("%v after %v", err, d)
				}
				synctest.Wait()
				if n := len(m.log()); n != c.tries {
					t.Errorf("%d tries", n)
				}
				if !errors.Is(v.Err(), c.want) {
					t.Errorf("Err: %v", v.Err())
				}
			})
		})
	}
}

// One NAR that is gone does not keep the others from coming.
func TestUnavailableAmongOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		paths := []fakePath{newPath(0, 1000), newPath(1, 1000), newPath(2, 1000)}
		m := newFetcher(paths)
		gone := paths[1].info.NarHash.Nix32()
		back := false
		m.onFrame = func(f *Frame, r NarRange) error {
			if r.NarHash == gone && !back {
				*f = Frame{Index: f.Index, Unavailable: true}
			}
			return nil
		}
		v := newView(t, paths, m, ViewConfig{})
		v.RunAhead(nil)
		synctest.Wait()
		readAll(t, v, paths[0], 100)
		readAll(t, v, paths[2], 100)
		if _, err := readOne(t, v, paths[1], 10); err != nil && !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
		// Asked anew when it is opened anew, though somebody holds on to it.
		failed := mustOpen(t, v, paths[1])
		defer failed.Close()
		if _, err := failed.ReadAt(make([]byte, 10), 0); !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
		back = true
		readAll(t, v, paths[1], 100)
		if n := len(m.log()); n > 4 {
			t.Errorf("%d requests", n)
		}
	})
}

// Everything at once: readers that come and go, cancel, skip, and a network
// that is slow, breaks and stalls. Whatever is read is right, nothing hangs,
// and the accounts are in order afterwards (newView checks).
func TestChaos(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) { chaos(t, seed) })
	}
}

func chaos(t *testing.T, seed uint64) {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 2))
	chance := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rng.IntN(n)
	}
	var paths []fakePath
	for k := range 30 {
		size := 1 + chance(2000)
		if chance(3) == 0 {
			size = 1 + chance(20<<20)
		}
		paths = append(paths, newPath(k, int64(size)))
	}
	m := newFetcher(paths)
	m.onFetch = func(ctx context.Context, _ []NarRange) error {
		time.Sleep(time.Duration(chance(50)) * time.Millisecond)
		if chance(20) == 0 {
			return errBroken
		}
		return nil
	}
	m.onRead = func(ctx context.Context, _ string, _ int64) (int, error) {
		switch chance(400) {
		case 0:
			return 0, errBroken
		case 1:
			if chance(10) == 0 {
				return 0, hang(ctx)
			}
		}
		time.Sleep(time.Duration(chance(3)) * time.Millisecond)
		return 1 + chance(300<<10), nil
	}
	v := newView(t, paths, m, ViewConfig{Budget: int64(chance(20)) << 20})
	if chance(3) > 0 {
		v.RunAhead(nil)
	}
	var wg sync.WaitGroup
	for range 1 + chance(20) {
		wg.Go(func() {
			for range 10 {
				p := paths[chance(len(paths))]
				f := mustOpen(t, v, p)
				off := int64(0)
				if chance(3) == 0 {
					off = int64(chance(int(p.info.NarSize)))
				}
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if chance(5) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(chance(200))*time.Millisecond)
				}
				buf := make([]byte, 1+chance(1<<20))
				for {
					n, err := f.ReadAtContext(ctx, buf, off)
					p.check(t, buf[:n], off)
					off += int64(n)
					if err != nil {
						if err == io.EOF && off != f.Size() {
							t.Errorf("end at %d of %d", off, f.Size())
						}
						break
					}
					if chance(50) == 0 {
						break
					}
					time.Sleep(time.Duration(chance(2)) * time.Millisecond)
				}
				cancel()
				f.Close()
			}
		})
	}
	wg.Wait()
	v.mu.Lock()
	if len(v.waiters) > 0 || len(v.files) > 0 {
		t.Errorf("%d waiters, %d files left", len(v.waiters), len(v.files))
	}
	v.mu.Unlock()
}

// What arrived before a transfer failed for good is read before the failure is.
func TestDataBeforeFailure(t *testing.T) {
	for range 20 {
		p := newPath(0, 1<<20)
		m := newFetcher([]fakePath{p})
		m.onRead = func(_ context.Context, _ string, off int64) (int, error) {
			if off == 256<<10 {
				return 0, Permanent(errBroken)
			}
			return 0, nil
		}
		v := newView(t, []fakePath{p}, m, ViewConfig{})
		if _, err := readOne(t, v, p, 256<<10); err != nil {
			t.Error(err)
		}
		f := mustOpen(t, v, p)
		if _, err := f.ReadAt(make([]byte, 10), 256<<10); !errors.Is(err, errBroken) {
			t.Error(err)
		}
		f.Close()
	}
}
