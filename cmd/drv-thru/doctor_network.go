package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// farAway is a round of handshakes that makes builds feel slow.
	farAway = time.Second
	// mostSkew is how far clocks may be apart: certificates and tickets' expiry
	// depend on them.
	mostSkew = 2 * time.Minute
	// pathWait is how long a direct path has to come up.
	pathWait = 8 * time.Second
)

// relayURLs are the relays to check.
func (e *examination) relayURLs() []string {
	var own []string // of a ticket, with those that the command line names
	if e.route != nil {
		own = e.route.relays
	}
	return distinct(slices.Concat(own, e.flags.relays))
}

// relays checks every relay.
func (e *examination) relays(ctx context.Context) {
	for _, u := range e.relayURLs() {
		nobody, err := key.NewSecret(rand.Reader)
		if err != nil {
			e.add("relay", broken, "", "%v", err)
			return
		}
		r := link.CheckRelay(ctx, link.Network{Proxy: http.ProxyFromEnvironment, Agent: softwareName()}, u, nobody.ID())
		if r.STUN != "" {
			e.stun = append(e.stun, r.STUN)
		}
		switch {
		case r.Err != nil && e.proxyOf(u) != nil:
			e.add("relay", broken, cmp.Or(hintOf(r.Err), "the proxy has to let WebSockets through to "+u+"; or set NO_PROXY for it"), "%v", r.Err)
		case r.Err != nil:
			e.add("relay", broken, cmp.Or(hintOf(r.Err), "check the URL, the network and its firewall"), "%v", r.Err)
		case r.Latency > farAway:
			e.add("relay", slow, "use a relay that is nearer, if there is one", "%s answers after %s", u, milliseconds(r.Latency))
		default:
			e.add("relay", fine, "", "%s answers after %s", u, milliseconds(r.Latency))
		}
		if r.HasTime {
			e.clock("relay", r.Skew)
		}
	}
}

// clock tells how this machine's clock compares with another's.
func (e *examination) clock(whose string, skew time.Duration) {
	if skew.Abs() > mostSkew {
		e.add("clock", broken, "set the clock that is wrong: timedatectl set-ntp true", "this machine's clock differs from the %s's by %s", whose, skew)
	} else {
		e.add("clock", fine, "", "agrees with the %s's", whose)
	}
}

// clockReader compares clocks with whoever answers.
type clockReader struct {
	http.RoundTripper
	skew  time.Duration
	known bool
}

func (c *clockReader) RoundTrip(req *http.Request) (*http.Response, error) {
	begin := time.Now()
	resp, err := c.RoundTripper.RoundTrip(req)
	if err == nil {
		c.skew, c.known = link.ClockSkew(resp, begin)
	}
	return resp, err
}

// proxies tells which relays are reached through which proxy. That the environment
// names one does not mean that it is used: NO_PROXY, the scheme and the host count, too.
func (e *examination) proxies() {
	relays, used := e.relayURLs(), false
	for _, u := range relays {
		if p := e.proxyOf(u); p != nil {
			used = true
			e.add("proxy", known, "", "%s is reached through %s, direct paths go past it", u, p.Redacted())
		}
	}
	var set []string
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"} {
		if e.app.env(name)+e.app.env(strings.ToLower(name)) != "" {
			set = append(set, name)
		}
	}
	if len(set) > 0 && len(relays) > 0 && !used {
		e.add("proxy", known, "if it should be: https:// relays take HTTPS_PROXY, http:// ones HTTP_PROXY; NO_PROXY leaves out, and nothing heeds ALL_PROXY",
			"%s set, but no relay is reached through it", strings.Join(set, " and "))
	}
}

// proxyOf is the proxy through which a relay is reached, nil for none.
func (e *examination) proxyOf(relay string) *url.URL {
	req, err := http.NewRequest(http.MethodGet, relay, nil)
	if err != nil {
		return nil
	}
	proxy, _ := http.ProxyFromEnvironment(req)
	return proxy
}

// network checks what direct paths can hope for.
func (e *examination) network(ctx context.Context) {
	servers := []string(e.flags.stun)
	if len(servers) == 0 {
		servers = e.stun
	}
	r := link.Survey(ctx, servers)
	switch {
	case r.Err != nil:
		e.add("network", slow, "", "no direct paths: %v", r.Err)
		return
	case len(servers) == 0 && len(e.relayURLs()) == 0:
		e.add("network", known, "", "without a relay or --stun there is no STUN server to ask what translates this network's addresses")
	case len(servers) == 0:
		e.add("network", known, "", "no relay has named a STUN server to ask what translates this network's addresses (see --stun)")
	case r.NAT == wire.NATBlocked:
		e.add("network", slow, "let UDP out, and its answers in, here and at the relay: its UDP port may be closed; builds work through relays meanwhile", "%s", natText(r.NAT))
	case r.NAT == wire.NATSymmetric:
		e.add("network", slow, "on the router, turn on UPnP or PCP, or turn off the randomizing of ports", "%s", natText(r.NAT))
	case r.NAT == wire.NATUnknown:
		e.add("network", known, "", "%s", natText(r.NAT))
	default:
		e.add("network", fine, "", "%s", natText(r.NAT))
	}
	if r.Mapping.UDP.IsValid() {
		e.add("port mapping", fine, "", "the router forwards ports when asked: %s", r.Mapping)
	} else {
		e.add("port mapping", known, "", "%s", r.Mapping)
	}
}

// builder checks the way to the builder, and the ticket or key for it.
func (e *examination) builder(ctx context.Context) {
	b, err := e.route.dial(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		e.add("builder", broken, hintOf(err), "%v", err)
		return
	}
	defer b.link.Close()
	clock := &clockReader{RoundTripper: b.Control}
	b.Control = clock
	info, err := b.Info(ctx, "")
	if clock.known {
		e.clock("builder", clock.skew) // by which tickets expire
	}
	code := wire.CodeOf(err)
	switch {
	case code == wire.CodeNoCredentials && e.route.ticket == nil:
		e.add("builder", broken, trustMeHint(e.route), "%v", err)
	case strings.HasPrefix(string(code), "ticket."):
		e.add("ticket", broken, cmp.Or(hintOf(err), ticketFix(code)), "%v", err)
	case err != nil:
		e.add("builder", broken, hintOf(err), "%v", err)
		return
	default:
		e.add("builder", fine, "", "%s with Nix %s, %d of %d slots in use", info.Software, info.NixVersion, info.Active, info.Slots)
		if err := e.route.checkKey(info.SigningKey); err != nil {
			e.add("builder", broken, hintOf(err), "%v", err)
		}
		e.signingKey(ctx, info.SigningKey)
	}
	wctx, cancel := context.WithTimeout(ctx, pathWait)
	defer cancel()
	b.link.Settled(wctx)
	switch {
	case b.link.Path().Kind != link.PathRelay:
		e.add("path", fine, "", "%s", b.link.Explain())
	case err == nil: // to whom it refuses, a builder does not say where it is
		e.add("path", slow, "builds work, but all bytes go through the relay; see the lines on the network, here and in drv-thru status on the builder", "%s", b.link.Explain())
	}
}

// ticketFix is what to do about a ticket that the builder does not take.
func ticketFix(code wire.Code) string {
	if code == wire.CodeTicketBound {
		return "build with the key that it is bound to (--key-file), or ask the builder's owner for one that is bound to yours, which drv-thru key show prints"
	}
	return "ask the builder's owner for another ticket"
}

// signingKey checks whether what the builder signs can be imported.
func (e *examination) signingKey(ctx context.Context, signer string) {
	store, err := e.app.dialStore(ctx)
	if err != nil {
		return // nix has said so
	}
	defer store.Close()
	trust, err := e.app.userTrust(ctx, store)
	if err != nil {
		return
	}
	help, err := e.app.trusted(ctx, trust, signer, "auto", slog.New(slog.DiscardHandler))
	switch {
	case err != nil:
		e.add("signing key", broken, cmp.Or(hintOf(err), "add it to trusted-public-keys in /etc/nix/nix.conf: "+signer), "%v", err)
	case help != nil:
		e.add("signing key", fine, "", "outputs signed by %s can be imported by the import helper", signer)
	default:
		e.add("signing key", fine, "", "outputs signed by %s can be imported", signer)
	}
}

// natText says what a kind of address translation means.
func natText(n wire.NAT) string {
	switch n {
	case wire.NATNone:
		return "no router translates its address; a firewall may still keep others out"
	case wire.NATCone:
		return "behind a router that direct paths get through"
	case wire.NATSymmetric:
		return "behind a router that gives every connection another port: direct paths only to open networks"
	case wire.NATBlocked:
		return "no STUN server answers, so no direct path through routers is possible"
	}
	return "not known: it takes two STUN servers to tell (see --stun)"
}
