package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/ticket"
)

// listenNone turns direct paths off.
const listenNone = "none"

// directListen is what the configuration says of direct paths.
type directListen struct {
	off      bool
	at       netip.AddrPort
	announce []netip.AddrPort
	stun     []string
}

// direct reads the settings of direct paths.
func (c *serveConfig) direct() (directListen, error) {
	var d directListen
	if c.Listen == listenNone {
		if len(c.Announce) > 0 {
			return d, usagef("--announce=%s leads to --listen, which is none", c.Announce[0])
		}
		d.off = true
		return d, checkSTUN(c.STUN)
	}
	if c.Listen != "" {
		host, portText, err := net.SplitHostPort(c.Listen)
		port, perr := strconv.ParseUint(portText, 10, 16)
		if err != nil || perr != nil {
			return d, usagef("--listen=%s: want :PORT, ADDRESS:PORT or none", c.Listen)
		}
		addr := netip.Addr{}
		if host != "" {
			if addr, err = netip.ParseAddr(host); err != nil || addr.Zone() != "" {
				return d, usagef("--listen=%s: %q is not an IP address", c.Listen, host)
			}
		}
		d.at = netip.AddrPortFrom(addr, uint16(port))
	}
	for _, text := range c.Announce {
		at, err := netip.ParseAddrPort(text)
		if err != nil || at.Port() == 0 || at.Addr().Zone() != "" || at.Addr().IsUnspecified() {
			return d, usagef("--announce=%s: want ADDRESS:PORT", text)
		}
		d.announce = append(d.announce, at)
	}
	if len(d.announce) > ticket.MaxDirect {
		return d, usagef("%d addresses to announce; at most %d fit into a ticket", len(d.announce), ticket.MaxDirect)
	}
	d.stun = c.STUN
	return d, checkSTUN(c.STUN)
}

// checkSTUN checks the STUN servers that were named.
func checkSTUN(named []string) error {
	for _, s := range named {
		host, portText, err := net.SplitHostPort(s)
		port, perr := strconv.ParseUint(portText, 10, 16)
		if err != nil || perr != nil || host == "" || port == 0 {
			return usagef("--stun=%s: want HOST:PORT", s)
		}
	}
	return nil
}

// directPaths are the direct paths of a builder, which may be off.
type directPaths struct{ l *link.DirectListener }

func openDirect(ctx context.Context, cfg *serveConfig, identity key.Secret, svc *builder.Service, circuits *link.Listener, log *slog.Logger) (*directPaths, error) {
	d, err := cfg.direct()
	if err != nil || d.off {
		return &directPaths{}, err
	}
	l, err := link.ListenDirect(link.DirectConfig{
		Identity: identity, Listen: d.at, Announce: d.announce, STUN: func() []string { return stunOf(d.stun, circuits) },
		MapPorts: len(d.announce) == 0, Authorize: svc.Authorize, Log: log,
	})
	if err != nil {
		return nil, &hintError{err, "listen elsewhere with --listen ADDR, or nowhere with --listen none"}
	}
	go func() {
		for {
			changed := circuits.Changed()
			l.Renew()
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return &directPaths{l}, nil
}

// stunOf returns the STUN servers that were named, else those of the relays.
func stunOf(named []string, circuits *link.Listener) []string {
	if len(named) > 0 {
		return named
	}
	var out []string
	for _, r := range circuits.Status() {
		if r.STUN != "" {
			out = append(out, r.STUN)
		}
	}
	return out
}

func (d *directPaths) Close() error {
	if d.l == nil {
		return nil
	}
	return d.l.Close()
}

func (d *directPaths) handler(h http.Handler) http.Handler {
	if d.l == nil {
		return link.NoDirect(h)
	}
	return d.l.Handler(h)
}

func (d *directPaths) serve(server *http.Server) error {
	if d.l == nil {
		return nil
	}
	return d.l.Serve(server)
}

func (d *directPaths) addresses() []netip.AddrPort {
	if d.l == nil {
		return nil
	}
	return d.l.Addresses()
}

func (d *directPaths) status() *link.DirectStatus {
	if d.l == nil {
		return nil
	}
	st := d.l.Status()
	return &st
}
