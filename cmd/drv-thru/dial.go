package main

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"time"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
)

// dialed is an open connection to a builder.
type dialed struct {
	*client.API
	link *link.Session
}

// dial connects to the route's builder. The caller closes the link.
func (r *route) dial(ctx context.Context, log *slog.Logger) (*dialed, error) {
	identity := r.identity
	if identity.IsZero() {
		// A new key each time: nothing links the builds of two tickets.
		var err error
		if identity, err = key.NewSecret(rand.Reader); err != nil {
			return nil, err
		}
	}
	cfg := link.Config{
		Identity: identity, Peer: r.builder, Relays: r.relays, Log: log, Header: r.header(),
		Network: link.Network{Proxy: http.ProxyFromEnvironment, Agent: softwareName()},
	}
	if !r.relayOnly {
		cfg.Addresses = r.direct
		cfg.Direct = &link.Direct{STUN: r.stun, Rand: rand.Reader}
	}
	session, err := link.Dial(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &dialed{link: session, API: &client.API{
		Control: loggedTransport{session.Control(), log}, Bulk: loggedTransport{session.Bulk(), log}, Base: link.BaseURL,
		Ticket: r.ticket, Agent: softwareName(),
	}}, nil
}

// session makes builds over the connection, and tells o how they go.
func (d *dialed) session(o client.Observer) *client.Session {
	return &client.Session{API: d.API, Files: client.StoreFiles{}, Observer: o, Retry: client.DefaultRetry, Now: time.Now}
}

// header is what every request to the route's builder carries.
func (r *route) header() http.Header {
	return (&client.API{Ticket: r.ticket, Agent: softwareName()}).Header()
}

// loggedTransport tells of every request: how many there are is what a slow
// line feels first.
type loggedTransport struct {
	http.RoundTripper
	log *slog.Logger
}

func (t loggedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := t.RoundTripper.RoundTrip(req)
	attrs := []any{"method", req.Method, "path", req.URL.Path, "took", time.Since(began)}
	if err != nil {
		attrs = append(attrs, "err", err)
	} else {
		attrs = append(attrs, "status", resp.StatusCode)
	}
	t.log.Debug("request", attrs...)
	return resp, err
}
