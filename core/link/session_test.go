package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link/linktest"
	"github.com/drv-thru/drv-thru/core/link/staggered"
	"github.com/drv-thru/drv-thru/core/wire"
)

// These tests put a session on connections in memory, without relays, so they
// run in a browser's WebAssembly too. Those with relays are in package relay.

// secret is the same key for the same number; t may be nil.
func secret(_ testing.TB, n byte) key.Secret {
	s, err := key.NewSecret(bytes.NewReader(bytes.Repeat([]byte{n}, 32)))
	if err != nil {
		panic(err)
	}
	return s
}

// wayTo is a path to a server in memory.
type wayTo struct {
	network *linktest.Network
	address string
	delay   time.Duration
	err     error
	dials   atomic.Int32
	dialed  func() // may be nil
}

func (w *wayTo) path() Path { return Path{Kind: PathDirectTCP, Via: w.address} }

func (w *wayTo) dial(ctx context.Context) (*circuit, error) {
	w.dials.Add(1)
	if w.dialed != nil {
		w.dialed()
	}
	select {
	case <-time.After(w.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if w.err != nil {
		return nil, w.err
	}
	conn, err := w.network.DialContext(ctx, "memory", w.address)
	return &circuit{Conn: conn, path: w.path()}, err
}

// serve runs a builder's server at an address.
func serve(t *testing.T, network *linktest.Network, address string, identity key.Secret, h http.HandlerFunc) (*http.Server, *linktest.Listener) {
	t.Helper()
	srv, err := NewServer(identity, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := network.Listen(address)
	go srv.ServeTLS(l, "", "")
	t.Cleanup(func() { _ = srv.Close() })
	return srv, l
}

func session(t *testing.T, ways ...dialer) *Session {
	t.Helper()
	s, err := newSession(t.Context(), Config{Identity: secret(t, 1), Peer: secret(t, 2).ID()}, ways)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func get(rt http.RoundTripper, path string) (string, error) {
	return do(rt, http.MethodGet, path, nil)
}

func do(rt http.RoundTripper, method, path string, body io.Reader) (string, error) {
	req, err := http.NewRequest(method, BaseURL+path, body)
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

func TestHandlerLearnsWhoAndHow(t *testing.T) {
	var network linktest.Network
	serve(t, &network, "b", secret(t, 2), func(w http.ResponseWriter, r *http.Request) {
		id, err := PeerID(r)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%s %s %s", r.Proto, id, PathOf(r.Context()).Kind)
	})
	s := session(t, &wayTo{network: &network, address: "b"})
	text, err := get(s.Control(), "")
	if want := "HTTP/2.0 " + secret(t, 1).ID().String() + " "; err != nil || text != want {
		t.Errorf("got %q, %v, want %q", text, err, want)
	}
	if p := s.Path(); p.String() != "direct-tcp b" {
		t.Errorf("path is %s", p)
	}
}

func TestWrongPeerIsNamed(t *testing.T) {
	var network linktest.Network
	serve(t, &network, "b", secret(t, 3), func(http.ResponseWriter, *http.Request) { t.Error("a request came through") })
	_, err := newSession(t.Context(), Config{Identity: secret(t, 1), Peer: secret(t, 2).ID()}, []dialer{&wayTo{network: &network, address: "b"}})
	var ue *UnreachableError
	if !errors.Is(err, ErrWrongPeer) || !errors.As(err, &ue) {
		t.Fatalf("got %v", err)
	}
	for _, id := range []key.ID{secret(t, 2).ID(), secret(t, 3).ID()} {
		if !strings.Contains(err.Error(), id.String()) {
			t.Errorf("%q does not name %s", err, id)
		}
	}
	if !strings.Contains(ue.Hint(), "endpoint ID") {
		t.Errorf("hint is %q", ue.Hint())
	}
}

// TestBuilderWithoutBulk is about a builder of before bulk went by HTTP/1.1: that
// is no outage, which would be waited for.
func TestBuilderWithoutBulk(t *testing.T) {
	var network linktest.Network
	srv, err := NewServer(secret(t, 2), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
	if err != nil {
		t.Fatal(err)
	}
	srv.TLSConfig.NextProtos = []string{protoControl}
	srv.Protocols.SetHTTP1(false)
	go srv.ServeTLS(network.Listen("b"), "", "")
	t.Cleanup(func() { _ = srv.Close() })
	s := session(t, &wayTo{network: &network, address: "nowhere"}, &wayTo{network: &network, address: "b"})
	if _, err := get(s.Control(), "x"); err != nil {
		t.Errorf("a small request: %v", err)
	}
	_, err = get(s.Bulk(), "x")
	told, ok := err.(*wire.Error)
	if !ok || told.Code != wire.CodeVersion || told.Hint == "" {
		t.Errorf("a large one: %v", err)
	}
}

func TestRace(t *testing.T) {
	broken := errors.New("no cable")
	for name, c := range map[string]struct {
		ways []*wayTo
		via  string
		took time.Duration
		errs int
	}{
		"first":        {[]*wayTo{{address: "b"}, {address: "c"}}, "b", 0, 0},
		"slow first":   {[]*wayTo{{address: "b", delay: time.Minute}, {address: "c"}}, "c", staggered.Delay, 0},
		"a bit slow":   {[]*wayTo{{address: "b", delay: 300 * time.Millisecond}, {address: "c", delay: 100 * time.Millisecond}}, "b", 300 * time.Millisecond, 0},
		"broken first": {[]*wayTo{{address: "b", err: broken}, {address: "c"}}, "c", 0, 0},
		"wrong first":  {[]*wayTo{{address: "x"}, {address: "c"}}, "c", 0, 0},
		"all broken":   {[]*wayTo{{address: "b", err: broken, delay: time.Second}, {address: "nowhere"}}, "", time.Second, 2},
		"none":         {nil, "", 0, 0},
		"hanging":      {[]*wayTo{{address: "b", delay: time.Hour}}, "", dialTimeout, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network linktest.Network
				for address, n := range map[string]byte{"b": 2, "c": 2, "x": 3} {
					serve(t, &network, address, secret(t, n), func(http.ResponseWriter, *http.Request) {})
				}
				var ways []dialer
				for _, w := range c.ways {
					// The table is shared between runs with -count.
					ways = append(ways, &wayTo{network: &network, address: w.address, delay: w.delay, err: w.err})
				}
				begin := time.Now()
				s, err := newSession(t.Context(), Config{Identity: secret(t, 1), Peer: secret(t, 2).ID()}, ways)
				if took := time.Since(begin); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if c.via != "" {
					if err != nil {
						t.Fatal(err)
					}
					defer s.Close()
					if s.Path().Via != c.via {
						t.Errorf("path is %s, want via %s", s.Path(), c.via)
					}
					// What worked is tried first from now on.
					if first := s.paths()[0].path().Via; first != c.via {
						t.Errorf("%s is tried first", first)
					}
					return
				}
				var ue *UnreachableError
				if !errors.As(err, &ue) || len(ue.Errs) != c.errs || ue.Exit() != 4 || ue.Hint() == "" {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// Small requests share a circuit. Bulk has a few, and one for requests that come
// one after another.
func TestCircuits(t *testing.T) {
	var network linktest.Network
	serve(t, &network, "b", secret(t, 2), func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(body)
	})
	way := &wayTo{network: &network, address: "b"}
	s := session(t, way)
	send := func(rt http.RoundTripper, n int) {
		t.Helper()
		want := strings.Repeat("x", n*1000)
		if got, err := do(rt, http.MethodPost, "", strings.NewReader(want)); err != nil || got != want {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	atOnce := func(rt http.RoundTripper) {
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { send(rt, i) })
		}
		wg.Wait()
	}
	atOnce(s.Control())
	if n := way.dials.Load(); n != 1 {
		t.Errorf("%d circuits for small requests", n)
	}
	for i := range 100 {
		send(s.Bulk(), i)
	}
	if n := way.dials.Load(); n != 2 {
		t.Errorf("%d circuits for small and for one large request at a time", n)
	}
	// One that net/http closes, as its answer came too soon, has a successor.
	way.dialed = func() {
		s.bulk.mu.Lock()
		defer s.bulk.mu.Unlock()
		if n := len(s.bulk.conns) + s.bulk.opening; n > poolSize {
			t.Errorf("%d circuits for bulk", n)
		}
	}
	atOnce(s.Bulk())
	if n := way.dials.Load(); n < 3 {
		t.Errorf("%d circuits for many at a time", n)
	}
}

func TestBulkDoesNotHoldUpControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		serve(t, &network, "b", secret(t, 2), func(w http.ResponseWriter, r *http.Request) {
			for r.URL.Path == "/endless" {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		})
		s := session(t, &wayTo{network: &network, address: "b"})
		defer s.Close()
		req, _ := http.NewRequest(http.MethodGet, BaseURL+"endless", nil)
		resp, err := s.Bulk().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		// Nobody reads the body: its circuit is full.
		synctest.Wait()
		begin := time.Now()
		if _, err := get(s.Control(), ""); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("control waited %s", took)
		}
	})
}

// TestWindows pins that net/http takes the windows that it is given, in both
// directions: a stalled reader is sent exactly one stream's window.
func TestWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		var wrote atomic.Int64
		release := make(chan struct{})
		serve(t, &network, "b", secret(t, 2), func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				<-release
				return
			}
			buf := make([]byte, frameSize)
			for {
				n, err := w.Write(buf)
				wrote.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
		s := session(t, &wayTo{network: &network, address: "b"})
		defer s.Close()
		req, _ := http.NewRequest(http.MethodGet, BaseURL, nil)
		resp, err := s.Control().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := wrote.Load(); n < streamWindow-frameSize || n > streamWindow {
			t.Errorf("download: %d bytes went out, the window is %d", n, streamWindow)
		}
		_ = resp.Body.Close()

		var sent atomic.Int64
		done := make(chan error, 1)
		go func() {
			body := readerFunc(func(p []byte) (int, error) {
				sent.Add(int64(len(p)))
				return len(p), nil
			})
			_, err := do(s.Control(), http.MethodPut, "", body)
			done <- err
		}()
		synctest.Wait()
		if n := sent.Load(); n < streamWindow || n > streamWindow+2*frameSize {
			t.Errorf("upload: %d bytes were taken, the window is %d", n, streamWindow)
		}
		close(release)
		<-done
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestLostCircuitIsOpenedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		arrived := make(chan struct{}, 10)
		var hold atomic.Bool
		var requests atomic.Int32
		_, l := serve(t, &network, "b", secret(t, 2), func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			body, _ := io.ReadAll(r.Body)
			arrived <- struct{}{}
			if hold.Load() {
				<-r.Context().Done()
				return
			}
			_, _ = w.Write(body)
		})
		way := &wayTo{network: &network, address: "b"}
		s := session(t, way)
		defer s.Close()

		// While nothing was under way.
		l.Cut()
		synctest.Wait()
		if _, err := get(s.Control(), ""); err != nil {
			t.Fatal(err)
		}
		<-arrived

		for name, c := range map[string]struct {
			method string
			body   func() io.Reader
			want   string
			fails  bool
		}{
			"no body":       {http.MethodGet, func() io.Reader { return nil }, "", false},
			"replayable":    {http.MethodPost, func() io.Reader { return strings.NewReader("again") }, "again", false},
			"stream":        {http.MethodPut, func() io.Reader { return io.LimitReader(strings.NewReader("once"), 4) }, "", true},
			"no body again": {http.MethodDelete, func() io.Reader { return nil }, "", false},
		} {
			hold.Store(true)
			before := requests.Load()
			result := make(chan error, 1)
			var text string
			go func() {
				var err error
				text, err = do(s.Control(), c.method, "", c.body())
				result <- err
			}()
			<-arrived
			hold.Store(false)
			l.Cut()
			err := <-result
			if c.fails {
				if err == nil || !strings.Contains(err.Error(), "direct-tcp b was lost") {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if err != nil || text != c.want {
				t.Errorf("%s: %q, %v", name, text, err)
			}
			<-arrived
			if n := requests.Load() - before; n != 2 {
				t.Errorf("%s: sent %d times", name, n)
			}
		}
	})
}

func TestGracefulRestartOfTheBuilder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		release := make(chan struct{})
		arrived := make(chan struct{})
		handler := func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				close(arrived)
				<-release
			}
			_, _ = io.WriteString(w, "done")
		}
		srv, _ := serve(t, &network, "b", secret(t, 2), handler)
		s := session(t, &wayTo{network: &network, address: "b"})
		defer s.Close()
		slow := make(chan string)
		go func() {
			text, err := get(s.Control(), "slow")
			slow <- fmt.Sprint(text, err)
		}()
		<-arrived
		stopped := goodbye(t, srv)
		serve(t, &network, "b", secret(t, 2), handler)
		// The old connection has said that it takes no more.
		if text, err := get(s.Control(), ""); err != nil || text != "done" {
			t.Errorf("new request: %q, %v", text, err)
		}
		close(release)
		if got := <-slow; got != "done<nil>" {
			t.Errorf("request under way: %s", got)
		}
		<-stopped
	})
}

// So does what is under way on a connection that takes no more requests.
func TestCloseEndsWhatARestartLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		arrived, release := make(chan struct{}, 1), make(chan struct{})
		srv, _ := serve(t, &network, "b", secret(t, 2), func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				arrived <- struct{}{}
				<-release
			}
		})
		s := session(t, &wayTo{network: &network, address: "b"})
		slow := make(chan error, 1)
		go func() {
			_, err := get(s.Control(), "slow")
			slow <- err
		}()
		<-arrived
		stopped := goodbye(t, srv)
		serve(t, &network, "b", secret(t, 2), func(http.ResponseWriter, *http.Request) {})
		if _, err := get(s.Control(), ""); err != nil {
			t.Error(err)
		}
		_ = s.Close()
		synctest.Wait()
		select {
		case err := <-slow:
			if err == nil {
				t.Error("the request under way ends well")
			}
		default:
			t.Error("the request under way goes on")
		}
		close(release)
		<-stopped
	})
}

// goodbye has a server take no more requests; what is closed then tells that none is
// under way any more.
func goodbye(t *testing.T, srv *http.Server) (stopped <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		_ = srv.Shutdown(t.Context())
		close(done)
	}()
	synctest.Wait()
	return done
}

func TestDeadPathIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		_, l := serve(t, &network, "b", secret(t, 2), func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		})
		s := session(t, &wayTo{network: &network, address: "b"})
		defer s.Close()
		req, _ := http.NewRequest(http.MethodGet, BaseURL, nil)
		resp, err := s.Control().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		l.Silence()
		begin := time.Now()
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("the body ends well")
		}
		if took := time.Since(begin); took > pingAfter+pingTimeout {
			t.Errorf("noticed after %s", took)
		}
		_ = resp.Body.Close()
	})
}

func TestClosedSession(t *testing.T) {
	var network linktest.Network
	serve(t, &network, "b", secret(t, 2), func(http.ResponseWriter, *http.Request) {})
	s := session(t, &wayTo{network: &network, address: "b"})
	_ = s.Close()
	if _, err := get(s.Bulk(), ""); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := get(s.Control(), ""); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestRequestEndsWithItsContextWhileOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		serve(t, &network, "b", secret(t, 2), func(http.ResponseWriter, *http.Request) {})
		way := &wayTo{network: &network, address: "b"}
		s := session(t, way)
		defer s.Close()
		way.delay = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, BaseURL, nil)
		begin := time.Now()
		if _, err := s.Bulk().RoundTrip(req); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begin); took != time.Second {
			t.Errorf("took %s", took)
		}
	})
}
