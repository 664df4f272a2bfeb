package main

import (
	"context"
	"log/slog"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/link"
)

// dialed is an open connection to a builder.
type dialed struct {
	*client.API
	link *link.Session
}

// dial connects to the route's builder. The caller closes the link.
func (r *route) dial(ctx context.Context, relayOnly bool, stun []string, log *slog.Logger) (*dialed, error) {
	cfg, err := r.link(relayOnly, stun, log)
	if err != nil {
		return nil, err
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
