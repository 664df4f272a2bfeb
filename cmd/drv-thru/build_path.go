package main

import (
	"crypto/rand"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/wire"
)

// link says how to reach the builder of a route.
func (r *route) link(relayOnly bool, stun []string, log *slog.Logger) (link.Config, error) {
	cfg := link.Config{
		Identity: r.identity, Peer: r.builder, Relays: r.relays, Log: log,
		Network: link.Network{Proxy: http.ProxyFromEnvironment, Agent: softwareName()},
		Header: http.Header{
			wire.HeaderVersion: {strconv.Itoa(wire.Version)},
			wire.HeaderAgent:   {softwareName()},
		},
	}
	if r.ticket != nil {
		cfg.Header.Set("Authorization", "Bearer "+r.ticket.Text())
	}
	if relayOnly {
		return cfg, nil
	}
	servers, err := stunServers(stun)
	if err != nil {
		return cfg, err
	}
	cfg.Addresses = r.direct
	cfg.Direct = &link.Direct{STUN: servers, Rand: rand.Reader}
	return cfg, nil
}

// natText says what a kind of address translation means.
func natText(n wire.NAT) string {
	switch n {
	case wire.NATNone:
		return "reachable at its own address"
	case wire.NATCone:
		return "behind a router that direct paths get through"
	case wire.NATSymmetric:
		return "behind a router that gives every connection another port: direct paths only to open networks"
	case wire.NATBlocked:
		return "no STUN server answers: UDP does not come back, and no direct path through routers is possible"
	}
	return "not known: it takes two STUN servers to tell (see --stun)"
}
