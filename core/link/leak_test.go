//go:build linux

package link

import (
	"crypto/rand"
	"flag"
	"net/http"
	"os"
	"runtime"
	"testing"
	"time"
)

var leakSessions = flag.Int("sessions", 40, "sessions of TestDirectPathsLeaveNothing, half of them by TCP")

// heldNow counts this process's goroutines and descriptors.
func heldNow(t *testing.T) (goroutines, descriptors int) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return runtime.NumGoroutine(), len(entries)
}

// Sessions with direct paths leave no goroutine and no descriptor, at either end.
func TestDirectPathsLeaveNothing(t *testing.T) {
	for kind, b := range map[PathKind]*directServer{
		PathDirectTCP:  serveDirect(t, nil),
		PathDirectQUIC: serveDirect(t, func(cfg *DirectConfig) { cfg.quicOnly = true }),
	} {
		t.Run(string(kind), func(t *testing.T) {
			// One client could not open so many paths in so short a time.
			var n byte
			session := func() {
				n++
				s, err := newSession(t.Context(), Config{
					Identity: secret(t, 100+n%100), Peer: secret(t, 2).ID(), Direct: &Direct{Rand: rand.Reader, loopback: true},
					Header: http.Header{"Authorization": {"me"}},
				}, []dialer{&relayed{wayTo{network: &b.network, address: "b"}}})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				s.waitFor(t, kind)
				if text, err := do(s.Bulk(), http.MethodGet, "x", nil); err != nil {
					t.Fatalf("got %q, %v", text, err)
				}
			}
			session()
			// settled waits until no more is held than limit, or for a minute.
			var goroutines, descriptors int
			settled := func(g, d int) bool {
				for deadline := time.Now().Add(enough); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
					if goroutines, descriptors = heldNow(t); goroutines <= g && descriptors <= d {
						return true
					}
				}
				return false
			}
			b.quiet(t)
			settled(1e6, 1e6)
			g, d := goroutines, descriptors
			for range *leakSessions / 2 {
				session()
			}
			b.quiet(t)
			if !settled(g, d) {
				t.Errorf("after %d sessions: %d goroutines, %d before; %d descriptors, %d before", *leakSessions/2, goroutines, g, descriptors, d)
			}
		})
	}
}

// quiet waits until the server has no connection and no exchange.
func (s *directServer) quiet(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(enough); ; <-time.After(5 * time.Millisecond) {
		s.listen.gate.mu.Lock()
		total := s.listen.gate.total
		s.listen.gate.mu.Unlock()
		if total == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections stay", total)
		}
	}
}
