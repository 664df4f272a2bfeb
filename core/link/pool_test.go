package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/link/linktest"
)

// limitedWay is a path that refuses circuits beyond the first few, and records
// when circuits were asked for and how they ended.
type limitedWay struct {
	wayTo
	most    int    // 0: any number
	refuses func() // may be nil

	mu    sync.Mutex
	hangs bool // nothing is answered any more
	asked []time.Time
	wells []bool
}

var errRefused = errors.New("it has as many circuits as it takes")

func (w *limitedWay) dial(ctx context.Context) (*circuit, error) {
	w.mu.Lock()
	w.asked = append(w.asked, time.Now())
	full := w.most > 0 && len(w.asked) > w.most
	hangs := w.hangs
	w.mu.Unlock()
	if full {
		if w.refuses != nil {
			w.refuses()
		}
		return nil, errRefused
	}
	if hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c, err := w.wayTo.dial(ctx)
	if err != nil {
		return nil, err
	}
	c.ended = func(well bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.wells = append(w.wells, well)
	}
	return c, nil
}

func (w *limitedWay) hang() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hangs = true
}

// circuits is how many were asked for.
func (w *limitedWay) circuits() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked)
}

// bench is a session with a builder whose handler knows requests by their path.
type bench struct {
	*Session
	t       *testing.T
	way     *limitedWay
	listen  *linktest.Listener
	arrived chan string   // paths
	release chan struct{} // what /hold waits for
	aborted atomic.Bool   // /abort-once
	seen    sync.Map      // connections that have had a request, on which /new breaks off
}

// inPool runs a test with a session of which at most so many circuits can be
// open, one of them for small requests; 0 is any number.
func inPool(t *testing.T, circuits int, test func(*testing.T, *bench)) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		b := &bench{t: t, arrived: make(chan string, 100), release: make(chan struct{})}
		_, b.listen = serve(t, &network, "b", secret(t, 2), b.handle)
		b.way = &limitedWay{wayTo: wayTo{network: &network, address: "b"}, most: circuits}
		b.Session = session(t, b.way)
		defer b.Close()
		// Time passes while somebody waits for ever.
		hangs := time.AfterFunc(2*time.Hour, func() {
			t.Error("a request hangs")
			_ = b.Close()
		})
		defer hangs.Stop()
		test(t, b)
		time.Sleep(time.Second) // net/http lets an early answer be read before it closes
	})
}

func (b *bench) handle(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/v1/") {
		return // a ping
	}
	b.arrived <- r.URL.Path
	if _, seen := b.seen.LoadOrStore(r.RemoteAddr, true); seen && r.URL.Path == "/new" {
		panic(http.ErrAbortHandler)
	}
	rc := http.NewResponseController(w)
	switch kind := r.URL.Path; {
	case strings.HasPrefix(kind, "/hold"):
		select {
		case <-b.release:
		case <-r.Context().Done():
		}
	case kind == "/second":
		time.Sleep(time.Second)
	case kind == "/prepare":
		time.Sleep(5 * time.Minute)
	case kind == "/half":
		_, _ = w.Write(make([]byte, 1000))
		_ = rc.Flush()
		<-r.Context().Done()
		return
	case kind == "/much":
		_, _ = w.Write(make([]byte, 4<<20))
		return
	case kind == "/trickle", kind == "/resume":
		if kind == "/resume" {
			time.Sleep(2 * pingAfter)
		}
		for range 30 {
			time.Sleep(stallAfter / 10)
			_, _ = w.Write(make([]byte, 10))
			_ = rc.Flush()
		}
		return
	case kind == "/pause":
		_, _ = w.Write(make([]byte, 1000))
		_ = rc.Flush()
		select {
		case <-time.After(stallAfter / 2):
		case <-r.Context().Done():
		}
	case kind == "/upgrade":
		conn, _, err := rc.Hijack()
		if err != nil {
			b.t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		_, _ = io.Copy(io.Discard, conn)
		return
	case kind == "/long":
		w.Header().Set("Content-Length", fmt.Sprint(2*drainSize))
		_, _ = w.Write(make([]byte, 2*drainSize))
		return
	case kind == "/refuse":
		http.Error(w, "no", http.StatusForbidden)
		return
	case kind == "/deadline":
		_ = rc.SetReadDeadline(time.Now())
		_, _ = io.ReadAll(r.Body)
		http.Error(w, "too slow", http.StatusConflict)
		return
	case kind == "/little":
		w.Header().Set("Content-Length", "2000")
		_, _ = w.Write(make([]byte, 1000))
		_ = rc.Flush()
		time.Sleep(drainTime / 2)
		_, _ = w.Write(make([]byte, 1000))
		return
	case kind == "/abort-once" && !b.aborted.Swap(true):
		panic(http.ErrAbortHandler)
	case kind == "/read", kind == "/abort-once":
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Context().Err() != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}
	_, _ = io.WriteString(w, "done")
}

// want makes a request that has to be answered well.
func (b *bench) want(path string) {
	b.t.Helper()
	if text, err := get(b.Bulk(), path); err != nil || text != "done" {
		b.t.Errorf("%s: %q, %v", path, text, err)
	}
}

// begin makes a request that is under way, or waits, when begin returns.
func (b *bench) begin(ctx context.Context, path string) <-chan error {
	done := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, BaseURL+path, nil)
		resp, err := b.Bulk().RoundTrip(req)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
		}
		done <- err
	}()
	synctest.Wait()
	return done
}

// stream is a body that can be sent once.
type stream struct{ io.Reader }

func (b *bench) put(path string, body io.Reader) (int, error) {
	req, _ := http.NewRequest(http.MethodPut, BaseURL+path, stream{body})
	resp, err := b.Bulk().RoundTrip(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

// dead is how long a lost path may go unnoticed.
const dead = pingAfter + pingTimeout + time.Second

func TestTransferOnADeadPath(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		begin := time.Now()
		repeated := b.begin(t.Context(), "hold")
		half := b.begin(t.Context(), "half")
		b.listen.Silence()
		close(b.release) // for the second time
		if err := <-repeated; err != nil {
			t.Error(err)
		}
		if err := <-half; err == nil {
			t.Error("the answer ends well")
		}
		if took := time.Since(begin); took > dead {
			t.Errorf("noticed after %s", took)
		}
	})
}

// So it is when small requests go another way by then.
func TestTransferOnADeadPathAlone(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		held := b.begin(t.Context(), "half")
		b.listen.Silence()
		begin := time.Now()
		time.Sleep(2 * time.Second)
		b.control.mu.Lock()
		cc := b.control.cc
		b.control.path = Path{Kind: PathRelay, Via: "elsewhere"}
		b.control.mu.Unlock()
		_ = cc.Close()
		b.way.hang()
		if err := <-held; err == nil {
			t.Error("the answer ends well")
		}
		if took := time.Since(begin); took > dead {
			t.Errorf("noticed after %s", took)
		}
	})
}

// With a direct path, bulk needs no relay.
func TestBulkWithoutRelays(t *testing.T) {
	inPool(t, 1, func(t *testing.T, b *bench) {
		there := roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{Body: io.NopCloser(strings.NewReader("done"))}, nil
		})
		b.add(&way{control: there, bulk: there, path: func() Path { return Path{Kind: PathDirectQUIC} }, ready: func() bool { return true }, direct: true, done: make(chan struct{})})
		b.listen.Cut()
		synctest.Wait()
		b.want("")
	})
}

// What an upload sends is measured when it is repeated, too: a path that seems to carry
// nothing would be left.
func TestRepeatedUploadIsMeasured(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		const size = 1 << 20
		if text, err := do(b.Bulk(), http.MethodPut, "abort-once", bytes.NewReader(make([]byte, size))); err != nil || text != "done" {
			t.Errorf("%q, %v", text, err)
		}
		if n := b.base.up.allBytes; n < size || n > 2*size {
			t.Errorf("%d bytes were measured, sent were %d", n, size)
		}
	})
}

// A relay that takes no circuit for bulk is left for the direct path, however fast it
// was before, and while nobody knows how fast the direct one is.
func TestBulkThatTheRelayRefuses(t *testing.T) {
	for name, measured := range map[string]bool{"slower direct path": true, "unknown direct path": false} {
		t.Run(name, func(t *testing.T) {
			inPool(t, 1, func(t *testing.T, b *bench) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				there := roundTripper(func(req *http.Request) (*http.Response, error) {
					select {
					case <-time.After(time.Minute):
						return &http.Response{Body: io.NopCloser(strings.NewReader("done"))}, nil
					case <-req.Context().Done():
						return nil, req.Context().Err()
					}
				})
				direct := &way{control: there, bulk: there, path: func() Path { return Path{Kind: PathDirectQUIC} }, ready: func() bool { return true }, direct: true, done: make(chan struct{})}
				moved := func(w *way, bytes int) {
					now := time.Now()
					w.down.begin(now)
					w.down.add(bytes, now.Add(time.Second))
					w.down.end(now.Add(time.Second))
				}
				if measured {
					moved(direct, trialBytes)
				}
				moved(b.base, 100*trialBytes)
				b.add(direct)
				before := b.way.circuits()
				b.way.refuses = func() {
					if b.way.circuits() > before+10 {
						cancel()
					}
				}
				var all []<-chan error
				for range trialStreams + 1 {
					all = append(all, b.begin(ctx, ""))
				}
				for _, done := range all {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
				if n := b.way.circuits() - before; n != 1 {
					t.Errorf("the relay was asked for %d circuits", n)
				}
			})
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestTransferThatStandsStill(t *testing.T) {
	// The path is alive.
	inPool(t, 0, func(t *testing.T, b *bench) {
		before := b.way.circuits()
		b.want("prepare") // five minutes
		if n := b.way.circuits() - before; n != 1 {
			t.Errorf("%d circuits for an answer that takes its time", n)
		}
		// Nobody reads.
		req, _ := http.NewRequest(http.MethodGet, BaseURL+"much", nil)
		resp, err := b.Bulk().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != 4<<20 {
			t.Errorf("%d bytes after a pause, %v", n, err)
		}
		_ = resp.Body.Close()
	})
	inPool(t, 0, func(t *testing.T, b *bench) {
		defer close(b.release)
		for name, transfer := range map[string]func() error{
			"answer": func() error { _, err := get(b.Bulk(), "half"); return err },
			"upload": func() error { _, err := b.put("hold", zeros{}); return err },
		} {
			begin := time.Now()
			err := transfer()
			if took := time.Since(begin); err == nil || took < stallAfter || took > stallAfter+pingAfter+2*time.Second {
				t.Errorf("%s: %v after %s", name, err, took)
			}
			b.want("")
		}
	})
}

// Changes of the network do not add up.
func TestChangesWhileATransferPauses(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		done := b.begin(t.Context(), "pause")
		for range 10 {
			b.bulk.check()
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestIdleConnections(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		open := func() int {
			synctest.Wait()
			b.bulk.mu.Lock()
			defer b.bulk.mu.Unlock()
			return len(b.bulk.conns)
		}
		b.want("")
		time.Sleep(idleAfter / 2)
		b.want("")
		if n := b.way.circuits(); n != 2 {
			t.Errorf("%d circuits", n)
		}
		time.Sleep(idleAfter + 2*time.Second)
		if n := open(); n != 0 {
			t.Errorf("%d connections that carry nothing", n)
		}
		b.want("")
		if n := b.way.circuits(); n != 3 {
			t.Errorf("%d circuits after a pause", n)
		}
		time.Sleep(2 * idleAfter)
		// The builder would close one that has never carried anything.
		b.Warm(1)
		if n := open(); n != 1 {
			t.Errorf("%d warm connections", n)
		}
		time.Sleep(handshakeTimeout - 2*time.Second)
		if n := open(); n != 0 {
			t.Errorf("%d connections that were never used", n)
		}
		for i, well := range b.way.wells {
			if !well {
				t.Errorf("circuit %d counts against its path", i)
			}
		}
	})
}

func TestRefusedCircuit(t *testing.T) {
	inPool(t, 2, func(t *testing.T, b *bench) {
		var work sync.WaitGroup
		for range 12 {
			work.Go(func() { b.want("second") })
		}
		work.Wait()
		refused := b.way.asked[2:]
		if len(refused) < 2 {
			t.Errorf("asked again %d times", len(refused))
		}
		for i := 1; i < len(refused); i++ {
			if d := refused[i].Sub(refused[i-1]); d < growAgain {
				t.Errorf("asked again after %s", d)
			}
		}
	})
	// Those who cannot wait for any are told.
	inPool(t, 1, func(t *testing.T, b *bench) {
		if _, err := get(b.Bulk(), ""); !errors.Is(err, errRefused) {
			t.Errorf("got %v", err)
		}
	})
}

func TestTurns(t *testing.T) {
	inPool(t, 2, func(t *testing.T, b *bench) {
		first := b.begin(t.Context(), "hold")
		var all []<-chan error
		ctx, cancel := context.WithCancel(t.Context())
		var left <-chan error
		for i := range 5 {
			if i == 2 {
				left = b.begin(ctx, "left")
			}
			all = append(all, b.begin(t.Context(), fmt.Sprint("turn", i)))
		}
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("who left got %v", err)
		}
		close(b.release)
		for _, done := range append(all, first) {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		var order []string
		for len(b.arrived) > 0 {
			order = append(order, <-b.arrived)
		}
		if want := []string{"/hold", "/turn0", "/turn1", "/turn2", "/turn3", "/turn4"}; !slices.Equal(order, want) {
			t.Errorf("served %v", order)
		}
	})
}

func TestCancelledTransfer(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		for _, path := range []string{"hold", "half"} {
			ctx, cancel := context.WithCancel(t.Context())
			done := b.begin(ctx, path)
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			b.want("")
			time.Sleep(2 * idleAfter)
		}
		synctest.Wait()
		if slices.Contains(b.way.wells, false) || len(b.way.wells) == 0 {
			t.Errorf("circuits ended well: %v", b.way.wells)
		}
		// One that breaks counts.
		done := b.begin(t.Context(), "half")
		b.listen.Cut()
		if err := <-done; err == nil {
			t.Error("the answer ends well")
		}
		synctest.Wait()
		if !slices.Contains(b.way.wells, false) {
			t.Errorf("circuits ended well: %v", b.way.wells)
		}
	})
}

func TestIdleConnectionsOfALostBuilder(t *testing.T) {
	for name, lose := range map[string]func(*linktest.Listener){
		"cut": (*linktest.Listener).Cut, "silenced": (*linktest.Listener).Silence,
	} {
		t.Run(name, func(t *testing.T) {
			inPool(t, 0, func(t *testing.T, b *bench) {
				open := func() {
					var work sync.WaitGroup
					for range 4 {
						work.Go(func() { b.want("second") })
					}
					work.Wait()
					if len(b.bulk.conns) < 3 {
						t.Fatalf("%d connections", len(b.bulk.conns))
					}
				}
				open()
				lose(b.listen)
				b.want("")
				open()
				lose(b.listen)
				open()
			})
		})
	}
}

func TestCloseEndsWaiting(t *testing.T) {
	inPool(t, 2, func(t *testing.T, b *bench) {
		held := b.begin(t.Context(), "hold")
		waits := b.begin(t.Context(), "")
		_ = b.Close()
		if err := <-waits; !errors.Is(err, ErrClosed) {
			t.Errorf("who waited got %v", err)
		}
		if err := <-held; err == nil {
			t.Error("the transfer ends well")
		}
	})
	// Also while a connection is being opened, or a body is unread.
	inPool(t, 0, func(t *testing.T, b *bench) {
		req, _ := http.NewRequest(http.MethodGet, BaseURL+"much", nil)
		resp, err := b.Bulk().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		b.way.hang()
		waits := b.begin(t.Context(), "")
		time.Sleep(time.Second)
		_ = b.Close()
		if err := <-waits; !errors.Is(err, ErrClosed) {
			t.Errorf("who waited got %v", err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Error("the answer ends well")
		}
		_ = resp.Body.Close()
	})
}

func TestUnreadAnswer(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		for path, opens := range map[string]int{"": 0, "little": 0, "much": 1} {
			b.want("")
			before := b.way.circuits()
			req, _ := http.NewRequest(http.MethodGet, BaseURL+path, nil)
			resp, err := b.Bulk().RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = resp.Body.Read(make([]byte, 1))
			_ = resp.Body.Close()
			_ = resp.Body.Close()
			b.want("")
			if n := b.way.circuits() - before; n != opens {
				t.Errorf("%q: %d circuits opened", path, n)
			}
		}
		// One that does not come is not waited for.
		req, _ := http.NewRequest(http.MethodGet, BaseURL+"half", nil)
		resp, err := b.Bulk().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_ = resp.Body.Close()
		if took := time.Since(begin); took > drainTime {
			t.Errorf("closing took %s", took)
		}
		if slices.Contains(b.way.wells, false) {
			t.Errorf("circuits ended well: %v", b.way.wells)
		}
	})
}

// A connection on which the builder answers too early, or that it cannot read any
// more, is not used again: requests that cannot be repeated would fail on it.
func TestLastAnswer(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		for _, first := range []struct {
			path   string
			status int
		}{{"refuse", http.StatusForbidden}, {"deadline", http.StatusConflict}} {
			for range 3 {
				if status, err := b.put(first.path, bytes.NewReader(make([]byte, 1<<20))); err != nil || status != first.status {
					t.Errorf("%s: %d, %v", first.path, status, err)
				}
				if status, err := b.put("read", strings.NewReader("x")); err != nil || status != http.StatusOK {
					t.Errorf("after %s: %d, %v", first.path, status, err)
				}
			}
		}
		broken := errors.New("cannot read it")
		_, err := b.put("read", io.MultiReader(strings.NewReader("x"), readerFunc(func([]byte) (int, error) { return 0, broken })))
		if !errors.Is(err, broken) || strings.Contains(err.Error(), "lost") {
			t.Errorf("got %v", err)
		}
		_ = b.circuitsOpen()
		if slices.Contains(b.way.wells, false) {
			t.Errorf("circuits ended well: %v", b.way.wells)
		}
	})
}
