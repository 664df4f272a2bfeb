package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/relay"
)

// defaultEmbeddedRelay is where the relay inside serve listens.
const defaultEmbeddedRelay = ":7411"

// embeddedRelay is the relay inside serve. Clients reach it at a public
// listener, where no builder can register; the builder itself registers at a
// loopback listener of its own. Every user of the machine and every fixed-output build
// reaches that too: so it takes this process's connections alone, which have a token
// and are not counted among those of the machine's address.
type embeddedRelay struct {
	relay   *relay.Server
	private *ownListener
	own     string          // the builder's own URL of it
	token   string          // and what it shows there
	urls    func() []string // what tickets say; a machine's addresses change
}

func startEmbeddedRelay(cfg *serveConfig, log *slog.Logger, failed func(error)) (*embeddedRelay, error) {
	l, err := net.Listen("tcp", cfg.EmbeddedRelay)
	if err != nil {
		return nil, &hintError{fmt.Errorf("embedded relay: %w", err),
			"listen elsewhere with --embedded-relay=ADDR, or use a relay with --relay URL"}
	}
	private, err := listenOwn()
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("embedded relay: %w", err)
	}
	token := rand.Text()
	peer := relay.ForwardedBy(nil)
	config := relay.Config{Log: log, Access: relay.AllowTokens([]string{token}), ClientAddr: func(r *http.Request) netip.Addr {
		if r.Context().Value(http.LocalAddrContextKey).(net.Addr).String() == private.Addr().String() {
			return netip.Addr{}
		}
		return peer(r)
	}}
	// STUN at the relay's own port; without it, direct paths are harder to find.
	packets, err := net.ListenPacket("udp", l.Addr().String())
	if err == nil {
		config.STUN = fmt.Sprintf(":%d", packets.LocalAddr().(*net.UDPAddr).Port)
	} else {
		log.Warn("the embedded relay answers no STUN", slog.Any("error", err))
	}
	e := &embeddedRelay{relay: relay.New(config), private: private, own: "http://" + private.Addr().String(), token: token}
	if packets != nil {
		go func() { _ = e.relay.ServeSTUN(packets.(*net.UDPConn)) }()
	}
	urls := cfg.EmbeddedRelayURLs
	e.urls = func() []string { return urls }
	if len(urls) == 0 {
		if urls, err = reachableURLs(l.Addr()); err != nil {
			return nil, errors.Join(err, l.Close(), private.Close())
		}
		e.urls = func() []string {
			if now, err := reachableURLs(l.Addr()); err == nil {
				return now
			}
			return urls
		}
	}
	go func() { failed(e.relay.Serve(private)) }()
	go func() { failed(e.relay.ServeClients(l)) }()
	return e, nil
}

// network is n with the way to the builder's own listener.
func (e *embeddedRelay) network(n link.Network) link.Network {
	n.DialContext = e.private.dial
	return n
}

// setRelayToken takes a --relay-token-file.
func (c *serveConfig) setRelayToken(text string) error {
	at := strings.LastIndexByte(text, '=')
	if at < 1 || at == len(text)-1 {
		return usagef("--relay-token-file %s: want URL=FILE", text)
	}
	if c.RelayTokenFiles == nil {
		c.RelayTokenFiles = make(map[string]string)
	}
	c.RelayTokenFiles[text[:at]] = text[at+1:]
	return nil
}

// relayToken reads the tokens of relays that let in only builders they know.
// Each goes to its own relay alone.
func (c *serveConfig) relayToken() (func(relay string) string, error) {
	tokens := make(map[string]string)
	for text, path := range c.RelayTokenFiles {
		relay, err := link.RelayURL(text)
		if err != nil {
			return nil, usagef("relay_token_files: %s", err)
		}
		if !slices.ContainsFunc(c.Relays, func(r string) bool {
			u, err := link.RelayURL(r)
			return err == nil && u == relay
		}) {
			return nil, usagef("there is a token for %s, which is none of the relays", relay)
		}
		token, err := key.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("token of relay %s: %w", relay, err)
		}
		tokens[relay] = strings.TrimSpace(string(token))
	}
	return func(relay string) string { return tokens[relay] }, nil
}

// unnamedRelays warns of relays that tickets have no room for, "" if there are none.
func unnamedRelays(relays []string) string {
	if len(relays) <= ticket.MaxRelays {
		return ""
	}
	return fmt.Sprintf("there are %d relays, of which tickets name the first %d: they have room for no more", len(relays), ticket.MaxRelays)
}

// reachableURLs lists the addresses at which others may reach the listener.
func reachableURLs(addr net.Addr) ([]string, error) {
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return nil, fmt.Errorf("embedded relay: %w", err)
	}
	if !at.Addr().IsUnspecified() {
		return []string{"http://" + at.String()}, nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("embedded relay: %w", err)
	}
	var urls []string
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || !prefix.Addr().IsGlobalUnicast() {
			continue
		}
		urls = append(urls, "http://"+netip.AddrPortFrom(prefix.Addr(), at.Port()).String())
	}
	if len(urls) == 0 {
		urls = []string{fmt.Sprintf("http://127.0.0.1:%d", at.Port())}
	}
	return urls, nil
}
