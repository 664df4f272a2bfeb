package relay_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/relay"
)

// circuit opens both ends of a circuit by hand.
func circuit(t *testing.T, w *world, builder key.Secret) (client, server, listen *wsconn.Socket) {
	t.Helper()
	listen = register(t, w, builder)
	dialled := make(chan *wsconn.Socket, 1)
	go func() {
		ws, err := open(t.Context(), w, dialRoute(builder))
		if err != nil {
			t.Error(err)
		}
		dialled <- ws
	}()
	m, err := receive(t, listen)
	if err != nil || m.Type != wire.RelayIncoming {
		t.Fatalf("got %v, %v", m, err)
	}
	server, err = open(t.Context(), w, acceptRoute(m.Circuit))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t.Context(), w, acceptRoute(m.Circuit)); !errors.Is(err, wire.CodeRelayNoCircuit.Err()) {
		t.Errorf("a circuit's ID works twice: %v", err)
	}
	return <-dialled, server, listen
}

func dialRoute(builder key.Secret) string {
	return strings.Replace(wire.RouteRelayDial, "{endpoint}", builder.ID().String(), 1)
}

func acceptRoute(id wire.CircuitID) string {
	return strings.Replace(wire.RouteRelayAccept, "{circuit}", string(id), 1)
}

func TestEndsOfACircuit(t *testing.T) {
	for name, c := range map[string]struct {
		do            func(*wsconn.Socket)
		here, thereIs websocket.StatusCode // 0: lost without a word
		counted       string
	}{
		"clean close": {func(s *wsconn.Socket) { _ = s.Close(websocket.StatusNormalClosure, "") }, 0, websocket.StatusNormalClosure, "clean"},
		"lost":        {func(s *wsconn.Socket) { _ = s.CloseNow() }, 0, wire.RelayCloseBroken, "lost"},
		"text": {func(s *wsconn.Socket) { _ = s.Write(context.Background(), websocket.MessageText, []byte("hi")) },
			websocket.StatusUnsupportedData, wire.RelayCloseBroken, "text"},
		"oversize": {func(s *wsconn.Socket) {
			_ = s.Write(context.Background(), websocket.MessageBinary, make([]byte, wire.RelayMaxMessage+1))
		}, websocket.StatusMessageTooBig, wire.RelayCloseBroken, "large"},
	} {
		for _, side := range []string{"client", "builder"} {
			t.Run(name+" of "+side, func(t *testing.T) {
				inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
					here, there, listen := circuit(t, w, secret(2))
					if side == "builder" {
						here, there = there, here
					}
					go c.do(here)
					result := make(chan error, 1)
					go func() {
						_, _, err := here.Read(context.Background())
						result <- err
					}()
					for {
						_, _, err := there.Read(context.Background())
						if err == nil {
							continue // what came before an oversize message's end
						}
						if got := websocket.CloseStatus(err); got != c.thereIs {
							t.Errorf("the other end is told %v, want %d", err, c.thereIs)
						}
						break
					}
					if err := <-result; c.here != 0 && websocket.CloseStatus(err) != c.here {
						t.Errorf("this end is told %v, want %d", err, c.here)
					}
					synctest.Wait()
					if st := w.relay.Stats(); st.Circuits != 0 {
						t.Errorf("relay counts %+v", st)
					}
					counted(t, w.relay, 1, "circuits_ended_total", c.counted)
					_ = here.CloseNow()
					_ = there.CloseNow()
					_ = listen.CloseNow()
				})
			})
		}
	}
}

// Of a frame that breaks off nothing is passed on: what has come of it is masked, and
// would be taken for an attack on TLS.
func TestFrameThatBreaksOff(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		client, builder, listen := circuit(t, w, secret(2))
		conn := w.listener.Conns()[2] // the client's
		_, _ = conn.Write([]byte{0x82, 0x85, 1, 2, 3, 4, 'h', 'e', 'l'})
		synctest.Wait()
		_ = conn.Close()
		if _, got, err := builder.Read(context.Background()); websocket.CloseStatus(err) != wire.RelayCloseBroken {
			t.Errorf("came %q, %v", got, err)
		}
		for _, ws := range []*wsconn.Socket{client, builder, listen} {
			_ = ws.CloseNow()
		}
	})
}

func TestHalfOpenCircuits(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		listen := register(t, w, secret(2))
		dial := func(ctx context.Context) <-chan error {
			done := make(chan error, 1)
			go func() {
				ws, err := open(ctx, w, dialRoute(secret(2)))
				if err == nil {
					_ = ws.CloseNow()
				}
				done <- err
			}()
			return done
		}
		next := func() wire.CircuitID {
			m, err := receive(t, listen)
			for err == nil && m.Type == wire.RelayPing {
				send(t, listen, wire.RelayMessage{Type: wire.RelayPong})
				m, err = receive(t, listen)
			}
			if err != nil || m.Type != wire.RelayIncoming {
				t.Fatalf("got %v, %v", m, err)
			}
			return m.Circuit
		}

		begin := time.Now()
		done := dial(t.Context())
		late := next()
		if err := <-done; !errors.Is(err, wire.CodeRelayNoAnswer.Err()) {
			t.Errorf("nobody came: %v", err)
		}
		if took := time.Since(begin); took != wire.RelayAcceptTimeout {
			t.Errorf("gave up after %s", took)
		}
		if _, err := open(t.Context(), w, acceptRoute(late)); !errors.Is(err, wire.CodeRelayNoCircuit.Err()) {
			t.Errorf("came too late: %v", err)
		}

		done = dial(t.Context())
		send(t, listen, wire.RelayMessage{Type: wire.RelayRefuse, Circuit: next(), Code: wire.CodeRelayRefused})
		if err := <-done; !errors.Is(err, wire.CodeRelayRefused.Err()) {
			t.Errorf("refused: %v", err)
		}

		// What another builder refuses, or nobody has dialled, is nobody's business.
		other := register(t, w, secret(3))
		done = dial(t.Context())
		id := next()
		for _, id := range []wire.CircuitID{id, late} {
			send(t, other, wire.RelayMessage{Type: wire.RelayRefuse, Circuit: id, Code: wire.CodeRelayRefused})
		}
		synctest.Wait()
		ws, err := open(t.Context(), w, acceptRoute(id))
		if err != nil {
			t.Errorf("refused by another: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("refused by another: %v", err)
		}
		_ = ws.CloseNow()
		_ = other.CloseNow()

		// What is no WebSocket does not use the circuit up.
		done = dial(t.Context())
		id = next()
		req, _ := http.NewRequest(http.MethodGet, relayURL+acceptRoute(id), nil)
		req.Header.Set("Sec-WebSocket-Protocol", wire.RelayProtocol)
		tr := &http.Transport{DialContext: w.network.DialContext, DisableKeepAlives: true}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if ws, err = open(t.Context(), w, acceptRoute(id)); err != nil {
			t.Errorf("after what was no WebSocket: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("after what was no WebSocket: %v", err)
		}
		_ = ws.CloseNow()

		// The client leaves.
		ctx, cancel := context.WithCancel(t.Context())
		done = dial(ctx)
		left := next()
		cancel()
		<-done
		synctest.Wait()
		if _, err := open(t.Context(), w, acceptRoute(left)); !errors.Is(err, wire.CodeRelayNoCircuit.Err()) {
			t.Errorf("the client had left: %v", err)
		}
		counted(t, w.relay, 1, "refused_total", string(wire.CodeRelayLost), "dial")

		// The builder leaves.
		done = dial(t.Context())
		next()
		begin = time.Now()
		_ = listen.CloseNow()
		if err := <-done; !errors.Is(err, wire.CodeRelayNoAnswer.Err()) {
			t.Errorf("the builder left: %v", err)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("the client is told %s after the builder has left", took)
		}
		if st := w.relay.Stats(); st != (relay.Stats{}) {
			t.Errorf("relay counts %+v", st)
		}
	})
}

// hijacked calls a function before a connection is taken over, which fails if that does.
type hijacked struct {
	http.ResponseWriter
	before func() error
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if err := h.before(); err != nil {
		return nil, nil, err
	}
	return http.NewResponseController(h.ResponseWriter).Hijack()
}

// hijacks serves the relay at another address, with a function that is called before it
// takes over a connection.
func (w *world) hijacks(before func() error) (open func(ctx context.Context, route string) (*wsconn.Socket, error)) {
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.relay.ServeHTTP(hijacked{rw, before}, r)
	})}
	srv.ErrorLog = log.New(io.Discard, "", 0) // that an answer was begun
	go srv.Serve(w.network.Listen("hijacks.example:80"))
	w.t.Cleanup(func() { _ = srv.Close() })
	return func(ctx context.Context, route string) (*wsconn.Socket, error) {
		ws, _, err := wsconn.Dial(ctx, "http://hijacks.example"+route, wsconn.DialOptions{
			Protocols: []string{wire.RelayProtocol}, DialContext: w.network.DialContext,
		})
		return ws, err
	}
}

// dialled dials the builder of secret 2 and returns the circuit that it is called for.
func dialled(ctx context.Context, t *testing.T, w *world, listen *wsconn.Socket) (wire.CircuitID, <-chan error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := open(ctx, w, dialRoute(secret(2)))
		done <- err
	}()
	m, err := receive(t, listen)
	if err != nil {
		t.Fatal(err)
	}
	return m.Circuit, done
}

// A client may leave while its builder comes, which is told so then.
func TestClientLeavesWhileTheBuilderComes(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		ctx, leave := context.WithCancel(t.Context())
		var left <-chan error
		come := w.hijacks(func() error {
			leave()
			if err := <-left; err == nil {
				t.Error("it has not left")
			}
			time.Sleep(time.Second) // in the bubble: until the relay knows
			return nil
		})
		listen := register(t, w, secret(2))
		id, done := dialled(ctx, t, w, listen)
		left = done
		ws, err := come(t.Context(), acceptRoute(id))
		if err != nil {
			t.Fatal(err)
		}
		closedWith(t, "the builder's end", ws, wire.RelayCloseBroken, wire.CodeRelayLost)
		_ = listen.CloseNow()
	})
}

// A circuit's ID does not work for two who come at the same time.
func TestBuilderComesTwice(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		var id wire.CircuitID
		come := w.hijacks(func() error {
			if _, err := open(t.Context(), w, acceptRoute(id)); !errors.Is(err, wire.CodeRelayNoCircuit.Err()) {
				t.Errorf("somebody else: %v", err)
			}
			return nil
		})
		listen := register(t, w, secret(2))
		var done <-chan error
		id, done = dialled(t.Context(), t, w, listen)
		if _, err := come(t.Context(), acceptRoute(id)); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.listener.Cut()
	})
}

// Who is lost in the handshake itself is not waited for by the other end.
func TestEndIsLostInTheHandshake(t *testing.T) {
	lost := func() error { return net.ErrClosed }
	t.Run("builder", func(t *testing.T) {
		inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
			listen := register(t, w, secret(2))
			id, done := dialled(t.Context(), t, w, listen)
			begin := time.Now()
			_, _ = w.hijacks(lost)(t.Context(), acceptRoute(id))
			if err := <-done; !errors.Is(err, wire.CodeRelayNoAnswer.Err()) || time.Since(begin) != 0 {
				t.Errorf("the client is told %v after %s", err, time.Since(begin))
			}
			_ = listen.CloseNow()
		})
	})
	t.Run("client", func(t *testing.T) {
		inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
			listen := register(t, w, secret(2))
			dial := w.hijacks(lost)
			go func() { _, _ = dial(t.Context(), dialRoute(secret(2))) }()
			m, err := receive(t, listen)
			if err != nil {
				t.Fatal(err)
			}
			builder, err := open(t.Context(), w, acceptRoute(m.Circuit))
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			closedWith(t, "the builder's end", builder, wire.RelayCloseBroken, wire.CodeRelayLost)
			if took := time.Since(begin); took != 0 {
				t.Errorf("it is told %s later", took)
			}
			_ = listen.CloseNow()
		})
	})
}

// Who waits for a builder when the relay goes looks elsewhere at once.
func TestShutdownWhileSomebodyDials(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		_, done := dialled(t.Context(), t, w, register(t, w, secret(2)))
		begin := time.Now()
		go func() { _ = w.relay.Shutdown(context.Background()) }()
		if err := <-done; !errors.Is(err, wire.CodeRelayClosing.Err()) || time.Since(begin) != 0 {
			t.Errorf("the client is told %v after %s", err, time.Since(begin))
		}
		w.listener.Cut()
	})
}

// Who waits for a builder by a registration that is given up is told so at once, although
// its end may be lost and say nothing.
func TestRegistrationIsGivenUpWhileSomebodyDials(t *testing.T) {
	for name, giveUp := range map[string]func(t *testing.T, w *world){
		"replaced":            func(t *testing.T, w *world) { register(t, w, secret(2)) },
		"not let in any more": func(_ *testing.T, w *world) { w.relay.SetAccess(relay.AllowBuilders(nil)) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
				_, done := dialled(t.Context(), t, w, register(t, w, secret(2)))
				begin := time.Now()
				giveUp(t, w)
				if err := <-done; !errors.Is(err, wire.CodeRelayNoAnswer.Err()) || time.Since(begin) != 0 {
					t.Errorf("the client is told %v after %s", err, time.Since(begin))
				}
				w.listener.Cut()
			})
		})
	}
}

func TestIdleCircuitIsCut(t *testing.T) {
	inWorld(t, relay.Config{Limits: relay.Limits{Idle: time.Minute}}, func(t *testing.T, w *world) {
		client, server, listen := circuit(t, w, secret(2))
		go func() {
			for range 5 {
				<-time.After(50 * time.Second)
				_ = client.Write(context.Background(), websocket.MessageBinary, []byte("x"))
			}
		}()
		begin := time.Now()
		for range 5 {
			if _, _, err := server.Read(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := server.Read(context.Background()); err == nil {
			t.Error("more came than was sent")
		}
		if idle := time.Since(begin) - 250*time.Second; idle < time.Minute || idle > 2*time.Minute {
			t.Errorf("cut after %s", idle)
		}
		for _, ws := range []*wsconn.Socket{client, server, listen} {
			_ = ws.CloseNow()
		}
	})
}
