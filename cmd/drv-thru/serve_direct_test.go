package main

import (
	"net/netip"
	"slices"
	"testing"
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
