package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/wire"
)

func newSecret(t *testing.T) key.Secret {
	t.Helper()
	s, err := key.NewSecret(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func embedRelay(t *testing.T) *embeddedRelay {
	t.Helper()
	e, err := startEmbeddedRelay(&serveConfig{EmbeddedRelay: "127.0.0.1:0"}, slog.New(slog.DiscardHandler), func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.stop)
	return e
}

// listenAt registers a builder at a relay that is inside it.
func listenAt(t *testing.T, e *embeddedRelay, identity key.Secret, token func(string) string) *link.Listener {
	t.Helper()
	circuits, err := link.Listen(link.ListenConfig{Identity: identity, Relays: []string{e.own}, Token: token, Network: e.network(link.Network{})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = circuits.Close() })
	return circuits
}

func TestEmbeddedRelay(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	e := embedRelay(t)
	urls := e.urls()
	if len(urls) != 1 {
		t.Fatalf("urls %v", urls)
	}
	builder := newSecret(t)
	circuits := listenAt(t, e, builder, (&reloader{embedded: e}).token)
	srv, err := link.NewServer(builder, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	go srv.ServeTLS(circuits, "", "")
	defer srv.Close()
	if err := circuits.Registered(ctx); err != nil {
		t.Fatal(err)
	}
	// status says where clients find it, not by which door the builder goes in.
	if got := (&reloader{embedded: e}).relayStatus(circuits.Status()); len(got) != 1 || got[0] != (admin.Relay{URL: urls[0], Registered: true}) {
		t.Errorf("status: %+v, clients come to %v", got, urls)
	}
	session, err := link.Dial(ctx, link.Config{Identity: newSecret(t), Peer: builder.ID(), Relays: urls})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, link.BaseURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := session.Control().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "hello" {
		t.Errorf("%q, %v", body, err)
	}
	// Nobody else can register where clients come in.
	other, err := link.Listen(link.ListenConfig{Identity: newSecret(t), Relays: urls})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if s := settled(t, ctx, other); s.Connected || wire.CodeOf(s.Err) != wire.CodeNotFound {
		t.Errorf("a stranger: connected %v, %v", s.Connected, s.Err)
	}
}

// settled waits until the only relay has let a builder in or refused it.
func settled(t *testing.T, ctx context.Context, l *link.Listener) link.RelayStatus {
	t.Helper()
	for {
		changed := l.Changed()
		if s := l.Status()[0]; s.Connected || s.Err != nil {
			return s
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("neither let in nor refused")
		}
	}
}

func TestReachableURLs(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:80":     "http://192.0.2.1:80",
		"[2001:db8::1]:80": "http://[2001:db8::1]:80",
	} {
		urls, err := reachableURLs(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		if err != nil || len(urls) != 1 || urls[0] != want {
			t.Errorf("%s: %v, %v", addr, urls, err)
		}
	}
	urls, err := reachableURLs(&net.TCPAddr{IP: net.IPv6unspecified, Port: 7411})
	if err != nil || len(urls) == 0 {
		t.Errorf("%v, %v", urls, err)
	}
}

// Fixed outputs have the network of the machine, and so has every user of it: nobody but
// the builder registers at its relay, whose room it needs for itself.
func TestEmbeddedRelayTakesNobodyElse(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	e := embedRelay(t)
	for _, c := range []struct {
		token func(string) string
		want  bool
	}{{(&reloader{embedded: e}).token, true}, {nil, false}} {
		s := settled(t, ctx, listenAt(t, e, newSecret(t), c.token))
		if s.Connected != c.want || !c.want && wire.CodeOf(s.Err) != wire.CodeRelayAccess {
			t.Errorf("builder %v: connected %v, %v", c.want, s.Connected, s.Err)
		}
	}
}

// Whoever has the network of the machine, as its users and fixed-output builds do, can take
// neither the builder's place at its own listener nor its share of handshakes.
func TestEmbeddedRelayIsNotCrowded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	e := embedRelay(t)
	var silent []net.Conn
	defer func() {
		for _, c := range silent {
			_ = c.Close()
		}
	}()
	const tooMany = 300 // one address may have 256 connections that ask for nothing
	for range tooMany {
		c, err := net.Dial("tcp", strings.TrimPrefix(e.own, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
	}
	// Once the last one is closed, all have been seen.
	if _, err := silent[tooMany-1].Read(make([]byte, 1)); err == nil {
		t.Fatal("it says something")
	}
	for limited := false; !limited; {
		resp, err := http.Get(e.urls()[0] + "/v1/dial/somebody")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		limited = resp.StatusCode == http.StatusTooManyRequests
	}
	if s := settled(t, ctx, listenAt(t, e, newSecret(t), (&reloader{embedded: e}).token)); !s.Connected {
		t.Errorf("the builder: %v", s.Err)
	}
}

// A relay is somebody else's: what it says ends on the terminal of the builder's owner,
// but steers nothing there.
func TestRelayCannotSteerTerminal(t *testing.T) {
	const evil = "\x1b]0;mine\x07\x1b[2Jgone\u009b1m"
	problem, err := json.Marshal(wire.Error{Code: evil, Detail: evil, Hint: evil})
	if err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string]http.HandlerFunc{
		"problem": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", wire.TypeProblem)
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write(problem)
		},
		"status line": func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(c, "HTTP/1.1 403 "+evil+"\r\nContent-Length: 0\r\n\r\n")
				_ = c.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			relay := httptest.NewServer(answer)
			defer relay.Close()
			circuits, err := link.Listen(link.ListenConfig{Identity: newSecret(t), Relays: []string{relay.URL}})
			if err != nil {
				t.Fatal(err)
			}
			defer circuits.Close()
			settled(t, t.Context(), circuits)
			var out bytes.Buffer
			a := &app{stdout: &out, stderr: &out}
			a.warnOfRelays(circuits.Status())
			st := &admin.Status{Relays: new(reloader).relayStatus(circuits.Status())}
			v := statusView{p: term.New(&out, a.env), now: time.Now()}
			out.WriteString(v.text(st))
			if text := out.String(); !strings.Contains(text, "gone") || strings.ContainsAny(text, "\x1b\x07\u009b") {
				t.Errorf("%q", text)
			}
		})
	}
}

// The builder's owner learns what to do, as clients do.
func TestRelayWarningHasAHint(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer page.Close()
	circuits, err := link.Listen(link.ListenConfig{Identity: newSecret(t), Relays: []string{page.URL}})
	if err != nil {
		t.Fatal(err)
	}
	defer circuits.Close()
	settled(t, t.Context(), circuits)
	var out bytes.Buffer
	(&app{stderr: &out}).warnOfRelays(circuits.Status())
	if text := out.String(); !strings.Contains(text, "200 OK; trying on\nhint: check the URL") {
		t.Errorf("%q", text)
	}
}
