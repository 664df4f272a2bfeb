//go:build !js && !wasip1

package link

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
)

// A request with a header of no use to anybody reaches no handler, by no protocol: it
// would be kept for as long as its answer takes.
func TestLargeHeader(t *testing.T) {
	for kind, quicOnly := range map[PathKind]bool{PathDirectTCP: false, PathDirectQUIC: true} {
		t.Run(string(kind), func(t *testing.T) {
			b := serveDirect(t, func(cfg *DirectConfig) { cfg.quicOnly = quicOnly })
			s := directSession(t, Config{}, &relayed{wayTo{network: &b.network, address: "b"}})
			s.waitFor(t, kind)
			for _, rt := range []http.RoundTripper{s.Control(), s.Bulk()} {
				if text, err := do(rt, http.MethodGet, "x", nil); err != nil {
					t.Fatalf("got %q, %v", text, err)
				}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, BaseURL+"x", nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Large", strings.Repeat("x", 32<<10))
				resp, err := rt.RoundTrip(req)
				if err != nil {
					continue // HTTP/2 tells clients beforehand
				}
				if resp.Body.Close(); resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
					t.Errorf("%s: %s", resp.Proto, resp.Status)
				}
			}
		})
	}
}

// hurry makes read deadlines pass at once.
type hurry struct{ http.ResponseWriter }

func (h hurry) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		t = time.Now()
	}
	return http.NewResponseController(h.ResponseWriter).SetReadDeadline(t)
}

// An exchange of addresses waits for its document only for a while.
func TestExchangeThatDoesNotEnd(t *testing.T) {
	d := serveDirect(t, nil).listen
	srv, err := NewServer(secret(t, 2), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.Handler(http.NotFoundHandler()).ServeHTTP(hurry{w}, r)
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewUnstartedServer(nil)
	go srv.ServeTLS(ts.Listener, "", "")
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	cfg, err := secret(t, 1).ClientTLS(secret(t, 2).ID())
	if err != nil {
		t.Fatal(err)
	}
	body, never := io.Pipe()
	defer never.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+ts.Listener.Addr().String()+wire.RoutePath, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "me")
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("%s by %s", resp.Status, resp.Proto)
	}
}

// What a stranger, or a client that goes on with another connection, can cause is nothing that
// a log should be full of.
func TestErrorLog(t *testing.T) {
	for text, want := range map[string]string{
		"http2: server: error reading preface from client 192.0.2.2:1: connection reset by peer": "DEBUG",
		"http2: server connection error from 192.0.2.2:1: PROTOCOL_ERROR":                        "DEBUG",
		"http: TLS handshake error from 192.0.2.2:1: EOF":                                        "DEBUG",
		"http: Accept error: too many open files; retrying in 5ms":                               "WARN",
		"http2: panic serving 192.0.2.2:1: nil map":                                              "ERROR",
	} {
		var b strings.Builder
		log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))
		if _, err := (errorLog{log}).Write([]byte(text + "\n")); err != nil || !strings.Contains(b.String(), "level="+want+" msg=\""+text) {
			t.Errorf("want level %s: %s%v", want, b.String(), err)
		}
	}
}
