package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
)

// Whatever a builder does, no wrong byte is read, what can be mended is mended,
// and what cannot ends soon with an error that names it.
func TestChunkFaults(t *testing.T) {
	type faults struct {
		srv   *chunkServer
		nar   *testNar
		count atomic.Int32 // faults so far
	}
	// first tells that it is one of the first n times.
	first := func(f *faults, n int32) bool { return f.count.Add(1) <= n }
	flipped := func(times int32) func(*faults) {
		return func(f *faults) {
			f.srv.onChunk = func(_ context.Context, _ *testNar, i int, data []byte) ([]byte, error) {
				if i == 7 && first(f, times) {
					data = bytes.Clone(data)
					data[len(data)/2] ^= 1
				}
				return data, nil
			}
		}
	}
	gone := func(times int32) func(*faults) {
		return func(f *faults) {
			f.srv.onChunk = func(_ context.Context, _ *testNar, i int, data []byte) ([]byte, error) {
				if i >= 7 && first(f, times) {
					return nil, nil
				}
				return data, nil
			}
		}
	}
	truncated := func(after int, times int32, end error) func(*faults) {
		return func(f *faults) {
			f.srv.onChunk = func(_ context.Context, _ *testNar, i int, data []byte) ([]byte, error) {
				if i >= after && first(f, times) {
					return nil, end
				}
				return data, nil
			}
		}
	}
	manifest := func(times int32, change func([]byte) ([]byte, error)) func(*faults) {
		return func(f *faults) {
			f.srv.onManifest = func(_ string, answer []byte) ([]byte, error) {
				if first(f, times) {
					return change(answer)
				}
				return answer, nil
			}
		}
	}
	const ever = 1 << 30
	whole, other := newNar(0, 1, 2<<20), newNar(1, 2, 100_000)
	// The first chunks that a longer and a shorter one follow.
	shorter, longer := 0, 0
	for whole.man[shorter].Size >= whole.man[shorter+1].Size {
		shorter++
	}
	for whole.man[longer].Size <= whole.man[longer+1].Size {
		longer++
	}
	for name, c := range map[string]struct {
		set  func(*faults)
		want error // nil: it succeeds
		says string
	}{
		"flipped once":    {flipped(1), nil, ""},
		"flipped":         {flipped(ever), ErrStream, "chunk 7 of the NAR"},
		"index lost once": {gone(1), nil, ""},
		"index lost":      {gone(ever), ErrUnavailable, "chunk 7 of the NAR"},
		"wrong ordinals": {func(f *faults) {
			f.srv.onChunk = func(_ context.Context, n *testNar, i int, _ []byte) ([]byte, error) {
				return n.masked[(i+1)%len(n.masked)], nil
			}
		}, ErrStream, "of the NAR"},
		"truncated once":  {truncated(7, 1, io.EOF), nil, ""},
		"truncated often": {truncated(7, 3, io.EOF), nil, ""},
		"truncated":       {truncated(7, ever, io.EOF), io.ErrUnexpectedEOF, "read chunks"},
		"nothing":         {truncated(0, ever, io.EOF), io.ErrUnexpectedEOF, "read chunks"},
		"reset once":      {truncated(7, 1, errBroken), nil, ""},
		"reset":           {truncated(7, ever, errBroken), errBroken, "read chunks"},
		"one at a time": {func(f *faults) {
			f.srv.onChunk = func(ctx context.Context, _ *testNar, _ int, data []byte) ([]byte, error) {
				given := ctx.Value(chunksGiven{}).(*int)
				if *given++; *given > 1 {
					return nil, io.EOF
				}
				return data, nil
			}
		}, nil, ""},
		"refused": {func(f *faults) {
			f.srv.onRequest = func(context.Context, *wire.ChunksRequest) error {
				return Permanent(wire.Errorf(wire.CodeTicketRevoked, "so there"))
			}
		}, wire.CodeTicketRevoked.Err(), "so there"},
		"no connection": {func(f *faults) {
			f.srv.onRequest = func(context.Context, *wire.ChunksRequest) error { return errBroken }
		}, errBroken, "ask for chunks"},
		"stalled": {func(f *faults) {
			f.srv.onChunk = func(ctx context.Context, _ *testNar, i int, data []byte) ([]byte, error) {
				if i >= 7 {
					return nil, hang(ctx)
				}
				return data, nil
			}
		}, nil, "no data from the builder|the builder sends nothing"},
		"manifest cut once": {manifest(1, func(b []byte) ([]byte, error) { return b[:len(b)/2], io.EOF }), nil, ""},
		"manifest cut":      {manifest(ever, func(b []byte) ([]byte, error) { return b[:len(b)/2], io.EOF }), io.ErrUnexpectedEOF, "read manifests"},
		"manifest empty":    {manifest(ever, func(b []byte) ([]byte, error) { return nil, io.EOF }), io.ErrUnexpectedEOF, "read manifests"},
		"manifest reset":    {manifest(ever, func(b []byte) ([]byte, error) { return b[:100], errBroken }), errBroken, "read manifests"},
		"manifest junk":     {manifest(ever, func(b []byte) ([]byte, error) { return []byte("<html>"), io.EOF }), ErrStream, "status 60"},
		"manifest damaged":  {manifest(ever, func(b []byte) ([]byte, error) { b[3] = 9; return b, nil }), ErrStream, "manifest of"},
		"manifest of another": {func(f *faults) {
			n := *f.nar
			n.data = n.data[:len(n.data)-1]
			n.cut()
			f.srv.nars[f.nar.hash()] = &n
		}, ErrStream, "of a NAR of"},
		"manifest unavailable": {func(f *faults) { delete(f.srv.nars, f.nar.hash()) }, ErrUnavailable, ""},
		"ids wrong": {func(f *faults) {
			f.nar.man[3].ID[0] ^= 1
		}, ErrStream, "chunk 3 of the NAR"},
		"one ID for a longer chunk": {func(f *faults) {
			f.nar.man[shorter+1].ID = f.nar.man[shorter].ID
		}, ErrStream, "of the NAR"},
		"one ID for a shorter chunk": {func(f *faults) {
			f.nar.man[longer+1].ID = f.nar.man[longer].ID
		}, ErrStream, "of the NAR"},
	} {
		t.Run(name, func(t *testing.T) {
			n := new(testNar)
			*n = *whole
			n.man = slices.Clone(whole.man)
			synctest.Test(t, func(t *testing.T) {
				fl := &faults{srv: newChunkServer(n, other), nar: n}
				c.set(fl)
				f := newChunkFetcher(t, fl.srv, ChunkConfig{})
				v := viewOf(t, f, []*testNar{n, other})
				v.RunAhead(nil)
				start := time.Now()
				err := readNar(t, v, n)
				d := time.Since(start)
				switch {
				case c.want == nil && c.says == "" && err != nil:
					t.Errorf("%v after %v", err, d)
				case c.want != nil && (!errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says)):
					t.Errorf("%v after %v", err, d)
				case c.want == nil && c.says != "":
					if err == nil || !strings.Contains(c.says, "|") || !containsAny(err.Error(), strings.Split(c.says, "|")) {
						t.Errorf("%v after %v", err, d)
					}
				}
				if d > DefaultReadTimeout+time.Second {
					t.Errorf("it took %v", d)
				}
				v.Close()
				f.Close()
				synctest.Wait()
				if n := fl.srv.open.Load(); n != 0 {
					t.Errorf("%d answers are open", n)
				}
			})
		})
	}
}

func containsAny(s string, list []string) bool {
	for _, x := range list {
		if strings.Contains(s, x) {
			return true
		}
	}
	return false
}

// A chunk that takes longer than a request may go without progress comes in the
// end, when some of it keeps coming.
func TestChunkSlowLink(t *testing.T) {
	n := newNar(0, 1, 400_000)
	synctest.Test(t, func(t *testing.T) {
		srv := newChunkServer(n)
		f := newChunkFetcher(t, srv, ChunkConfig{})
		f.http.transport = slowLink{srv, 4 << 10} // per second and answer
		v := viewOf(t, f, []*testNar{n})
		start := time.Now()
		if err := readNar(t, v, n); err != nil {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if d := time.Since(start); d < 20*time.Second {
			t.Errorf("it took %v", d)
		}
		v.Close()
		f.Close()
	})
}

// Several requests that share what is left of a line of 64 kbit/s, behind a full
// queue, are each slower than one may be, and are not given up.
func TestChunkSharedLink(t *testing.T) {
	n := newNar(0, 1, 800_000)
	synctest.Test(t, func(t *testing.T) {
		srv := newChunkServer(n)
		srv.onRequest = func(context.Context, *wire.ChunksRequest) error {
			time.Sleep(4 * time.Second)
			return nil
		}
		f := newChunkFetcher(t, srv, ChunkConfig{})
		f.http.transport = sharedLink{srv, 4000, make(chan struct{}, 1)}
		v := viewOf(t, f, []*testNar{n})
		v.RunAhead(nil)
		if err := readNar(t, v, n); err != nil {
			t.Error(err)
		}
		if n := v.Stats().Requests; n != 1 {
			t.Errorf("asked %d times", n)
		}
		v.Close()
		f.Close()
	})
}
