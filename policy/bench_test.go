package policy

import (
	"encoding/json"
	"testing"
)

// BenchmarkDecide is a warm decision by the smallest module: what the host adds.
func BenchmarkDecide(b *testing.B) {
	m, err := NewHost(Config{}).Load(b.Context(), says(allows))
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Decide(b.Context(), testRequest(), testLimits); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNative is the same with a Go function in place of the instance.
func BenchmarkNative(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		r := testRequest()
		r.Ticket.Limits = LimitsOf(testLimits)
		in, err := r.Encode()
		if err != nil {
			b.Fatal(err)
		}
		if !json.Valid(in) {
			b.Fatal("not JSON")
		}
		d, err := DecodeDecision([]byte(allows))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := d.settle(testLimits); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoad compiles the smallest module, and reads it from the disk cache.
func BenchmarkLoad(b *testing.B) {
	for name, dir := range map[string]string{"compiled": "", "cached": b.TempDir()} {
		b.Run(name, func(b *testing.B) {
			h := NewHost(Config{CacheDir: dir})
			for b.Loop() {
				m, err := h.Load(b.Context(), says(allows))
				if err != nil {
					b.Fatal(err)
				}
				m.Close()
			}
		})
	}
}
