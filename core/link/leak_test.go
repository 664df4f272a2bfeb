//go:build linux

package link

import (
	"bytes"
	"crypto/rand"
	"flag"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"
)

var leakSessions = flag.Int("sessions", 100, "sessions of TestDirectPathsLeaveNothing, half of them by TCP")

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
	servers := map[PathKind]*directServer{
		PathDirectTCP:  serveDirect(t, nil),
		PathDirectQUIC: serveDirect(t, func(cfg *DirectConfig) { cfg.quicOnly = true }),
	}
	session := func(kind PathKind) {
		b := servers[kind]
		s, err := newSession(t.Context(), Config{
			Identity: secret(t, 1), Peer: secret(t, 2).ID(), Direct: &Direct{Rand: rand.Reader, loopback: true, patient: true},
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
	for kind, b := range servers {
		b.unlimited()
		session(kind)
	}
	// settled waits until no more is held than that, or for a minute. A builder
	// pings a client's addresses for some seconds.
	var goroutines, descriptors int
	settled := func(g, d int) bool {
		for deadline := time.Now().Add(enough); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
			if goroutines, descriptors = heldNow(t); goroutines <= g && descriptors <= d {
				return true
			}
		}
		return false
	}
	settled(1e6, 1e6)
	g, d := goroutines, descriptors
	for range *leakSessions / 2 {
		for kind := range servers {
			session(kind)
		}
	}
	if !settled(g, d) {
		var stacks bytes.Buffer
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		t.Logf("%s", &stacks)
		t.Errorf("after %d sessions: %d goroutines, %d before; %d descriptors, %d before", *leakSessions, goroutines, g, descriptors, d)
	}
}
