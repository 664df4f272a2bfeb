package policy

import (
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkHostile loads and asks every hostile module in turn with the limits of
// a builder. It reports the slowest, which a denial may take 300 ms for, the one
// that took longest to compile, and what the heap has grown by afterwards.
func BenchmarkHostile(b *testing.B) {
	all := hostile()
	h := NewHost(Config{})
	var slowest, compiling time.Duration
	var which, compiled string
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // the first only empties pools
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for b.Loop() {
		for name, c := range all {
			began := time.Now()
			m, err := h.Load(b.Context(), c.code)
			if err == nil {
				// Compiling is done when a ticket is made.
				if took := time.Since(began); took > compiling {
					compiling, compiled = took, name
				}
				began = time.Now()
				_, err = m.Decide(b.Context(), testRequest(), testLimits)
			}
			if took := time.Since(began); took > slowest {
				slowest, which = took, name
			}
			// A busy machine may not get to what a module would do.
			var e *Error
			if !errors.As(err, &e) || e.Code != c.want && e.Code != CodeTimeout {
				b.Fatalf("%s: %v", name, err)
			}
			if m != nil {
				m.Close()
			}
		}
	}
	b.ReportMetric(float64(slowest.Milliseconds()), "ms-slowest")
	b.ReportMetric(float64(compiling.Milliseconds()), "ms-slowest-compiled")
	b.ReportMetric(float64(int64(heap())-int64(before))/(1<<20), "MiB-grown")
	b.Logf("slowest: %s; to compile: %s", which, compiled)
}

// BenchmarkBesideFifty is an ordinary decision while fifty others spin until their
// time is up. It reports the longest, which may be 500 ms.
func BenchmarkBesideFifty(b *testing.B) {
	h := NewHost(Config{})
	spinning, err := h.Load(b.Context(), mod{body: forever}.wasm())
	if err != nil {
		b.Fatal(err)
	}
	defer spinning.Close()
	ordinary, err := h.Load(b.Context(), says(allows))
	if err != nil {
		b.Fatal(err)
	}
	defer ordinary.Close()
	if _, err := ordinary.Decide(b.Context(), testRequest(), testLimits); err != nil {
		b.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_, _ = spinning.Decide(b.Context(), testRequest(), testLimits) // it is stopped
				}
			}
		})
	}
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		if _, err := ordinary.Decide(b.Context(), testRequest(), testLimits); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	close(stop)
	wg.Wait()
	b.ReportMetric(float64(slices.Max(took).Milliseconds()), "ms-longest")
}
