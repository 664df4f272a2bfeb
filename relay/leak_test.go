package relay_test

import (
	"context"
	"flag"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/relay"
)

var leakSessions = flag.Int("sessions", 100, "sessions of TestNothingLeaks")

// held counts this process's goroutines and descriptors.
func held() (goroutines, descriptors int) {
	entries, _ := os.ReadDir("/proc/self/fd")
	return runtime.NumGoroutine(), len(entries)
}

// Sessions over TCP leave no goroutine and no descriptor in relay, builder or
// client.
func TestNothingLeaks(t *testing.T) {
	s := relay.New(relay.Config{Limits: relay.Limits{HandshakesPerSecond: 1e6, HandshakeBurst: 1e6}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	defer s.Shutdown(context.Background())
	url := "http://" + l.Addr().String()
	circuits, err := link.Listen(link.ListenConfig{Identity: secret(2), Relays: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := link.NewServer(secret(2), http.HandlerFunc(echo), nil)
	if err != nil {
		t.Fatal(err)
	}
	go srv.ServeTLS(circuits, "", "")
	defer srv.Close()
	if err := circuits.Registered(t.Context()); err != nil {
		t.Fatal(err)
	}
	session := func() {
		c, err := link.Dial(t.Context(), link.Config{Identity: secret(1), Peer: secret(2).ID(), Relays: []string{url}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got, err := do(c.Control(), http.MethodPost, "", strings.NewReader("text")); err != nil || got != "text" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	session()
	// settled waits until no more is held than limit, or for a minute.
	var goroutines, descriptors int
	settled := func(g, d int) bool {
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
			if goroutines, descriptors = held(); goroutines <= g && descriptors <= d && s.Stats().Circuits == 0 {
				return true
			}
		}
		return false
	}
	settled(1e6, 1e6)
	g, d := goroutines, descriptors
	for range *leakSessions {
		session()
	}
	if !settled(g, d) {
		t.Errorf("after %d sessions: %d goroutines, %d before; %d descriptors, %d before", *leakSessions, goroutines, g, descriptors, d)
	}
}
