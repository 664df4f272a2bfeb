package relay_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/link/linktest"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/relay"
)

// world is a network in memory with a relay, run inside a synctest bubble: at
// the end of the test no goroutine of relay, builder or client may be left, and
// the relay remembers nobody.
type world struct {
	t        *testing.T
	network  linktest.Network
	relay    *relay.Server
	listener *linktest.Listener
}

const (
	relayAddress = "relay.example:80"
	relayURL     = "http://relay.example"
)

func inWorld(t *testing.T, cfg relay.Config, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t}
		w.start(cfg)
		defer func() {
			w.stop()
			time.Sleep(time.Minute) // in the bubble: for peers that nobody waits for
			if n := w.relay.Remembers(); n != 0 {
				t.Errorf("the relay still remembers %d things of peers that are gone", n)
			}
		}()
		test(t, w)
	})
}

func (w *world) start(cfg relay.Config) {
	w.relay = relay.New(cfg)
	w.listener = w.network.Listen(relayAddress)
	go func(s *relay.Server, l *linktest.Listener) {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			w.t.Error(err)
		}
	}(w.relay, w.listener)
}

// stop ends the relay at once.
func (w *world) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = w.relay.Shutdown(ctx)
}

func secret(n byte) key.Secret {
	s, err := key.NewSecret(bytes.NewReader(bytes.Repeat([]byte{n}, 32)))
	if err != nil {
		panic(err)
	}
	return s
}

func (w *world) net() link.Network { return link.Network{DialContext: w.network.DialContext} }

// builder runs a builder until the test ends and waits for its registration.
func (w *world) builder(identity key.Secret, h http.HandlerFunc) *link.Listener {
	w.t.Helper()
	l, err := link.Listen(link.ListenConfig{Identity: identity, Relays: []string{relayURL}, Network: w.net(), Jitter: func() float64 { return 1 }})
	if err != nil {
		w.t.Fatal(err)
	}
	srv, err := link.NewServer(identity, h, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.ServeTLS(l, "", "")
	}()
	w.t.Cleanup(func() {
		_ = srv.Close()
		<-served
	})
	if err := l.Registered(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (w *world) dial(identity, builder key.Secret) (*link.Session, error) {
	s, err := link.Dial(w.t.Context(), link.Config{Identity: identity, Peer: builder.ID(), Relays: []string{relayURL}, Network: w.net()})
	if err == nil {
		w.t.Cleanup(func() { _ = s.Close() })
	}
	return s, err
}

func (w *world) session(identity, builder key.Secret) *link.Session {
	w.t.Helper()
	s, err := w.dial(identity, builder)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func do(rt http.RoundTripper, method, path string, body io.Reader) (string, error) {
	req, err := http.NewRequest(method, link.BaseURL+path, body)
	if err != nil {
		return "", err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(body)
}

func TestSessionThroughRelay(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		w.builder(secret(2), func(rw http.ResponseWriter, r *http.Request) {
			id, err := link.PeerID(r)
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(rw, "%v %v %s %d", id == secret(1).ID(), err, link.PathOf(r.Context()), len(body))
		})
		s := w.session(secret(1), secret(2))
		for _, rt := range []http.RoundTripper{s.Control(), s.Bulk()} {
			text, err := do(rt, http.MethodPost, "x", bytes.NewReader(make([]byte, 3<<20)))
			if want := "true <nil> relay http://relay.example 3145728"; err != nil || text != want {
				t.Errorf("got %q, %v, want %q", text, err, want)
			}
		}
		if p := s.Path(); p != (link.Path{Kind: link.PathRelay, Via: relayURL}) {
			t.Errorf("path is %v", p)
		}
		if st := w.relay.Stats(); st != (relay.Stats{Builders: 1, Circuits: 2}) {
			t.Errorf("relay counts %+v", st)
		}
		_ = s.Close()
		synctest.Wait()
		if st := w.relay.Stats(); st != (relay.Stats{Builders: 1}) {
			t.Errorf("after the session relay counts %+v", st)
		}
	})
}

// TestOverTCP has the real sockets, with what only they have: vectored writes
// and socket options.
func TestOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := relay.New(relay.Config{})
	go s.Serve(l)
	defer s.Shutdown(context.Background())
	relays := []string{"http://" + l.Addr().String()}
	circuits, err := link.Listen(link.ListenConfig{Identity: secret(2), Relays: relays})
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
	session, err := link.Dial(t.Context(), link.Config{Identity: secret(1), Peer: secret(2).ID(), Relays: relays})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	var want bytes.Buffer
	for i := range 400_000 {
		fmt.Fprintf(&want, "%08d", i)
	}
	for range 3 {
		got, err := do(session.Bulk(), http.MethodPost, "", bytes.NewReader(want.Bytes()))
		if err != nil || got != want.String() {
			t.Errorf("%d of %d bytes, %v", len(got), want.Len(), err)
		}
	}
}

func TestUnknownBuilder(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		_, err := w.dial(secret(1), secret(2))
		var ue *link.UnreachableError
		if !errors.As(err, &ue) || !errors.Is(err, wire.CodeRelayNoBuilder.Err()) {
			t.Fatalf("got %v", err)
		}
		if ue.Exit() != wire.ExitUnreachable || !strings.Contains(ue.Error(), relayURL) || !strings.Contains(ue.Hint(), "drv-thru serve") {
			t.Errorf("exit %d, error %q, hint %q", ue.Exit(), ue, ue.Hint())
		}
		// No relay at all.
		w.stop()
		_, err = w.dial(secret(1), secret(2))
		if !errors.As(err, &ue) || !errors.Is(err, linktest.ErrRefused) || ue.Hint() == "" {
			t.Errorf("got %v", err)
		}
	})
}

// TestRelayThatSplicesToAnother is a relay that gives the client another
// builder than it asked for: both ends notice.
func TestRelayThatSplicesToAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t}
		w.relay = relay.New(relay.Config{})
		w.listener = w.network.Listen(relayAddress)
		srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			r.URL.Path = strings.Replace(r.URL.Path, secret(2).ID().String(), secret(3).ID().String(), 1)
			w.relay.ServeHTTP(rw, r)
		})}
		go srv.Serve(w.listener)
		defer srv.Close()
		defer w.stop()
		w.builder(secret(3), func(http.ResponseWriter, *http.Request) { t.Error("a request came through") })
		_, err := w.dial(secret(1), secret(2))
		var re *link.RelayError
		if !errors.Is(err, link.ErrWrongPeer) || !errors.As(err, &re) || re.Relay != relayURL {
			t.Errorf("got %v", err)
		}
	})
}

func TestRelayRestart(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		l := w.builder(secret(2), echo)
		s := w.session(secret(1), secret(2))
		for range 3 {
			if text, err := do(s.Control(), http.MethodPost, "", strings.NewReader("hello")); err != nil || text != "hello" {
				t.Fatalf("got %q, %v", text, err)
			}
			w.stop()
			synctest.Wait()
			if st := l.Status()[0]; st.Connected || st.Err == nil || st.Attempts == 0 {
				t.Errorf("status without a relay is %+v", st)
			}
			if _, err := do(s.Control(), http.MethodGet, "", nil); err == nil {
				t.Error("a request without a relay succeeds")
			}
			<-time.After(time.Minute) // of the test's clock
			w.start(relay.Config{})
			begin := time.Now()
			if err := l.Registered(t.Context()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("registered after %s", took)
			}
		}
		if _, err := do(s.Bulk(), http.MethodGet, "", nil); err != nil {
			t.Error(err)
		}
	})
}

func TestDeadPeersOfTheListenSocketAreNoticed(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		l := w.builder(secret(2), echo)
		<-time.After(time.Hour) // of the test's clock: pings keep it alive
		if st := l.Status()[0]; !st.Connected || time.Since(st.Since) < time.Hour {
			t.Errorf("status after an hour is %+v", st)
		}
		changed := l.Changed()
		w.listener.Silence()
		begin := time.Now()
		<-changed
		if st := l.Status()[0]; st.Connected || time.Since(begin) > wire.RelayDeadAfter {
			t.Errorf("builder after %s: %+v", time.Since(begin), st)
		}
		if err := l.Registered(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := w.relay.Stats().Builders; n != 1 {
			t.Errorf("%d builders", n)
		}
		// The relay's side: the builder vanishes with its network.
		_ = l.Close()
		raw := register(t, w, secret(4))
		w.listener.Silence()
		<-time.After(wire.RelayDeadAfter + time.Second)
		if n := w.relay.Stats().Builders; n != 0 {
			t.Errorf("%d builders after silence", n)
		}
		_ = raw.CloseNow()
	})
}

// What a builder may send is counted anew with each ping, so that it may stay.
func TestRegistrationLasts(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		l := w.builder(secret(2), echo)
		since := l.Status()[0].Since
		time.Sleep(12 * time.Hour)
		if st := l.Status()[0]; !st.Connected || !st.Since.Equal(since) {
			t.Errorf("%+v", st)
		}
	})
}

func TestReplacedRegistration(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		first := w.builder(secret(2), func(rw http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(rw, "first") })
		changed := first.Changed()
		w.builder(secret(2), func(rw http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(rw, "second") })
		<-changed
		if err := first.Status()[0].Err; !errors.Is(err, wire.CodeRelayReplaced.Err()) {
			t.Errorf("the first is told %v", err)
		}
		s := w.session(secret(1), secret(2))
		if text, err := do(s.Control(), http.MethodGet, "", nil); err != nil || text != "second" {
			t.Errorf("got %q, %v", text, err)
		}
	})
}

func TestSetRelays(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		other := relay.New(relay.Config{})
		go other.Serve(w.network.Listen("other.example:80"))
		defer other.Shutdown(context.Background())
		l := w.builder(secret(2), echo)
		s := w.session(secret(1), secret(2))

		if err := l.SetRelays([]string{"ws://other.example", "http://nowhere.example"}); err != nil {
			t.Fatal(err)
		}
		if err := l.Registered(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		st := l.Status()
		if len(st) != 2 || st[0].URL != "http://other.example" || !st[0].Connected || st[1].Connected || st[1].Err == nil {
			t.Errorf("status is %+v", st)
		}
		if w.relay.Stats().Builders != 0 || other.Stats().Builders != 1 {
			t.Errorf("relays count %+v, %+v", w.relay.Stats(), other.Stats())
		}
		// A circuit outlives the registration that made it.
		if text, err := do(s.Control(), http.MethodPost, "", strings.NewReader("still here")); err != nil || text != "still here" {
			t.Errorf("got %q, %v", text, err)
		}
		// One that stays is not left.
		if err := l.SetRelays([]string{relayURL, "ws://other.example"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if st := l.Status(); len(st) != 2 || !st[0].Connected || !st[1].Connected {
			t.Errorf("status is %+v", st)
		}
		counted(t, other, 1, "registrations_total")
		if err := l.SetRelays([]string{"nonsense"}); !errors.Is(err, link.ErrRelayURL) {
			t.Errorf("got %v", err)
		}
	})
}

// TestSlowReaderStallsNobodyElse has one client that reads nothing and others
// that go on, through the same relay to the same builder.
func TestSlowReaderStallsNobodyElse(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		w.builder(secret(2), func(rw http.ResponseWriter, r *http.Request) {
			buf := make([]byte, 256<<10)
			for n := 0; r.URL.Path == "/endless" || n < 16; n++ {
				if _, err := rw.Write(buf); err != nil {
					return
				}
			}
		})
		slow := w.session(secret(1), secret(2))
		req, _ := http.NewRequest(http.MethodGet, link.BaseURL+"endless", nil)
		resp, err := slow.Bulk().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		synctest.Wait()

		begin := time.Now()
		var wg sync.WaitGroup
		for n := range 2 {
			quick := w.session(secret(byte(10+n)), secret(2))
			wg.Go(func() {
				req, _ := http.NewRequest(http.MethodGet, link.BaseURL, nil)
				resp, err := quick.Bulk().RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != 4<<20 {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begin); took > time.Second {
			t.Errorf("took %s of the test's clock: something timed out", took)
		}
	})
}

func TestProxyAndTLS(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
				cert, err := secret(5).Certificate()
				if err != nil {
					t.Fatal(err)
				}
				secure := tls.NewListener(w.network.Listen("relay.example:443"), &tls.Config{Certificates: []tls.Certificate{cert}})
				go w.relay.Serve(secure)

				connects := startProxy(t, &w.network, "proxy.example:3128")
				direct := w.network.DialContext
				network := link.Network{
					Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.example:3128"}),
					TLS:   &tls.Config{InsecureSkipVerify: true},
					DialContext: func(ctx context.Context, n, address string) (net.Conn, error) {
						if address != "proxy.example:3128" {
							return nil, errors.New("there is no way but the proxy")
						}
						return direct(ctx, n, address)
					},
				}
				relays := []string{scheme + "://relay.example"}
				l, err := link.Listen(link.ListenConfig{Identity: secret(2), Relays: relays, Network: network})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				srv, err := link.NewServer(secret(2), http.HandlerFunc(echo), nil)
				if err != nil {
					t.Fatal(err)
				}
				go srv.ServeTLS(l, "", "")
				defer srv.Close()
				if err := l.Registered(t.Context()); err != nil {
					t.Fatal(err)
				}
				s, err := link.Dial(t.Context(), link.Config{Identity: secret(1), Peer: secret(2).ID(), Relays: relays, Network: network})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				want := strings.Repeat("drv-thru", 100_000)
				if text, err := do(s.Control(), http.MethodPost, "", strings.NewReader(want)); err != nil || text != want {
					t.Errorf("got %d bytes, %v", len(text), err)
				}
				if n := connects.Load(); n != 3 {
					t.Errorf("%d connections through the proxy, want those of listen, dial and accept", n)
				}
			})
		})
	}
}

func TestShutdownWaitsForCircuits(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		release := make(chan struct{})
		w.builder(secret(2), func(rw http.ResponseWriter, r *http.Request) {
			<-release
			_, _ = io.WriteString(rw, "done")
		})
		s := w.session(secret(1), secret(2))
		result := make(chan string)
		go func() {
			text, err := do(s.Control(), http.MethodGet, "", nil)
			result <- fmt.Sprint(text, err)
		}()
		synctest.Wait()
		stopped := make(chan error)
		go func() { stopped <- w.relay.Shutdown(context.Background()) }()
		synctest.Wait()
		if _, err := w.dial(secret(3), secret(2)); err == nil {
			t.Error("a relay that shuts down takes new work")
		}
		close(release)
		if got := <-result; got != "done<nil>" {
			t.Errorf("request under way: %s", got)
		}
		_ = s.Close()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

func TestShutdownCutsWhatIsLeft(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		w.builder(secret(2), func(rw http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		s := w.session(secret(1), secret(2))
		result := make(chan error, 1)
		go func() {
			_, err := do(s.Control(), http.MethodPost, "", io.MultiReader(strings.NewReader("cannot be sent again")))
			result <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		begin := time.Now()
		status := func() int {
			rec := httptest.NewRecorder()
			w.relay.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/readyz", nil))
			return rec.Code
		}
		if got := status(); got != http.StatusOK {
			t.Errorf("/readyz answers %d", got)
		}
		if err := w.relay.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		// Who calls it may end the process.
		if st := w.relay.Stats(); st != (relay.Stats{}) {
			t.Errorf("it has returned, and the relay counts %+v", st)
		}
		if got := status(); got != http.StatusServiceUnavailable {
			t.Errorf("/readyz answers %d afterwards", got)
		}
		if took := time.Since(begin); took < 5*time.Second || took > 8*time.Second {
			t.Errorf("took %s", took)
		}
		if err := <-result; !errors.Is(err, wire.CodeRelayClosing.Err()) {
			t.Errorf("the request ends with %v", err)
		}
		counted(t, w.relay, 1, "circuits_ended_total", "closing")

		late := w.network.Listen("late.example:80")
		if err := w.relay.Serve(late); !errors.Is(err, http.ErrServerClosed) || !errors.Is(late.Close(), net.ErrClosed) {
			t.Errorf("it serves again: %v", err)
		}
	})
}

func TestLogHoldsNoAddresses(t *testing.T) {
	for _, addresses := range []bool{false, true} {
		var log bytes.Buffer
		cfg := relay.Config{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), LogAddresses: addresses}
		inWorld(t, cfg, func(t *testing.T, w *world) {
			l := w.builder(secret(2), echo)
			s := w.session(secret(1), secret(2))
			_, _ = do(s.Control(), http.MethodGet, "", nil)
			_, _ = w.dial(secret(1), secret(9))
			_ = s.Close()
			_ = l.Close()
			w.stop()
			synctest.Wait()
		})
		if got := strings.Contains(log.String(), "10.0."); got != addresses {
			t.Errorf("with LogAddresses %t the log is\n%s", addresses, log.String())
		}
		if !strings.Contains(log.String(), secret(2).ID().String()) {
			t.Errorf("the log does not name the builder:\n%s", log.String())
		}
	}
}

// A circuit on its way to a builder has a place only until it is there, or lost.
func TestBacklog(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan struct{})
		var dials atomic.Int32
		network := w.net()
		network.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials.Add(1) == 2 { // the first is to register
				leave()
				<-left
				time.Sleep(time.Second) // in the bubble: until the relay knows
			}
			return w.network.DialContext(ctx, network, address)
		}
		l, err := link.Listen(link.ListenConfig{Identity: secret(2), Relays: []string{relayURL}, Network: network, Backlog: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := l.Registered(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := open(ctx, w, dialRoute(secret(2))); err == nil {
			t.Error("it has not left")
		}
		close(left)
		time.Sleep(time.Minute)
		for range 3 {
			dialled := make(chan error, 1)
			go func() {
				ws, err := open(t.Context(), w, dialRoute(secret(2)))
				if err == nil {
					_ = ws.CloseNow()
				}
				dialled <- err
			}()
			if err := <-dialled; err != nil {
				t.Fatal(err)
			}
			if _, err := open(t.Context(), w, dialRoute(secret(2))); !errors.Is(err, wire.CodeRelayRefused.Err()) {
				t.Errorf("one too many: %v", err)
			}
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			_ = c.Close()
		}
	})
}

// A relay that is named twice, once with the port that it has anyway, is one.
func TestRelayNamedTwice(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		l, err := link.Listen(link.ListenConfig{
			Identity: secret(2), Relays: []string{relayURL, "http://" + relayAddress}, Network: w.net(), Jitter: func() float64 { return 1 },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		time.Sleep(5 * time.Minute)
		counted(t, w.relay, 0, "registrations_replaced_total")
		counted(t, w.relay, 1, "builders")
	})
}

// The zone of a relay at a link-local address is only its builder's to know.
func TestRelayWithAZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		s := relay.New(relay.Config{})
		go s.Serve(network.Listen("[fe80::1%eth0]:7411"))
		defer s.Shutdown(t.Context())
		l, err := link.Listen(link.ListenConfig{
			Identity: secret(2), Relays: []string{"http://[fe80::1%25eth0]:7411"},
			Network: link.Network{DialContext: network.DialContext}, Jitter: func() float64 { return 1 },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := l.Registered(ctx); err != nil {
			t.Error(err)
		}
	})
}
