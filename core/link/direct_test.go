//go:build !js && !wasip1

package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/link/direct"
	"github.com/drv-thru/drv-thru/core/link/linktest"
	"github.com/drv-thru/drv-thru/core/wire"
)

const enough = time.Minute

// directServer is a builder with a path in memory, called "b", that stands for a
// relay, and with direct paths on loopback.
type directServer struct {
	network linktest.Network
	relay   *linktest.Listener
	server  *http.Server
	listen  *DirectListener
}

// unlimited lets everybody connect as often as they like.
func (s *directServer) unlimited() {
	g := &s.listen.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hosts = make(map[netip.Prefix]int)
	g.quota.PerSecond, g.quota.Burst = 1e6, 1e6
	s.listen.each.PerSecond, s.listen.each.Burst = 1e6, 1e6
	s.listen.quota.PerSecond, s.listen.quota.Burst, s.listen.quota.All = 1e6, 1e6, nil
}

var errStranger = errors.New("who are you?")

func serveDirect(t *testing.T, change func(*DirectConfig)) *directServer {
	t.Helper()
	return serveDirectTo(t, change, func(w http.ResponseWriter, r *http.Request) {
		if _, err := PeerID(r); err != nil {
			t.Error(err)
		}
		switch r.URL.Path {
		case "/echo":
			_, _ = io.Copy(w, r.Body)
		case "/hang":
			fmt.Fprint(w, "begun")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		default:
			fmt.Fprintf(w, "%s %s", r.Proto, PathOf(r.Context()).Kind)
		}
	})
}

func serveDirectTo(t *testing.T, change func(*DirectConfig), handler http.HandlerFunc) *directServer {
	t.Helper()
	s := &directServer{}
	cfg := DirectConfig{
		Identity: secret(t, 2), Listen: netip.MustParseAddrPort("127.0.0.1:0"), loopback: true,
		Authorize: func(r *http.Request) (string, error) {
			if r.Header.Get("Authorization") != "me" {
				return "", errStranger
			}
			return "", nil
		},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if s.listen, err = ListenDirect(cfg); err != nil {
		t.Fatal(err)
	}
	srv, err := NewServer(cfg.Identity, s.listen.Handler(handler), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.relay, s.server = s.network.Listen("b"), srv
	go srv.ServeTLS(s.relay, "", "")
	served := make(chan error, 1)
	go func() { served <- s.listen.Serve(srv) }()
	t.Cleanup(func() {
		_ = s.listen.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve returned %v", err)
		}
		_ = srv.Close()
	})
	return s
}

func directSession(t *testing.T, cfg Config, ways ...dialer) *Session {
	t.Helper()
	cfg.Identity, cfg.Peer = secret(t, 1), secret(t, 2).ID()
	cfg.Direct = &Direct{Rand: rand.Reader, loopback: true, patient: true}
	cfg.Header = http.Header{"Authorization": {"me"}}
	s, err := newSession(t.Context(), cfg, ways)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func (s *Session) waitFor(t *testing.T, kind PathKind) {
	t.Helper()
	for deadline := time.Now().Add(enough); s.Path().Kind != kind; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("path is %s, want %s: %s", s.Path(), kind, s.Explain())
		}
	}
}

func TestDirect(t *testing.T) {
	for _, c := range []struct {
		quicOnly bool
		kind     PathKind
		control  string
		bulk     string
	}{{false, PathDirectTCP, "HTTP/2.0", "HTTP/1.1"}, {true, PathDirectQUIC, "HTTP/3.0", "HTTP/3.0"}} {
		t.Run(string(c.kind), func(t *testing.T) {
			b := serveDirect(t, func(cfg *DirectConfig) { cfg.quicOnly = c.quicOnly })
			s := directSession(t, Config{}, &relayed{wayTo{network: &b.network, address: "b"}})
			s.waitFor(t, c.kind)
			for rt, proto := range map[http.RoundTripper]string{s.Control(): c.control, s.Bulk(): c.bulk} {
				text, err := do(rt, http.MethodGet, "x", nil)
				if err != nil || text != proto+" "+string(c.kind) {
					t.Errorf("got %q, %v", text, err)
				}
			}
			if !strings.HasPrefix(s.Explain(), string(c.kind)) {
				t.Errorf("explained as %q", s.Explain())
			}
			big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
			text, err := do(s.Bulk(), http.MethodPut, "echo", bytes.NewReader(big))
			if err != nil || text != string(big) {
				t.Errorf("%d bytes came back, %v", len(text), err)
			}
		})
	}
}

// relayed is a path in memory that calls itself a relay's.
type relayed struct{ wayTo }

func (r *relayed) path() Path { return Path{Kind: PathRelay, Via: r.address} }

func (r *relayed) dial(ctx context.Context) (*circuit, error) {
	c, err := r.wayTo.dial(ctx)
	if err == nil {
		c.path = r.path()
	}
	return c, err
}

// A direct path that is lost gives way to the relay's, and a request that waits
// on it fails; a new direct path is found.
func TestDirectLost(t *testing.T) {
	for _, quicOnly := range []bool{false, true} {
		t.Run(fmt.Sprint("quic ", quicOnly), func(t *testing.T) {
			b := serveDirect(t, func(cfg *DirectConfig) { cfg.quicOnly = quicOnly })
			s := directSession(t, Config{}, &relayed{wayTo{network: &b.network, address: "b"}})
			kind := PathDirectTCP
			if quicOnly {
				kind = PathDirectQUIC
			}
			s.waitFor(t, kind)
			req, err := http.NewRequest(http.MethodGet, BaseURL+"hang", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := s.Control().RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			s.mu.Lock()
			w := s.direct[0]
			s.mu.Unlock()
			w.lose()
			if _, err := io.ReadAll(resp.Body); err == nil {
				t.Error("the answer ends without an error")
			}
			resp.Body.Close()
			if text, err := get(s.Control(), "x"); err != nil {
				t.Errorf("got %q, %v", text, err)
			}
			s.waitFor(t, kind)
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.direct) != 1 {
				t.Errorf("%d direct paths are known", len(s.direct))
			}
		})
	}
}

// A direct path that has no connection for bulk is no path.
func TestDirectWithoutBulk(t *testing.T) {
	b := serveDirect(t, nil)
	s := directSession(t, Config{}, &relayed{wayTo{network: &b.network, address: "b"}})
	s.waitFor(t, PathDirectTCP)
	b.listen.gate.mu.Lock()
	b.listen.gate.total = 2 * maxDirect // some leave
	b.listen.gate.mu.Unlock()
	s.mu.Lock()
	w := s.direct[0]
	s.mu.Unlock()
	if text, err := get(s.Bulk(), "x"); err != nil || strings.Contains(text, string(PathDirectTCP)) {
		t.Errorf("%q, %v", text, err)
	}
	if !w.dead() {
		t.Error("the path is kept")
	}
}

// A direct path whose builder says that it takes no more requests is left to those that
// are under way.
func TestDirectOfABuilderThatStops(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	defer once.Do(func() { close(release) })
	b := serveDirectTo(t, nil, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(begun)
			<-release
		}
		fmt.Fprint(w, PathOf(r.Context()).Kind)
	})
	s := directSession(t, Config{}, &relayed{wayTo{network: &b.network, address: "b"}})
	s.waitFor(t, PathDirectTCP)
	slow := make(chan string, 1)
	go func() {
		text, err := get(s.Control(), "slow")
		slow <- fmt.Sprint(text, err)
	}()
	<-begun
	s.mu.Lock()
	w := s.direct[0]
	s.mu.Unlock()
	stopped := make(chan struct{})
	go func() {
		_ = b.server.Shutdown(context.Background())
		close(stopped)
	}()
	for deadline := time.Now().Add(enough); w.control.(*http.ClientConn).Available() > 0; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the builder says nothing")
		}
	}
	again, err := NewServer(secret(t, 2), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "again") }), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	go again.ServeTLS(b.network.Listen("b"), "", "")
	if text, err := get(s.Control(), "x"); err != nil || text != "again" {
		t.Errorf("new request: %q, %v", text, err)
	}
	once.Do(func() { close(release) })
	if got := <-slow; got != string(PathDirectTCP)+"<nil>" {
		t.Errorf("request under way: %s", got)
	}
	<-stopped
}

// overUDP is a session that has nothing but the builder's address, where only UDP answers.
func (b *directServer) overUDP(t *testing.T) *Session {
	t.Helper()
	s, err := newSession(t.Context(), Config{
		Identity: secret(t, 1), Peer: secret(t, 2).ID(),
		Addresses: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.listen.Port())},
		Direct:    &Direct{Rand: rand.Reader, loopback: true, quicOnly: true}, Header: http.Header{"Authorization": {"me"}},
	}, []dialer{&wayTo{address: "nowhere", err: errors.New("no cable"), network: &b.network}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// A ticket may hold nothing but addresses.
func TestAddressesOnly(t *testing.T) {
	b := serveDirect(t, nil)
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.listen.Port())
	s := directSession(t, Config{Addresses: []netip.AddrPort{at}}, tcpDialer{at})
	// The builder lets nobody in whose first request it does not allow.
	if err := s.base.measure(t.Context(), http.Header{"Authorization": {"me"}}); err != nil {
		t.Fatal(err)
	}
	if text, err := do(s.Control(), http.MethodGet, "x", nil); err != nil || text != "HTTP/2.0 direct-tcp" {
		t.Errorf("got %q, %v", text, err)
	}
	// With nothing but UDP open, QUIC has to do.
	u := b.overUDP(t)
	if text, err := do(u.Control(), http.MethodGet, "x", nil); err != nil || text != "HTTP/3.0 direct-quic" {
		t.Errorf("got %q, %v", text, err)
	}
}

// A session that has nothing but addresses, of which only UDP answers, tries them again
// when it has lost its path.
func TestAddressesAreTriedAgain(t *testing.T) {
	b := serveDirect(t, nil)
	s := b.overUDP(t)
	s.waitFor(t, PathDirectQUIC)
	s.loseDirect()
	s.waitFor(t, PathDirectQUIC)
	if text, err := do(s.Control(), http.MethodGet, "x", nil); err != nil || text != "HTTP/3.0 direct-quic" {
		t.Errorf("got %q, %v", text, err)
	}
}

// Where the ends hear each other and get no connection, it is not said that no packet
// came through.
func TestDirectIsRefused(t *testing.T) {
	b := serveDirect(t, func(cfg *DirectConfig) { cfg.quicOnly = true })
	b.listen.gate.mu.Lock()
	b.listen.gate.total = maxDirect
	b.listen.gate.mu.Unlock()
	s := directSession(t, Config{}, &relayed{wayTo{network: &b.network, address: "b"}})
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	s.Settled(ctx)
	if text := s.search.why(); !strings.Contains(text, "no connection by QUIC") {
		t.Errorf("%q", text)
	}
}

func TestDirectNeedsThePinnedKey(t *testing.T) {
	b := serveDirect(t, nil)
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.listen.Port())
	_, err := newSession(t.Context(), Config{
		Identity: secret(t, 1), Peer: secret(t, 3).ID(), Addresses: []netip.AddrPort{at},
		Direct: &Direct{Rand: rand.Reader, loopback: true},
	}, []dialer{tcpDialer{at}})
	if !errors.Is(err, ErrWrongPeer) {
		t.Errorf("got %v", err)
	}
}

func TestNobodyWaitsForClose(t *testing.T) {
	b := serveDirect(t, nil)
	s := directSession(t, Config{}, &relayed{wayTo{network: &b.network, address: "b"}})
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	done := make(chan struct{})
	go func() { _ = s.Close(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatal("Close hangs")
	}
}

// A request that outlives the listener begins nothing that nobody would wait for.
func TestExchangeAfterClose(t *testing.T) {
	b := serveDirect(t, nil)
	cfg := Config{Identity: secret(t, 1), Peer: secret(t, 2).ID()}
	s, err := newSession(t.Context(), cfg, []dialer{&relayed{wayTo{network: &b.network, address: "b"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ask := func(token byte) int {
		body, err := json.Marshal(wire.PathRequest{Token: wire.PathToken{token}})
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequest(http.MethodPost, BaseURL+strings.TrimPrefix(wire.RoutePath, "/"), bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "me")
		resp, err := s.Control().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if got := ask(1); got != http.StatusOK {
		t.Errorf("before: %d", got)
	}
	_ = b.listen.Close()
	if got := ask(2); got == http.StatusOK {
		t.Error("it punches for a listener that is closed")
	}
}

func openEndpoint(t testing.TB) *direct.Endpoint {
	t.Helper()
	e, err := direct.Open(netip.MustParseAddrPort("127.0.0.1:0"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}
