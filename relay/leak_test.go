package relay_test

import (
	"context"
	"flag"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
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

// remembered is a listener that counts the connections which are still in memory.
type remembered struct {
	net.Listener
	n atomic.Int64
}

func (l *remembered) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn := &struct{ *net.TCPConn }{c.(*net.TCPConn)}
	l.n.Add(1)
	runtime.AddCleanup(conn, func(n *atomic.Int64) { n.Add(-1) }, &l.n)
	return conn, nil
}

// Sessions over TCP leave no goroutine and no descriptor in relay, builder or
// client, and the relay forgets them.
func TestNothingLeaks(t *testing.T) {
	s := relay.New(relay.Config{Limits: relay.Limits{HandshakesPerSecond: 1e6, HandshakeBurst: 1e6}})
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &remembered{Listener: tcp}
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
	forgotten := func() bool {
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
			if runtime.GC(); l.n.Load() <= int64(*leakSessions)/2 {
				return true
			}
		}
		return false
	}
	if !forgotten() {
		t.Errorf("after %d sessions the relay remembers %d connections", *leakSessions, l.n.Load())
	}
	if !settled(g, d) {
		t.Errorf("after %d sessions: %d goroutines, %d before; %d descriptors, %d before", *leakSessions, goroutines, g, descriptors, d)
	}
}
