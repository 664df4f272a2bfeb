package relay_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/drv-thru/drv-thru/core/link/linktest"
	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/relay"
)

// halfOpenCount is how many connections say nothing in turn in
// [TestConnectionsThatSayNothing].
var halfOpenCount = flag.Int("half-open", 2_000, "connections that say nothing")

// works checks that a client reaches a builder meanwhile.
func works(t *testing.T, w *world) {
	t.Helper()
	s := w.session(secret(101), secret(102))
	if text, err := do(s.Control(), http.MethodPost, "", strings.NewReader("hello")); err != nil || text != "hello" {
		t.Errorf("others are affected: %q, %v", text, err)
	}
	_ = s.Close()
}

func TestConnectionsThatSayNothing(t *testing.T) {
	const perAddress, total = 20, 100
	limits := relay.Limits{Connections: total, ConnectionsPerAddress: perAddress}
	inWorld(t, relay.Config{Limits: limits}, func(t *testing.T, w *world) {
		w.builder(secret(102), echo)
		from := func(i int) context.Context {
			return linktest.From(t.Context(), fmt.Sprintf("192.0.2.%d:1", i))
		}
		// One address.
		refused := 0
		for range *halfOpenCount {
			c, err := w.network.DialContext(from(1), "tcp", relayAddress)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			_ = c.SetReadDeadline(time.Now().Add(time.Nanosecond))
			if _, err := c.Read(make([]byte, 1)); err == io.EOF {
				refused++
			}
		}
		if want := *halfOpenCount - perAddress; refused != want {
			t.Errorf("%d connections were closed at once, want %d", refused, want)
		}
		counted(t, w.relay, float64(refused), "connections_refused_total", "address")
		counted(t, w.relay, perAddress, "connections_pending")
		works(t, w)

		// Many addresses: the limit on all of them holds.
		for i := range 2 * total {
			if _, err := w.network.DialContext(from(2+i), "tcp", relayAddress); err != nil {
				t.Fatal(err)
			}
		}
		counted(t, w.relay, total, "connections_pending")
		counted(t, w.relay, total+perAddress, "connections_refused_total", "total")

		// They are not waited for.
		time.Sleep(11 * time.Second)
		counted(t, w.relay, 0, "connections_pending")
		works(t, w)
		w.listener.Cut()
	})
}

// A few addresses, each with as many connections as it may have, do not keep out others.
func TestConnectionsOfFewThatSayNothing(t *testing.T) {
	const perAddress, addresses = 20, 5
	proxy := netip.MustParseAddr("192.0.2.0")
	limits := relay.Limits{Connections: perAddress * addresses, ConnectionsPerAddress: perAddress}
	cfg := relay.Config{Limits: limits, Proxy: func(a netip.Addr) bool { return a == proxy }}
	inWorld(t, cfg, func(t *testing.T, w *world) {
		w.builder(secret(102), echo)
		from := func(i int) net.Conn {
			c, err := w.network.DialContext(linktest.From(t.Context(), fmt.Sprintf("192.0.2.%d:1", i)), "tcp", relayAddress)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		var proxied []net.Conn
		fill := func() {
			for range perAddress {
				for i := range addresses {
					from(1 + i)
				}
			}
			counted(t, w.relay, perAddress*addresses, "connections_pending")
		}
		for range perAddress + 1 {
			proxied = append(proxied, from(0))
		}
		fill()
		works(t, w)
		fill()
		// A proxy's stand for many, so they are not too many, and another gets in.
		for _, c := range append(proxied, from(0)) {
			fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: relay.example\r\n\r\n")
			if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
				t.Errorf("of the proxy: %v", err)
			}
		}
		counted(t, w.relay, perAddress*addresses, "connections_pending")
		w.listener.Cut()
	})
}

// A few addresses, each with as many circuits as it may have, do not keep out others.
func TestCircuitsOfFew(t *testing.T) {
	const perAddress, addresses, total = 6, 6, 24
	for name, limits := range map[string]relay.Limits{
		"to a builder": {CircuitsPerBuilder: total, CircuitsPerAddress: perAddress},
		"in all":       {Circuits: total, CircuitsPerAddress: perAddress},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, relay.Config{Limits: limits}, func(t *testing.T, w *world) {
				w.builder(secret(102), echo)
				fill := func() {
					for range perAddress {
						for i := range addresses {
							ctx := linktest.From(t.Context(), fmt.Sprintf("192.0.2.%d:1", i))
							if _, err := open(ctx, w, dialRoute(secret(102))); err != nil && wire.CodeOf(err) != wire.CodeRelayFull {
								t.Fatal(err)
							}
						}
					}
					counted(t, w.relay, total, "circuits")
				}
				const goodbye = 5 * time.Second // for ends that do not answer one
				fill()
				time.Sleep(goodbye)
				counted(t, w.relay, 0, "circuits_ended_total", "full") // they leave each other alone
				for range 3 {
					works(t, w)
					if n := metric(t, w.relay, "circuits"); n > total {
						t.Errorf("%v circuits are counted", n)
					}
				}
				fill()
				works(t, w)
				time.Sleep(goodbye)
				if metric(t, w.relay, "circuits_ended_total", "full") == 0 {
					t.Error("not counted")
				}
				w.listener.Cut()
			})
		})
	}
}

// A few addresses do not take up all registrations.
func TestRegistrationsOfFew(t *testing.T) {
	inWorld(t, relay.Config{Limits: relay.Limits{Registrations: 6}}, func(t *testing.T, w *world) {
		listen := func(i int) (*wsconn.Socket, error) {
			return open(linktest.From(t.Context(), fmt.Sprintf("192.0.2.%d:1", i)), w, wire.RouteRelayListen)
		}
		var many []*wsconn.Socket
		for _, i := range []int{1, 1, 1, 1, 2, 2} {
			ws, err := listen(i)
			if err != nil {
				t.Fatal(err)
			}
			many = append(many, ws)
			time.Sleep(time.Millisecond)
		}
		// Of the first address, which still has more than either of the others after that.
		for n := range 3 {
			_, err := listen(3)
			if want := map[bool]wire.Code{true: wire.CodeRelayFull}[n == 2]; wire.CodeOf(err) != want {
				t.Errorf("number %d of another address: %v", n, err)
			}
		}
		for _, ws := range many[2:4] {
			if _, err := receive(t, ws); err != nil {
				t.Fatal(err) // the challenge
			}
			closedWith(t, "the youngest", ws, wire.RelayCloseProof, wire.CodeRelayFull)
		}
		for _, ws := range []*wsconn.Socket{many[0], many[1], many[4], many[5]} {
			if _, err := receive(t, ws); err != nil {
				t.Error(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, _, err := ws.Read(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("of those that may stay: %v", err)
			}
			cancel()
		}
		w.listener.Cut()
	})
}

// Clients of the relay inside a builder do not keep it from coming for others.
func TestClientsThatSayNothing(t *testing.T) {
	const clients, perAddress, total = "clients.example:80", 20, 100
	for name, addresses := range map[string]int{"at the builder's address": 1, "everywhere": 2 * total} {
		t.Run(name, func(t *testing.T) {
			limits := relay.Limits{Connections: total, ConnectionsPerAddress: perAddress}
			inWorld(t, relay.Config{Limits: limits}, func(t *testing.T, w *world) {
				listener := w.network.Listen(clients)
				go func() { _ = w.relay.ServeClients(listener) }()
				listen := register(t, w, secret(2))
				from := func(i int) context.Context {
					return linktest.From(t.Context(), fmt.Sprintf("192.0.2.%d:1", i))
				}
				for i := range 2 * total {
					if _, err := w.network.DialContext(from(i%addresses), "tcp", clients); err != nil {
						t.Fatal(err)
					}
				}
				counted(t, w.relay, float64(min(total, perAddress*addresses)), "connections_pending")
				connect(t, w, listen, from(0))
				listener.Cut()
				w.listener.Cut()
			})
		})
	}
}

// At the relay inside a builder nobody else registers.
func TestOnlyClients(t *testing.T) {
	const clients = "clients.example:80"
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		listener := w.network.Listen(clients)
		go func() { _ = w.relay.ServeClients(listener) }()
		id, done := dialled(t.Context(), t, w, register(t, w, secret(2)))
		for _, route := range []string{wire.RouteRelayListen, acceptRoute(id)} {
			_, resp, err := wsconn.Dial(t.Context(), "http://clients.example"+route, wsconn.DialOptions{
				Protocols: []string{wire.RelayProtocol}, DialContext: w.network.DialContext,
			})
			if err == nil || resp == nil || resp.StatusCode != http.StatusNotFound {
				t.Errorf("%s: %v, %v", route, resp, err)
			}
		}
		listener.Cut()
		w.listener.Cut()
		<-done
	})
}

// connect dials the builder of secret 2, which comes for the circuit with the context
// of its address.
func connect(t *testing.T, w *world, listen *wsconn.Socket, from context.Context) {
	t.Helper()
	dialled := make(chan error, 1)
	go func() {
		_, err := open(t.Context(), w, dialRoute(secret(2)))
		dialled <- err
	}()
	m, err := receive(t, listen)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(from, w, acceptRoute(m.Circuit)); err != nil {
		t.Errorf("the builder cannot come: %v", err)
	}
	if err := <-dialled; err != nil {
		t.Error(err)
	}
}

func TestRequestsThatDoNotEnd(t *testing.T) {
	for name, text := range map[string]string{
		"a body that does not come": "POST / HTTP/1.1\r\nHost: relay.example\r\nContent-Length: 1\r\n\r\n",
		"answers that are not read": strings.Repeat("GET /healthz HTTP/1.1\r\nHost: relay.example\r\n\r\n", 10_000),
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
				w.builder(secret(102), echo)
				c, err := w.network.DialContext(t.Context(), "tcp", relayAddress)
				if err != nil {
					t.Fatal(err)
				}
				go func() { _, _ = io.WriteString(c, text) }()
				counted(t, w.relay, 1, "connections_pending")

				// They are not waited for.
				time.Sleep(time.Minute)
				counted(t, w.relay, 0, "connections_pending")
				works(t, w)
				w.listener.Cut()
			})
		})
	}
}

// A proxy in front passes on requests whose bodies do not come, any number for one
// address: they are answered all the same, so that it gives up their connections.
func TestBodiesAreNotWaitedFor(t *testing.T) {
	for name, length := range map[string]string{
		"of a length":   "Content-Length: 1",
		"of any length": "Transfer-Encoding: chunked",
	} {
		for _, target := range []string{"POST /", "GET /healthz", "GET " + wire.RouteRelayListen} {
			t.Run(target+" "+name, func(t *testing.T) {
				inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
					c, err := w.network.DialContext(t.Context(), "tcp", relayAddress)
					if err != nil {
						t.Fatal(err)
					}
					begin := time.Now()
					fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: relay.example\r\n%s\r\n\r\n", target, length)
					resp, err := http.ReadResponse(bufio.NewReader(c), nil)
					if err != nil || !resp.Close {
						t.Errorf("got %v, %v, want an answer that is the last", resp, err)
					}
					if took := time.Since(begin); took != 0 {
						t.Errorf("answered after %s", took)
					}
					_ = c.Close()
					counted(t, w.relay, 0, "connections_pending")
				})
			})
		}
	}
}

// Who asks to see refusals on a WebSocket gets no more of those than of
// connections.
func TestRefusalsThatAreNotRead(t *testing.T) {
	const perAddress, total = 4, 10
	limits := relay.Limits{Connections: total, ConnectionsPerAddress: perAddress}
	inWorld(t, relay.Config{Limits: limits}, func(t *testing.T, w *world) {
		route := dialRoute(secret(2)) + "?" + wire.RelayErrorsQuery + "=" + wire.RelayErrorsSocket
		sockets := func(ctx context.Context, tries int) (n int) {
			for range tries {
				if _, err := open(ctx, w, route); err == nil {
					n++
				} else if !errors.Is(err, wire.CodeRelayNoBuilder.Err()) {
					t.Error(err)
				}
			}
			return n
		}
		if n := sockets(linktest.From(t.Context(), "192.0.2.1:1"), 3*perAddress); n != perAddress {
			t.Errorf("%d for one address, want %d", n, perAddress)
		}
		if n := sockets(t.Context(), 3*total); n != total-perAddress {
			t.Errorf("%d for others, want %d", n, total-perAddress)
		}
		time.Sleep(10 * time.Second)
		if n := sockets(t.Context(), 1); n != 1 {
			t.Error("those that have waited are still counted")
		}
		w.listener.Cut()
	})
}

// Those who dial do not use up their builder's rate.
func TestBuilderComesForAllWhoDial(t *testing.T) {
	const burst = 3
	limits := relay.Limits{HandshakeBurst: burst, HandshakesPerSecond: 0.001}
	inWorld(t, relay.Config{Limits: limits}, func(t *testing.T, w *world) {
		here := linktest.From(t.Context(), "192.0.2.1:1")
		listen := register(t, w, secret(2))
		for range 2 * burst {
			connect(t, w, listen, here)
		}
		// It has one for whatever else it does.
		for i := range burst + 1 {
			_, err := open(here, w, acceptRoute("00000000000000000000000000000000"))
			if want := map[bool]wire.Code{true: wire.CodeRelayNoCircuit, false: wire.CodeRelayRate}[i < burst]; wire.CodeOf(err) != want {
				t.Errorf("attempt %d: %v, want %s", i, err, want)
			}
		}
		w.listener.Cut()
	})
}

// A limit on how long requests take is none on what becomes of them.
func TestBuilderThatComesLate(t *testing.T) {
	const late = 5 * time.Minute
	inWorld(t, relay.Config{Limits: relay.Limits{HalfOpen: late + time.Second, Idle: time.Hour}}, func(t *testing.T, w *world) {
		listen := register(t, w, secret(2))
		dialled := make(chan *wsconn.Socket, 1)
		go func() {
			ws, err := open(t.Context(), w, dialRoute(secret(2)))
			if err != nil {
				t.Error(err)
			}
			dialled <- ws
		}()
		m, err := receive(t, listen)
		if err != nil {
			t.Fatal(err)
		}
		go answerPings(listen)
		time.Sleep(late)
		builder, err := open(t.Context(), w, acceptRoute(m.Circuit))
		if err != nil {
			t.Fatal(err)
		}
		client := <-dialled
		time.Sleep(late) // on a circuit that carries nothing
		go func() { _ = client.Write(context.Background(), websocket.MessageBinary, []byte("x")) }()
		if _, p, err := builder.Read(context.Background()); err != nil || string(p) != "x" {
			t.Errorf("got %q, %v", p, err)
		}
		for _, ws := range []*wsconn.Socket{client, builder, listen} {
			_ = ws.CloseNow()
		}
	})
}

// A proxy's address stands for many.
func TestConnectionsOfAProxy(t *testing.T) {
	cfg := relay.Config{Limits: relay.Limits{ConnectionsPerAddress: 1}}
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fe80::/10")}
	cfg.Proxy = func(a netip.Addr) bool { return proxies[0].Contains(a) || proxies[1].Contains(a) }
	cfg.ClientAddr = relay.ForwardedBy(proxies)
	inWorld(t, cfg, func(t *testing.T, w *world) {
		for _, address := range []string{"10.0.0.1:1", "[fe80::1%eth0]:1"} {
			for range 3 {
				if _, err := w.network.DialContext(linktest.From(t.Context(), address), "tcp", relayAddress); err != nil {
					t.Fatal(err)
				}
			}
		}
		counted(t, w.relay, 6, "connections_pending")
		// Another's stands for one.
		for range 3 {
			if _, err := w.network.DialContext(linktest.From(t.Context(), "192.0.2.1:1"), "tcp", relayAddress); err != nil {
				t.Fatal(err)
			}
		}
		counted(t, w.relay, 7, "connections_pending")
		w.listener.Cut()
	})
}

// slowConn reads or writes a byte a second, once told to.
type slowConn struct {
	net.Conn
	reads, writes atomic.Bool
}

func (c *slowConn) Read(p []byte) (int, error) {
	if c.reads.Load() {
		time.Sleep(time.Second)
		p = p[:min(1, len(p))]
	}
	return c.Conn.Read(p)
}

func (c *slowConn) Write(p []byte) (int, error) {
	for i := range p {
		if !c.writes.Load() {
			n, err := c.Conn.Write(p[i:])
			return i + n, err
		}
		time.Sleep(time.Second)
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// sendAll writes messages until that fails.
func sendAll(ws *wsconn.Socket, size int, pause time.Duration) {
	for ws.Write(context.Background(), websocket.MessageBinary, make([]byte, size)) == nil {
		time.Sleep(pause)
	}
}

// receiveAll reads messages until that fails.
func receiveAll(ws *wsconn.Socket) {
	for {
		if _, _, err := ws.Read(context.Background()); err != nil {
			return
		}
	}
}

func TestPeersThatStall(t *testing.T) {
	for name, stall := range map[string]func(conn *slowConn, client, builder *wsconn.Socket){
		"never reads": func(_ *slowConn, client, builder *wsconn.Socket) {
			// The other direction is busy.
			go receiveAll(builder)
			go sendAll(client, 1, time.Second)
			sendAll(builder, wsconn.MessageSize, 0)
		},
		"reads a byte a second": func(conn *slowConn, client, builder *wsconn.Socket) {
			conn.reads.Store(true)
			go receiveAll(builder)
			go sendAll(client, 1, time.Second)
			go receiveAll(client)
			sendAll(builder, wsconn.MessageSize, 0)
		},
		"writes a byte a second": func(conn *slowConn, client, builder *wsconn.Socket) {
			conn.writes.Store(true)
			go receiveAll(builder)
			go sendAll(builder, 1, time.Second)
			sendAll(client, wsconn.MessageSize, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, relay.Config{Limits: relay.Limits{Idle: time.Minute}}, func(t *testing.T, w *world) {
				w.builder(secret(102), echo)
				var conn *slowConn
				listen := register(t, w, secret(2))
				dialled := make(chan *wsconn.Socket, 1)
				go func() {
					ws, _, err := wsconn.Dial(t.Context(), relayURL+dialRoute(secret(2)), wsconn.DialOptions{
						Protocols: []string{wire.RelayProtocol},
						DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
							c, err := w.network.DialContext(ctx, network, address)
							conn = &slowConn{Conn: c}
							return conn, err
						},
					})
					if err != nil {
						t.Error(err)
					}
					dialled <- ws
				}()
				m, err := receive(t, listen)
				if err != nil {
					t.Fatal(err)
				}
				builder, err := open(t.Context(), w, acceptRoute(m.Circuit))
				if err != nil {
					t.Fatal(err)
				}
				client := <-dialled
				client.SetReadLimit(wire.RelayMaxMessage)
				go answerPings(listen)
				go func() {
					time.Sleep(30 * time.Second)
					works(t, w)
				}()

				begin := time.Now()
				stall(conn, client, builder)
				if took := time.Since(begin); took < time.Minute || took > 2*time.Minute {
					t.Errorf("it may stall for %s", took)
				}
				_ = client.CloseNow()
				_ = builder.CloseNow()
				time.Sleep(time.Minute) // for bytes that are on their way at one a second
				counted(t, w.relay, 1, "circuits_ended_total", "stalled")
				_ = listen.CloseNow()
			})
		})
	}
}

// answerPings keeps a registration alive.
func answerPings(listen *wsconn.Socket) {
	for {
		_, _, err := listen.Read(context.Background())
		if err != nil {
			return
		}
		_ = listen.Write(context.Background(), websocket.MessageText, wire.RelayMessage{Type: wire.RelayPong}.Encode())
	}
}

func TestBytesPerSecond(t *testing.T) {
	const speed, sent = 64 << 10, 1 << 20
	for name, limits := range map[string]relay.Limits{
		"circuit": {CircuitBytesPerSecond: speed},
		"relay":   {BytesPerSecond: speed},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, relay.Config{Limits: limits}, func(t *testing.T, w *world) {
				client, builder, listen := circuit(t, w, secret(2))
				go answerPings(listen)
				begin := time.Now()
				go func() {
					for range sent / (64 << 10) {
						_ = client.Write(context.Background(), websocket.MessageBinary, make([]byte, 64<<10))
					}
				}()
				for got := 0; got < sent; {
					_, p, err := builder.Read(context.Background())
					if err != nil {
						t.Fatal(err)
					}
					got += len(p)
				}
				// A message's worth may come at once.
				least := (sent - 2*wsconn.MessageSize) / speed * time.Second
				if took := time.Since(begin); took < least || took > sent/speed*time.Second {
					t.Errorf("%d bytes in %s", sent, took)
				}
				if metric(t, w.relay, "throttled_total") == 0 {
					t.Error("not counted")
				}
				counted(t, w.relay, sent, "bytes_total", "builder")
				for _, ws := range []*wsconn.Socket{client, builder, listen} {
					_ = ws.CloseNow()
				}
			})
		})
	}
}

// A peer that begins a message instead of saying goodbye is not waited for.
func TestMessageInsteadOfAGoodbye(t *testing.T) {
	begun := []byte{0x82, 0xfe, 0xff, 0xff, 0, 0, 0, 0} // 65,535 bytes, of which none comes
	t.Run("when refused", func(t *testing.T) {
		inWorld(t, relay.Config{Limits: relay.Limits{Registrations: 1}}, func(t *testing.T, w *world) {
			defer w.listener.Cut()
			ws, challenge := challenged(t, w)
			m := proof(secret(2), "relay.example", challenge.Nonce)
			m.Endpoint = secret(3).ID()
			send(t, ws, m)
			_, _ = w.listener.Conns()[0].Write(begun)
			time.Sleep(time.Minute)
			if _, err := open(t.Context(), w, wire.RouteRelayListen); err != nil {
				t.Errorf("its place is not free: %v", err)
			}
		})
	})
	t.Run("when the relay goes", func(t *testing.T) {
		inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
			defer w.listener.Cut()
			register(t, w, secret(2))
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_ = w.relay.Shutdown(ctx)
			}()
			synctest.Wait()
			_, _ = w.listener.Conns()[0].Write(begun)
			select {
			case <-ended:
			case <-time.After(time.Minute):
				t.Error("it stays")
			}
		})
	})
}

func TestCompressionIsNotSpoken(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		w.builder(secret(102), echo)
		c, err := w.network.DialContext(t.Context(), "tcp", relayAddress)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: relay.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"+
			"Sec-WebSocket-Protocol: %s\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", wire.RouteRelayListen, wire.RelayProtocol)
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Extensions") != "" {
			t.Fatalf("got %v, %v", resp, err)
		}
		// A text frame of 2 bytes, masked with zeros, whose RSV1 bit says that
		// it is compressed (RFC 7692 §6).
		_, _ = c.Write([]byte{0xc1, 0x82, 0, 0, 0, 0, 0x4b, 0x04})
		rest, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(rest, []byte{0x03, 0xea}) { // 1002
			t.Errorf("the relay answers % x, want a close frame with code 1002", rest)
		}
		counted(t, w.relay, 1, "builders")
		works(t, w)
	})
}
