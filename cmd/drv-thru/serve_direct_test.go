package main

import (
	"crypto/rand"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pion/stun/v3"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/link/linktest"
)

func TestDirectSettings(t *testing.T) {
	for text, want := range map[string]directListen{
		"":                   {},
		"none":               {off: true},
		":7412":              {at: netip.AddrPortFrom(netip.Addr{}, 7412)},
		"192.0.2.1:7412":     {at: netip.MustParseAddrPort("192.0.2.1:7412")},
		"[2001:db8::1]:7412": {at: netip.MustParseAddrPort("[2001:db8::1]:7412")},
	} {
		d, err := (&serveConfig{Listen: text}).direct()
		if err != nil || d.off != want.off || d.at != want.at {
			t.Errorf("%q: %+v, %v", text, d, err)
		}
	}
	for name, c := range map[string]serveConfig{
		"no port":          {Listen: "192.0.2.1"},
		"host name":        {Listen: "example.org:1"},
		"zone":             {Listen: "[fe80::1%eth0]:7412"},
		"port":             {Listen: ":70000"},
		"announced name":   {Announce: []string{"example.org:7412"}},
		"announced port":   {Announce: []string{"192.0.2.1:0"}},
		"STUN port":        {STUN: []string{"stun.example.org"}},
		"announced a lot":  {Announce: slices.Repeat([]string{"192.0.2.1:7412"}, 17)},
		"announced any":    {Announce: []string{"[::]:7412"}},
		"announced none":   {Listen: "none", Announce: []string{"192.0.2.1:7412"}},
		"STUN host":        {STUN: []string{":3478"}},
		"STUN port 0":      {STUN: []string{"stun.example.org:0"}},
		"STUN port large":  {STUN: []string{"stun.example.org:65536"}},
		"STUN when off":    {Listen: "none", STUN: []string{"stun.example.org:stun"}},
		"STUN without end": {STUN: []string{"stun.example.org:"}},
	} {
		if d, err := c.direct(); err == nil {
			t.Errorf("%s: %+v", name, d)
		}
	}
	var off directPaths
	if off.addresses() != nil || off.status() != nil || off.serve(nil) != nil || off.Close() != nil {
		t.Error("direct paths that are off do something")
	}
}

// Whenever something happens to a relay, the network is looked at anew: it is what may
// have changed.
func TestRelaysRenewDirectPaths(t *testing.T) {
	server, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	identity, err := key.NewSecret(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const nowhere = "http://127.0.0.1:9"
	circuits, err := link.Listen(link.ListenConfig{Identity: identity, Relays: []string{nowhere}})
	if err != nil {
		t.Fatal(err)
	}
	defer circuits.Close()
	cfg := &serveConfig{Listen: "127.0.0.1:0", STUN: []string{server.LocalAddr().String()}}
	d, err := openDirect(t.Context(), cfg, identity, nil, circuits, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	asked := make(chan [stun.TransactionIDSize]byte, 100)
	go linktest.ServeSTUN(server, func(request *stun.Message, from netip.AddrPort) netip.AddrPort {
		asked <- request.TransactionID
		return from
	})
	// Without renewals, the third observation is made after 25 seconds.
	late := time.After(20 * time.Second)
	for seen := make(map[[stun.TransactionIDSize]byte]bool); len(seen) < 4; {
		select {
		case id := <-asked:
			seen[id] = true
		case <-late:
			t.Fatalf("%d observations", len(seen))
		}
	}
}
