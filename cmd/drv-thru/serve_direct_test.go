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
	// Without renewals, the third observation is made after 25 seconds.
	if err := server.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	asked := make(map[[stun.TransactionIDSize]byte]bool)
	for buf := make([]byte, 1500); len(asked) < 4; {
		n, from, err := server.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatalf("%d observations: %v", len(asked), err)
		}
		m := &stun.Message{Raw: buf[:n]}
		if err := m.Decode(); err != nil {
			t.Fatal(err)
		}
		asked[m.TransactionID] = true
		answer, err := stun.Build(m, stun.BindingSuccess, &stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := server.WriteToUDPAddrPort(answer.Raw, from); err != nil {
			t.Fatal(err)
		}
	}
}
