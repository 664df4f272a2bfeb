package main

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/link"
)

// remote is an open connection to a builder.
type remote struct {
	*client.API
	link *link.Session
}

// dial connects to the route's builder. The caller closes the link.
func (r *route) dial(ctx context.Context, log *slog.Logger) (*remote, error) {
	session, err := link.Dial(ctx, link.Config{
		Identity: r.identity, Peer: r.builder, Relays: r.relays,
		Network: link.Network{Proxy: http.ProxyFromEnvironment, Agent: softwareName()}, Log: log,
	})
	if err != nil {
		return nil, err
	}
	return &remote{link: session, API: &client.API{
		Control: loggedTransport{session.Control(), log}, Bulk: loggedTransport{session.Bulk(), log}, Base: link.BaseURL,
		Ticket: r.ticket, Agent: softwareName(),
	}}, nil
}
