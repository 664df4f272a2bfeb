package relay_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link/linktest"
	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/relay"
)

// These tests speak the relay's protocol by hand, to say what no builder or
// client of ours says.

// open does a handshake at the relay.
func open(ctx context.Context, w *world, route string) (*wsconn.Socket, error) {
	ws, resp, err := wsconn.Dial(ctx, relayURL+route, wsconn.DialOptions{Protocols: []string{wire.RelayProtocol}, DialContext: w.network.DialContext})
	if err != nil && resp != nil {
		return nil, wire.ReadError(resp)
	}
	if err == nil {
		ws.SetReadLimit(wire.RelayMaxMessage)
	}
	return ws, err
}

func receive(t *testing.T, ws *wsconn.Socket) (wire.RelayMessage, error) {
	t.Helper()
	_, data, err := ws.Read(context.Background())
	if err != nil {
		return wire.RelayMessage{}, err
	}
	m, err := wire.ParseRelayMessage(data)
	if err != nil {
		t.Errorf("the relay sent %q: %v", data, err)
	}
	return m, nil
}

func send(t *testing.T, ws *wsconn.Socket, m wire.RelayMessage) {
	t.Helper()
	if err := ws.Write(context.Background(), websocket.MessageText, m.Encode()); err != nil {
		t.Error(err)
	}
}

// challenged opens a listen socket and returns it with the challenge.
func challenged(t *testing.T, w *world) (*wsconn.Socket, wire.RelayMessage) {
	t.Helper()
	ws, err := open(t.Context(), w, wire.RouteRelayListen)
	if err != nil {
		t.Fatal(err)
	}
	m, err := receive(t, ws)
	if err != nil || m.Type != wire.RelayChallenge {
		t.Fatalf("got %v, %v, want a challenge", m, err)
	}
	return ws, m
}

func proof(s key.Secret, host string, nonce []byte) wire.RelayMessage {
	return wire.RelayMessage{
		Type: wire.RelayRegister, Endpoint: s.ID(), Host: host,
		Signature: s.Sign(wire.RelayProof(host, nonce, s.ID())),
	}
}

// register registers and leaves the socket to the caller.
func register(t *testing.T, w *world, s key.Secret) *wsconn.Socket {
	t.Helper()
	ws, challenge := challenged(t, w)
	send(t, ws, proof(s, "relay.example", challenge.Nonce))
	if m, err := receive(t, ws); err != nil || m.Type != wire.RelayRegistered {
		t.Fatalf("got %v, %v, want to be registered", m, err)
	}
	return ws
}

// closedWith reads until the relay closes and checks how.
func closedWith(t *testing.T, what string, ws *wsconn.Socket, code websocket.StatusCode, reason wire.Code) {
	t.Helper()
	for {
		_, _, err := ws.Read(context.Background())
		if err == nil {
			continue
		}
		var ce websocket.CloseError
		if !errors.As(err, &ce) || ce.Code != code || ce.Reason != string(reason) {
			t.Errorf("%s: closed with %v, want code %d and reason %q", what, err, code, reason)
		}
		_ = ws.CloseNow()
		return
	}
}

func TestRegistrationNeedsProof(t *testing.T) {
	inWorld(t, relay.Config{Hosts: []string{"relay.example", "other.example:7411"}}, func(t *testing.T, w *world) {
		first, old := challenged(t, w)
		recorded := proof(secret(2), "relay.example", old.Nonce)
		send(t, first, recorded)
		if m, err := receive(t, first); err != nil || m.Type != wire.RelayRegistered {
			t.Fatalf("got %v, %v", m, err)
		}
		for name, c := range map[string]struct {
			forge  func(nonce []byte) wire.RelayMessage
			reason wire.Code
		}{
			"replayed": {func([]byte) wire.RelayMessage { return recorded }, wire.CodeRelayProof},
			"of another key": {func(nonce []byte) wire.RelayMessage {
				m := proof(secret(3), "relay.example", nonce)
				m.Endpoint = secret(2).ID()
				return m
			}, wire.CodeRelayProof},
			"for another relay": {func(nonce []byte) wire.RelayMessage {
				return proof(secret(2), "evil.example", nonce)
			}, wire.CodeRelayHost},
			"with the host changed": {func(nonce []byte) wire.RelayMessage {
				m := proof(secret(2), "evil.example", nonce)
				m.Host = "relay.example"
				return m
			}, wire.CodeRelayProof},
			"on another port": {func(nonce []byte) wire.RelayMessage {
				return proof(secret(2), "other.example:7412", nonce)
			}, wire.CodeRelayHost},
			"not first": {func([]byte) wire.RelayMessage { return wire.RelayMessage{Type: wire.RelayPong} }, wire.CodeRelayProof},
		} {
			ws, challenge := challenged(t, w)
			send(t, ws, c.forge(challenge.Nonce))
			closedWith(t, name, ws, wire.RelayCloseProof, c.reason)
		}
		if n := w.relay.Stats().Builders; n != 1 {
			t.Errorf("%d builders: a false registration replaced the true one", n)
		}
		for _, host := range []string{"relay.example:7411", "other.example:7411"} {
			ws, challenge := challenged(t, w)
			send(t, ws, proof(secret(4), host, challenge.Nonce))
			if m, err := receive(t, ws); err != nil || m.Type != wire.RelayRegistered {
				t.Errorf("as %s: %v, %v", host, m, err)
			}
			_ = ws.CloseNow()
		}
		_ = first.CloseNow()
	})
}

// logged is a log that calls a function for each message.
type logged func(message string)

func (logged) Enabled(context.Context, slog.Level) bool        { return true }
func (f logged) Handle(_ context.Context, r slog.Record) error { f(r.Message); return nil }
func (f logged) WithAttrs([]slog.Attr) slog.Handler            { return f }
func (f logged) WithGroup(string) slog.Handler                 { return f }

// Who dials as soon as a builder is known is not called out to before it knows.
func TestRegisteredComesFirst(t *testing.T) {
	known := make(chan func(), 1)
	log := slog.New(logged(func(message string) {
		if message == "builder registered" {
			(<-known)()
		}
	}))
	inWorld(t, relay.Config{Log: log}, func(t *testing.T, w *world) {
		known <- func() {
			go func() { _, _ = open(t.Context(), w, dialRoute(secret(2))) }()
			time.Sleep(time.Second) // in the bubble: until all of the dial has been done that can be
		}
		ws, challenge := challenged(t, w)
		send(t, ws, proof(secret(2), "relay.example", challenge.Nonce))
		for _, want := range []wire.RelayMessageType{wire.RelayRegistered, wire.RelayIncoming} {
			if m, err := receive(t, ws); err != nil || m.Type != want {
				t.Errorf("got %v, %v, want %s", m, err, want)
			}
		}
		w.listener.Cut()
	})
}

// A builder that is lost before it is told that it is registered is not.
func TestBuilderIsLostAsItRegisters(t *testing.T) {
	cut := make(chan func(), 1)
	log := slog.New(logged(func(message string) {
		if message == "builder registered" {
			(<-cut)()
		}
	}))
	inWorld(t, relay.Config{Log: log}, func(t *testing.T, w *world) {
		cut <- w.listener.Cut
		ws, challenge := challenged(t, w)
		send(t, ws, proof(secret(2), "relay.example", challenge.Nonce))
		counted(t, w.relay, 1, "registrations_total")
		counted(t, w.relay, 0, "builders")
		_ = ws.CloseNow()
	})
}

func TestRegistrationInTime(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		ws, _ := challenged(t, w)
		begin := time.Now()
		if _, _, err := ws.Read(context.Background()); err == nil {
			t.Error("the relay goes on without a registration")
		}
		if took := time.Since(begin); took != wire.RelayHandshakeTimeout {
			t.Errorf("cut off after %s", took)
		}
		_ = ws.CloseNow()
	})
}

func TestListenSocketRefusesNonsense(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		for name, c := range map[string]struct {
			typ  websocket.MessageType
			data string
			code websocket.StatusCode
		}{
			"binary":   {websocket.MessageBinary, "{}", websocket.StatusUnsupportedData},
			"oversize": {websocket.MessageText, strings.Repeat("x", wire.RelayMaxControl+1), websocket.StatusMessageTooBig},
			"junk":     {websocket.MessageText, "junk", websocket.StatusPolicyViolation},
		} {
			ws := register(t, w, secret(2))
			go func() { _ = ws.Write(context.Background(), c.typ, []byte(c.data)) }()
			for {
				_, _, err := ws.Read(context.Background())
				if err == nil {
					continue
				}
				if got := websocket.CloseStatus(err); got != c.code {
					t.Errorf("%s: closed with %v", name, err)
				}
				break
			}
			_ = ws.CloseNow()
		}
		// A newer builder's messages are passed over.
		ws := register(t, w, secret(2))
		_ = ws.Write(context.Background(), websocket.MessageText, []byte(`{"type":"load","circuits":3}`))
		if m, err := receive(t, ws); err != nil || m.Type != wire.RelayPing {
			t.Errorf("got %v, %v, want the next ping", m, err)
		}
		// Too many of any kind are not.
		for range 3000 {
			if ws.Write(context.Background(), websocket.MessageText, []byte(`{"type":"pong"}`)) != nil {
				break
			}
		}
		closedWith(t, "flood", ws, websocket.StatusPolicyViolation, wire.CodeRelayRate)
	})
}

func TestLimits(t *testing.T) {
	full, rate := wire.CodeRelayFull, wire.CodeRelayRate
	here := func(t *testing.T) context.Context { return linktest.From(t.Context(), "192.0.2.1:1") }
	for name, c := range map[string]struct {
		limits relay.Limits
		// try is called until it fails, which shall be at call number.
		try    func(t *testing.T, w *world) error
		number int
		code   wire.Code
	}{
		"registrations": {relay.Limits{Registrations: 3}, func(t *testing.T, w *world) error {
			_, err := open(t.Context(), w, wire.RouteRelayListen)
			return err
		}, 4, full},
		"registrations of an address": {relay.Limits{RegistrationsPerAddress: 2}, func(t *testing.T, w *world) error {
			_, err := open(here(t), w, wire.RouteRelayListen)
			return err
		}, 3, full},
		"circuits": {relay.Limits{Circuits: 3}, func(t *testing.T, w *world) error {
			return halfOpen(t.Context(), w)
		}, 4, full},
		"circuits to a builder": {relay.Limits{CircuitsPerBuilder: 2}, func(t *testing.T, w *world) error {
			return halfOpen(t.Context(), w)
		}, 3, full},
		"circuits of an address": {relay.Limits{CircuitsPerAddress: 2}, func(t *testing.T, w *world) error {
			return halfOpen(here(t), w)
		}, 3, full},
		"half open": {relay.Limits{HalfOpenPerBuilder: 2}, func(t *testing.T, w *world) error {
			return halfOpen(t.Context(), w)
		}, 3, full},
		"handshakes": {relay.Limits{HandshakeBurst: 5, HandshakesPerSecond: 1}, func(t *testing.T, w *world) error {
			if _, err := open(here(t), w, dialRoute(secret(9))); !errors.Is(err, wire.CodeRelayNoBuilder.Err()) {
				return err
			}
			return nil
		}, 6, rate},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, relay.Config{Limits: c.limits}, func(t *testing.T, w *world) {
				if strings.Contains(name, "circuit") || name == "half open" {
					register(t, w, secret(2))
				}
				for i := 1; ; i++ {
					err := c.try(t, w)
					if err == nil && i < c.number {
						continue
					}
					if i != c.number || wire.CodeOf(err) != c.code {
						t.Errorf("call %d: %v, want %s at call %d", i, err, c.code, c.number)
					}
					break
				}
				if name == "handshakes" {
					// A token comes back, and others have their own.
					<-time.After(time.Second)
					if err := c.try(t, w); err != nil {
						t.Errorf("a second later: %v", err)
					}
					if _, err := open(t.Context(), w, dialRoute(secret(9))); !errors.Is(err, wire.CodeRelayNoBuilder.Err()) {
						t.Errorf("from elsewhere: %v", err)
					}
				}
				w.listener.Cut()
			})
		})
	}
}

// What has ended makes room for one more, and for no more than one.
func TestLimitsCountWhatIsLeft(t *testing.T) {
	listen := func(ctx context.Context, w *world) error {
		ws, err := open(ctx, w, wire.RouteRelayListen)
		if err == nil {
			context.AfterFunc(ctx, func() { _ = ws.CloseNow() })
		}
		return err
	}
	for name, c := range map[string]struct {
		limits relay.Limits
		begin  func(context.Context, *world) error
	}{
		"registrations":               {relay.Limits{Registrations: 2}, listen},
		"registrations of an address": {relay.Limits{RegistrationsPerAddress: 2}, listen},
		"circuits":                    {relay.Limits{Circuits: 2}, halfOpen},
		"circuits to a builder":       {relay.Limits{CircuitsPerBuilder: 2}, halfOpen},
		"circuits of an address":      {relay.Limits{CircuitsPerAddress: 2}, halfOpen},
		"half open":                   {relay.Limits{HalfOpenPerBuilder: 2}, halfOpen},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, relay.Config{Limits: c.limits}, func(t *testing.T, w *world) {
				if c.limits.Registrations+c.limits.RegistrationsPerAddress == 0 {
					register(t, w, secret(2))
				}
				here := linktest.From(t.Context(), "192.0.2.1:1")
				first, end := context.WithCancel(here)
				for _, ctx := range []context.Context{first, here} {
					if err := c.begin(ctx, w); err != nil {
						t.Fatal(err)
					}
				}
				end()
				synctest.Wait()
				if err := c.begin(here, w); err != nil {
					t.Errorf("one has ended: %v", err)
				}
				if err := c.begin(here, w); wire.CodeOf(err) != wire.CodeRelayFull {
					t.Errorf("one too many: %v", err)
				}
				w.listener.Cut()
			})
		})
	}
}

// halfOpen dials and leaves it at that, unless it is refused at once.
func halfOpen(ctx context.Context, w *world) error {
	done := make(chan error, 1)
	go func() {
		_, err := open(ctx, w, dialRoute(secret(2)))
		done <- err
	}()
	synctest.Wait()
	select {
	case err := <-done:
		return err
	default:
		return nil
	}
}

func TestPlainHTTP(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		tr := &http.Transport{DialContext: w.network.DialContext, DisableKeepAlives: true}
		for _, c := range []struct {
			path, protocol string
			upgrade        bool
			status         int
			code           wire.Code
		}{
			{"/healthz", "", false, 200, ""},
			{"/", "", false, 404, wire.CodeNotFound},
			{"/v1/listen", "", true, 426, wire.CodeRelayVersion},
			{"/v1/listen", "drv-thru-relay.2", true, 426, wire.CodeRelayVersion},
			// What proxies that know no WebSocket make of it.
			{"/v1/listen", "", false, 400, wire.CodeRelayRequest},
			{"/v1/listen", wire.RelayProtocol, false, 400, wire.CodeRelayRequest},
			{dialRoute(secret(2)), wire.RelayProtocol, false, 400, wire.CodeRelayRequest},
			{"/v1/dial/short", "drv-thru-relay.2, drv-thru-relay.1", true, 400, wire.CodeRelayRequest},
			{dialRoute(secret(2)), wire.RelayProtocol, true, 404, wire.CodeRelayNoBuilder},
			{"/v1/accept/x", wire.RelayProtocol, true, 404, wire.CodeRelayNoCircuit},
		} {
			req, _ := http.NewRequest(http.MethodGet, relayURL+c.path, nil)
			if c.upgrade {
				socketHeader(req.Header)
				req.Header.Del("Sec-WebSocket-Protocol")
			}
			if c.protocol != "" {
				req.Header.Set("Sec-WebSocket-Protocol", c.protocol)
			}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.status {
				t.Errorf("%s: status %d, want %d", c.path, resp.StatusCode, c.status)
			}
			if upgrade := resp.Header.Get("Upgrade"); (upgrade != "") != (c.status == http.StatusUpgradeRequired) {
				t.Errorf("%s: status %d with Upgrade %q", c.path, c.status, upgrade)
			}
			if c.code == "" {
				if body, _ := io.ReadAll(resp.Body); string(body) != "ok\n" {
					t.Errorf("%s: %q", c.path, body)
				}
			} else if err := wire.ReadError(resp); wire.CodeOf(err) != c.code {
				t.Errorf("%s: %v, want %s", c.path, err, c.code)
			} else if told := (*wire.Error)(nil); c.status == http.StatusUpgradeRequired && (!errors.As(err, &told) || told.Hint == "") {
				t.Errorf("%s: %v does not say what to do", c.path, err)
			}
			_ = resp.Body.Close()
		}
	})
}

// socketHeader sets what asks for a WebSocket.
func socketHeader(h http.Header) {
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
	h.Set("Sec-WebSocket-Version", "13")
	h.Set("Sec-WebSocket-Key", "MDEyMzQ1Njc4OWFiY2RlZg==")
	h.Set("Sec-WebSocket-Protocol", wire.RelayProtocol)
}

// What asks for no WebSocket, such as what a proxy makes of a handshake that it does not
// know, is told so and counted, and no builder is called for it.
func TestHandshakesThatAreNone(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		listen := register(t, w, secret(2))
		go answerPings(listen)
		tr := &http.Transport{DialContext: w.network.DialContext, DisableKeepAlives: true}
		begin := time.Now()
		cases := map[string]func(*http.Request){
			"Upgrade and Connection left out": func(r *http.Request) {
				r.Header.Del("Upgrade")
				r.Header.Set("Connection", "close")
			},
			"Upgrade left out":    func(r *http.Request) { r.Header.Del("Upgrade") },
			"Connection left out": func(r *http.Request) { r.Header.Del("Connection") },
			"another upgrade":     func(r *http.Request) { r.Header.Set("Upgrade", "h2c") },
			"no key":              func(r *http.Request) { r.Header.Del("Sec-WebSocket-Key") },
			"two keys":            func(r *http.Request) { r.Header.Add("Sec-WebSocket-Key", "MDEyMzQ1Njc4OWFiY2RlZg==") },
			"a short key":         func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "MDEyMw==") },
			"another version":     func(r *http.Request) { r.Header.Set("Sec-WebSocket-Version", "8") },
			"HEAD":                func(r *http.Request) { r.Method = http.MethodHead },
		}
		routes := map[string]string{"dial": dialRoute(secret(2)), "listen": wire.RouteRelayListen}
		for name, change := range cases {
			for route, path := range routes {
				req, _ := http.NewRequest(http.MethodGet, relayURL+path, nil)
				socketHeader(req.Header)
				change(req)
				resp, err := tr.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				if err := wire.ReadError(resp); req.Method == http.MethodGet && wire.CodeOf(err) != wire.CodeRelayRequest {
					t.Errorf("%s, %s: %s, %v", name, route, resp.Status, err)
				}
				if resp.StatusCode != http.StatusBadRequest {
					t.Errorf("%s, %s: %s", name, route, resp.Status)
				}
				_ = resp.Body.Close()
			}
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("a builder was waited for, %s", waited)
		}
		for route := range routes {
			counted(t, w.relay, float64(len(cases)), "refused_total", string(wire.CodeRelayRequest), route)
		}
		_ = listen.CloseNow()
	})
}

func TestRefusalForABrowser(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		ws, err := open(t.Context(), w, dialRoute(secret(2))+"?errors=socket")
		if err != nil {
			t.Fatal(err)
		}
		m, err := receive(t, ws)
		if err != nil || m.Type != wire.RelayRefused || m.Code != wire.CodeRelayNoBuilder {
			t.Errorf("got %v, %v", m, err)
		}
		_ = ws.CloseNow()
	})
}

// startProxy runs an HTTP proxy that joins connections and counts them.
func startProxy(t *testing.T, network *linktest.Network, address string) *atomic.Int32 {
	t.Helper()
	var count atomic.Int32
	l := network.Listen(address)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		count.Add(1)
		host := r.Host
		if r.Method != http.MethodConnect {
			host += ":80"
		}
		target, err := network.DialContext(r.Context(), "memory", host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		client, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		if r.Method == http.MethodConnect {
			_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		} else {
			_ = r.Write(target) // a WebSocket over plain HTTP, with its headers
		}
		go func() {
			defer target.Close()
			_, _ = io.Copy(target, rw)
		}()
		defer client.Close()
		_, _ = io.Copy(client, target)
	})}
	go srv.Serve(l)
	t.Cleanup(func() { _ = srv.Close() })
	return &count
}
