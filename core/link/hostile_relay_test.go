//go:build !js

package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link/linktest"
	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
)

// hostileRelay speaks the relay's protocol and misbehaves. Its zero value joins
// circuits as it should.
type hostileRelay struct {
	t *testing.T
	// change gets each message of a circuit and returns what is passed on.
	change func(toBuilder bool, n int, message []byte) [][]byte
	// lead says to which builder a dial for another leads; nil to the right one.
	lead func(asked key.ID) key.ID
	// pairs joins every two clients, and no builder.
	pairs bool
	// welcome is what it sends to builders once they have registered.
	welcome func(ws *wsconn.Socket)

	mu       sync.Mutex
	builders map[key.ID]*wsconn.Socket
	waiting  map[wire.CircuitID]chan *wsconn.Socket
	single   chan *wsconn.Socket // a client that waits for another
	done     chan struct{}
}

const (
	hostileURL = "http://hostile.example"
	honestURL  = "http://honest.example"
)

func (h *hostileRelay) serve(t *testing.T, network *linktest.Network, address string) {
	h.t, h.done = t, make(chan struct{})
	h.builders, h.waiting = map[key.ID]*wsconn.Socket{}, map[wire.CircuitID]chan *wsconn.Socket{}
	mux := http.NewServeMux()
	mux.HandleFunc(wire.RouteRelayListen, h.listen)
	mux.HandleFunc(wire.RouteRelayDial, h.dial)
	mux.HandleFunc(wire.RouteRelayAccept, h.accept)
	srv := &http.Server{Handler: mux}
	l := network.Listen(address)
	go srv.Serve(l)
	t.Cleanup(func() {
		close(h.done)
		_ = srv.Close()
		l.Cut()
	})
}

func (h *hostileRelay) upgrade(w http.ResponseWriter, r *http.Request) *wsconn.Socket {
	ws, err := wsconn.Accept(w, r, wire.RelayProtocol)
	if err != nil {
		h.t.Error(err)
		return nil
	}
	ws.SetReadLimit(wire.RelayMaxMessage)
	return ws
}

func (h *hostileRelay) listen(w http.ResponseWriter, r *http.Request) {
	ws := h.upgrade(w, r)
	go func() {
		defer ws.CloseNow()
		ctx := context.Background()
		if send(ctx, ws, wire.RelayMessage{Type: wire.RelayChallenge, Nonce: make([]byte, wire.RelayNonceSize)}) != nil {
			return
		}
		m, err := receive(ctx, ws, wire.RelayRegister)
		if err != nil {
			return
		}
		if send(ctx, ws, wire.RelayMessage{Type: wire.RelayRegistered, KeepaliveMS: 6000}) != nil {
			return
		}
		h.mu.Lock()
		h.builders[m.Endpoint] = ws
		h.mu.Unlock()
		if h.welcome != nil {
			h.welcome(ws)
		}
		for err == nil {
			_, err = receive(ctx, ws, "")
		}
	}()
}

func (h *hostileRelay) dial(w http.ResponseWriter, r *http.Request) {
	client := h.upgrade(w, r)
	go func() {
		if other := h.partner(client, r); other != nil {
			h.join(client, other)
		}
	}()
}

// partner finds the other end of a client's circuit; nil if another client is
// to find this one.
func (h *hostileRelay) partner(client *wsconn.Socket, r *http.Request) *wsconn.Socket {
	if h.pairs {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.single == nil {
			h.single = make(chan *wsconn.Socket, 1)
			h.single <- client
			return nil
		}
		other := <-h.single
		h.single = nil
		return other
	}
	id, err := key.ParseID(r.PathValue("endpoint"))
	if err != nil {
		h.t.Error(err)
		return nil
	}
	if h.lead != nil {
		id = h.lead(id)
	}
	circuit, err := wire.NewCircuitID(bytes.NewReader(fmt.Appendf(nil, "%16p", client)))
	if err != nil {
		h.t.Error(err)
		return nil
	}
	came := make(chan *wsconn.Socket, 1)
	h.mu.Lock()
	h.waiting[circuit] = came
	builder := h.builders[id]
	h.mu.Unlock()
	if err := send(context.Background(), builder, wire.RelayMessage{Type: wire.RelayIncoming, Circuit: circuit}); err != nil {
		_ = client.CloseNow()
		return nil
	}
	select {
	case ws := <-came:
		return ws
	case <-h.done:
		_ = client.CloseNow()
		return nil
	}
}

func (h *hostileRelay) accept(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	came := h.waiting[wire.CircuitID(r.PathValue("circuit"))]
	h.mu.Unlock()
	if came == nil && h.welcome != nil {
		<-h.done // lead on
		return
	}
	if came == nil {
		wire.WriteError(w, wire.CodeRelayNoCircuit.Err())
		return
	}
	came <- h.upgrade(w, r)
}

// join passes messages on, changed.
func (h *hostileRelay) join(client, builder *wsconn.Socket) {
	pass := func(from, to *wsconn.Socket, toBuilder bool) {
		for n := 0; ; n++ {
			typ, message, err := from.Read(context.Background())
			if err != nil {
				_ = to.CloseNow()
				return
			}
			messages := [][]byte{message}
			if h.change != nil {
				messages = h.change(toBuilder, n, message)
			}
			for _, m := range messages {
				if to.Write(context.Background(), typ, m) != nil {
					_ = from.CloseNow()
					return
				}
			}
		}
	}
	go pass(client, builder, true)
	pass(builder, client, false)
}

// inHostileWorld runs a builder (secret 2), and another (secret 3), at a
// hostile relay and an honest one.
func inHostileWorld(t *testing.T, h *hostileRelay, test func(t *testing.T, network Network)) {
	synctest.Test(t, func(t *testing.T) {
		var memory linktest.Network
		h.serve(t, &memory, "hostile.example:80")
		new(hostileRelay).serve(t, &memory, "honest.example:80")
		network := Network{DialContext: memory.DialContext}
		for _, n := range []byte{2, 3} {
			identity := secret(t, n)
			l, err := Listen(ListenConfig{Identity: identity, Relays: []string{hostileURL, honestURL}, Network: network, Jitter: func() float64 { return 1 }})
			if err != nil {
				t.Fatal(err)
			}
			srv, err := NewServer(identity, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					panic(http.ErrAbortHandler)
				}
				_, _ = w.Write(body)
			}), nil)
			if err != nil {
				t.Fatal(err)
			}
			go srv.ServeTLS(l, "", "")
			t.Cleanup(func() { _ = srv.Close() })
			for _, status := range l.Status() {
				for !status.Connected {
					changed := l.Changed()
					all := l.Status()
					if status = all[0]; all[0].Connected {
						status = all[1]
					}
					if !status.Connected {
						<-changed
					}
				}
			}
		}
		test(t, network)
	})
}

func hostileConfig(t *testing.T, network Network, client byte, relays ...string) Config {
	return Config{Identity: secret(t, client), Peer: secret(t, 2).ID(), Relays: relays, Network: network}
}

// What a relay does to the bytes of a circuit comes to nothing but the loss of
// that circuit: requests are answered as they should be or fail, and the error
// names the relay. With a second relay they are answered.
func TestRelayThatChangesBytes(t *testing.T) {
	for name, change := range map[string]func(toBuilder bool, n int, message []byte) [][]byte{
		"drops": func(_ bool, n int, message []byte) [][]byte {
			if n >= 4 {
				return nil
			}
			return [][]byte{message}
		},
		"drops one": func(_ bool, n int, message []byte) [][]byte {
			if n == 4 {
				return nil
			}
			return [][]byte{message}
		},
		"truncates": func(_ bool, n int, message []byte) [][]byte {
			if n >= 3 {
				message = message[:len(message)/2]
			}
			return [][]byte{message}
		},
		"replays": func(_ bool, n int, message []byte) [][]byte {
			if n >= 3 {
				return [][]byte{message, message}
			}
			return [][]byte{message}
		},
		"flips a bit": func(_ bool, n int, message []byte) [][]byte {
			if n >= 3 {
				message[len(message)-1] ^= 1
			}
			return [][]byte{message}
		},
		"adds": func(toBuilder bool, n int, message []byte) [][]byte {
			if !toBuilder && n >= 3 {
				return [][]byte{[]byte("HTTP/1.1 200 OK\r\n\r\n"), message}
			}
			return [][]byte{message}
		},
	} {
		t.Run(name, func(t *testing.T) { testHostile(t, &hostileRelay{change: change}) })
	}
	t.Run("reorders", func(t *testing.T) {
		var mu sync.Mutex
		held := map[bool][]byte{}
		testHostile(t, &hostileRelay{change: func(toBuilder bool, n int, message []byte) [][]byte {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case n < 3:
				return [][]byte{message}
			case held[toBuilder] == nil:
				held[toBuilder] = message
				return nil
			}
			out := [][]byte{message, held[toBuilder]}
			held[toBuilder] = nil
			return out
		}})
	})
}

// testHostile makes requests through a relay, and through it and another.
func testHostile(t *testing.T, h *hostileRelay) {
	inHostileWorld(t, h, func(t *testing.T, network Network) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		answers, failures := 0, 0
		s, err := Dial(ctx, hostileConfig(t, network, 1, hostileURL))
		for i := 0; i < 5 && err == nil; i++ {
			text := strings.Repeat(fmt.Sprint(i), 1000*i)
			var got string
			got, err = do(s.Control(), http.MethodPost, "", io.MultiReader(strings.NewReader(text)))
			switch {
			case err != nil:
				failures++
			case got != text:
				t.Fatalf("request %d got %d bytes that are not its own", i, len(got))
			default:
				answers++
			}
		}
		if err == nil {
			t.Fatalf("nothing went wrong in %d requests", answers)
		}
		if !strings.Contains(err.Error(), hostileURL) {
			t.Errorf("after %d answers, the error does not name the relay: %v", answers, err)
		}
		if s != nil {
			_ = s.Close()
		}

		// With an honest relay beside it, everything is answered in the end.
		s, err = Dial(ctx, hostileConfig(t, network, 1, hostileURL, honestURL))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for range 20 {
			got, err := do(s.Control(), http.MethodPost, "", strings.NewReader("text"))
			if err == nil && got != "text" {
				t.Fatalf("got %q", got)
			}
			if err == nil && s.Path().Via == honestURL {
				return
			}
		}
		t.Errorf("the session stays at %s", s.Path())
	})
}

func TestRelayThatLeadsElsewhere(t *testing.T) {
	other := &hostileRelay{lead: func(key.ID) key.ID { return otherBuilder }}
	inHostileWorld(t, other, func(t *testing.T, network Network) {
		_, err := Dial(t.Context(), hostileConfig(t, network, 1, hostileURL))
		if !errors.Is(err, ErrWrongPeer) || !strings.Contains(err.Error(), hostileURL) {
			t.Errorf("another builder: %v", err)
		}
		s, err := Dial(t.Context(), hostileConfig(t, network, 1, hostileURL, honestURL))
		if err != nil {
			t.Fatal(err)
		}
		if s.Path().Via != honestURL {
			t.Errorf("path is %s", s.Path())
		}
		_ = s.Close()
	})
	inHostileWorld(t, &hostileRelay{pairs: true}, func(t *testing.T, network Network) {
		errs := make(chan error)
		for n := range byte(2) {
			go func() {
				_, err := Dial(t.Context(), hostileConfig(t, network, 10+n, hostileURL))
				errs <- err
			}()
		}
		for range 2 {
			if err := <-errs; err == nil || !strings.Contains(err.Error(), hostileURL) {
				t.Errorf("two clients joined: %v", err)
			}
		}
	})
}

var otherBuilder = func() key.ID {
	s, err := key.NewSecret(bytes.NewReader(bytes.Repeat([]byte{3}, 32)))
	if err != nil {
		panic(err)
	}
	return s.ID()
}()

// A relay that floods a builder takes nothing from the others.
func TestRelayThatFloodsABuilder(t *testing.T) {
	for name, flood := range map[string]func(ws *wsconn.Socket) error{
		"circuits that lead nowhere": func(ws *wsconn.Socket) error {
			for i := range 300 {
				id := wire.CircuitID(fmt.Sprintf("%032x", i))
				if err := send(context.Background(), ws, wire.RelayMessage{Type: wire.RelayIncoming, Circuit: id}); err != nil {
					return err
				}
			}
			return nil
		},
		"nonsense": func(ws *wsconn.Socket) error {
			return ws.Write(context.Background(), websocket.MessageText, []byte("nonsense"))
		},
		"bytes": func(ws *wsconn.Socket) error {
			return ws.Write(context.Background(), websocket.MessageBinary, make([]byte, 1000))
		},
		"too much": func(ws *wsconn.Socket) error {
			return ws.Write(context.Background(), websocket.MessageText, make([]byte, wire.RelayMaxControl+1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hostileRelay{welcome: func(ws *wsconn.Socket) { _ = flood(ws) }}
			inHostileWorld(t, h, func(t *testing.T, network Network) {
				s, err := Dial(t.Context(), hostileConfig(t, network, 1, honestURL))
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if got, err := do(s.Control(), http.MethodPost, "", strings.NewReader("text")); err != nil || got != "text" {
					t.Errorf("got %q, %v", got, err)
				}
			})
		})
	}
}

// A relay that lets builders go as soon as they have registered is not asked more
// often than one that does not let them in, however long it takes to connect to.
func TestRelayThatEndsRegistrations(t *testing.T) {
	for _, connect := range []time.Duration{0, maxBackoff} {
		synctest.Test(t, func(t *testing.T) {
			var memory linktest.Network
			var registered atomic.Int64
			h := &hostileRelay{welcome: func(ws *wsconn.Socket) {
				registered.Add(1)
				_ = ws.Close(websocket.StatusGoingAway, "")
			}}
			h.serve(t, &memory, "hostile.example:80")
			dial := func(ctx context.Context, network, address string) (net.Conn, error) {
				select {
				case <-time.After(connect):
					return memory.DialContext(ctx, network, address)
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			l, err := Listen(ListenConfig{
				Identity: secret(t, 2), Relays: []string{hostileURL},
				Network: Network{DialContext: dial}, Jitter: func() float64 { return 1 },
			})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			time.Sleep(10 * time.Minute)
			want := int64(10 * time.Minute / (connect + maxBackoff))
			if n := registered.Load(); n < want || n > want+10 {
				t.Errorf("%d registrations in 10 minutes, want %d of %s and a pause of %s", n, want, connect, maxBackoff)
			}
		})
	}
}

// A relay that is gone for good, or has another name now, does not fill the log, and one
// that is lost, or refuses for another reason, is told of at once.
func TestRelayThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var memory linktest.Network
		var up atomic.Bool
		h := &hostileRelay{welcome: func(ws *wsconn.Socket) {
			if up.Swap(false) {
				time.Sleep(time.Minute)
			}
			_ = ws.Close(websocket.StatusGoingAway, "")
		}}
		h.serve(t, &memory, "hostile.example:80")
		dial := func(ctx context.Context, network, address string) (net.Conn, error) {
			if !up.Load() {
				return nil, errors.New("nothing is there")
			}
			return memory.DialContext(ctx, network, address)
		}
		var log strings.Builder
		l, err := Listen(ListenConfig{
			Identity: secret(t, 2), Relays: []string{hostileURL}, Network: Network{DialContext: dial},
			Jitter: func() float64 { return 1 }, Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3*time.Hour - time.Minute)
		up.Store(true) // for one registration
		time.Sleep(time.Hour - time.Minute)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(log.String(), "not registered at relay"); n != 4 {
			t.Errorf("%d lines, want one an hour and one when it is lost:\n%.2000s", n, &log)
		}
	})
}
