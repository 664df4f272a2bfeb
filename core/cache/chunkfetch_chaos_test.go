package cache

import (
	"bytes"
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

// A stream may ask again for a manifest that another was to bring and has not. Those
// behind it that came before are not used twice because of that.
func TestManifestOfOneThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nars := []*testNar{newNar(0, 1, 1<<20), newNar(1, 2, 1<<20)}
		srv := newChunkServer(nars...)
		f := newChunkFetcher(t, srv, ChunkConfig{}) // checks who uses what in the end
		if err := fetchAll(t, f, nars[1:], wholes(nars[1:])); err != nil {
			t.Fatal(err)
		}
		hold, asked := make(chan struct{}), 0
		srv.onManifest = func(_ string, answer []byte) ([]byte, error) {
			if asked++; asked == 1 {
				<-hold
			}
			return answer, nil
		}
		a, err := f.Fetch(t.Context(), wholes(nars[:1]))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- fetchAll(t, f, nars, wholes(nars)) }()
		synctest.Wait()
		a.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if asked != 2 {
			t.Errorf("the manifest was asked for %d times", asked)
		}
		close(hold)
	})
}

// Streams that share chunks, skip, stop and are ended, and a builder whose answers
// break off or are wrong: whatever is read is right, and the accounts are in order
// afterwards (newChunkFetcher checks).
func TestChunkChaos(t *testing.T) {
	var nars []*testNar
	for k, size := range []int{100, 40 << 10, 300 << 10, 300 << 10, 3 << 20, 1 << 20, 64 << 10, 64 << 10} {
		nars = append(nars, newNar(k, uint64(k/2), size))
	}
	for seed := range uint64(15) {
		synctest.Test(t, func(t *testing.T) { chunkChaos(t, nars, seed) })
	}
}

func chunkChaos(t *testing.T, nars []*testNar, seed uint64) {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 3))
	chance := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rng.IntN(n)
	}
	pause := func(most int) { time.Sleep(time.Duration(chance(most)) * time.Millisecond) }
	srv := newChunkServer(nars[:len(nars)-chance(2)]...)
	srv.onRequest = func(context.Context, *wire.ChunksRequest) error {
		pause(40)
		if chance(30) == 0 {
			return errBroken
		}
		return nil
	}
	srv.onChunk = func(_ context.Context, _ *testNar, _ int, data []byte) ([]byte, error) {
		pause(4)
		switch chance(300) {
		case 0:
			return nil, nil
		case 1:
			return nil, errBroken
		case 2:
			data = bytes.Clone(data)
			data[chance(len(data))] ^= 1
		}
		return data, nil
	}
	srv.onManifest = func(_ string, answer []byte) ([]byte, error) {
		pause(20)
		if chance(30) == 0 {
			return answer[:chance(len(answer))], errBroken
		}
		return answer, nil
	}
	cfg := ChunkConfig{}
	if chance(3) > 0 {
		cfg.Store = newMemChunks()
	}
	f := newChunkFetcher(t, srv, cfg)
	read := func(s Stream, ranges []NarRange, of []*testNar) error {
		buf := make([]byte, 1+chance(400<<10))
		for {
			frame, err := s.Next()
			if err != nil {
				return err
			}
			off := int(ranges[frame.Index].Offset)
			for data := of[frame.Index].data; !frame.Unavailable; {
				n, err := s.Read(buf)
				if !bytes.Equal(buf[:n], data[off:off+n]) {
					t.Errorf("wrong bytes at %d", off)
				}
				if off += n; err == io.EOF {
					if off != len(data) {
						t.Errorf("end at %d of %d", off, len(data))
					}
					break
				}
				if err != nil || chance(200) == 0 {
					return err
				}
				if chance(30) == 0 {
					break // on to the next
				}
				pause(3)
			}
		}
	}
	var wg sync.WaitGroup
	for range 1 + chance(8) {
		wg.Go(func() {
			for range 1 + chance(4) {
				var ranges []NarRange
				var of []*testNar
				for range 1 + chance(6) {
					n := nars[chance(len(nars))]
					r := n.whole()
					if chance(2) == 0 {
						r.Offset = uint64(chance(len(n.data) + 1))
					}
					ranges, of = append(ranges, r), append(of, n)
				}
				ctx, cancel := context.WithCancel(t.Context())
				if chance(4) == 0 {
					time.AfterFunc(time.Duration(chance(300))*time.Millisecond, cancel)
				}
				s, err := f.Fetch(ctx, ranges)
				if err == nil {
					err = read(s, ranges, of)
					s.Close()
				}
				known := err == nil || ctx.Err() != nil
				for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, errBroken, ErrStream, ErrUnavailable} {
					known = known || errors.Is(err, e)
				}
				if !known {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	f.Close()
	for srv.open.Load() > 0 { // answers that nobody reads
		time.Sleep(time.Millisecond)
	}
}
