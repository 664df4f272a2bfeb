package direct

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
)

var home = Scope{Own: prefixes("127.0.0.1/8", "192.168.1.20/24", "203.0.113.9/24", "fe80::5/64", "fd00:1::5/64", "2001:db8::5/64")}

func TestScopeAllows(t *testing.T) {
	for text, want := range map[string]bool{
		"198.51.100.7:40000":        true,
		"[2001:db8:1::1]:40000":     true,
		"192.168.1.30:40000":        true, // shared
		"[fd00:1::6]:40000":         true, // shared
		"203.0.113.1:40000":         true,
		"192.168.2.30:40000":        false, // somebody else's
		"10.0.0.1:40000":            false,
		"172.16.3.4:40000":          false,
		"100.64.0.1:40000":          false,
		"[fd00:2::6]:40000":         false,
		"127.0.0.1:40000":           false,
		"127.9.9.9:40000":           false,
		"[::1]:40000":               false,
		"0.0.0.0:40000":             false,
		"[::]:40000":                false,
		"169.254.169.254:40000":     false, // link-local, and where clouds keep secrets
		"[fe80::1]:40000":           false,
		"[fe80::1%eth0]:40000":      false,
		"[2001:db8::6%eth0]:40000":  false,
		"224.0.0.1:40000":           false,
		"239.255.255.250:1900":      false,
		"[ff02::1]:40000":           false,
		"255.255.255.255:40000":     false,
		"192.168.1.255:40000":       false, // directed broadcast
		"192.168.1.0:40000":         false,
		"203.0.113.255:40000":       false,
		"[::ffff:127.0.0.1]:40000":  false,
		"[::ffff:198.51.100.7]:999": false,
		"[64:ff9b::7f00:1]:40000":   false, // loopback behind NAT64
		"[2002:7f00:1::]:40000":     false,
		"198.51.100.7:0":            false,
		"198.51.100.7:53":           false,
		"198.51.100.7:1023":         false,
		"198.51.100.7:1024":         true,
	} {
		if got := home.Allows(netip.MustParseAddrPort(text)); got != want {
			t.Errorf("%s: got %t", text, got)
		}
	}
	// A network of two hosts has no address of its own (RFC 3021).
	if pair := (Scope{Own: prefixes("192.168.7.2/31")}); !pair.Allows(netip.MustParseAddrPort("192.168.7.3:40000")) {
		t.Error("the other end of a network of two is refused")
	}
	if home.Allows(netip.AddrPort{}) {
		t.Error("no address is allowed")
	}
}

func TestSelectIsBounded(t *testing.T) {
	var list []netip.AddrPort
	for i := range 100 {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + i)}), 4000)
		list = append(list, at, at, netip.MustParseAddrPort("10.0.0.1:4000"))
	}
	got := home.Select(list)
	if len(got) != wire.MaxCandidates || got[0] != list[0] || got[1] != list[3] {
		t.Errorf("got %v", got)
	}
}

func TestOwnCandidates(t *testing.T) {
	want := []netip.Addr{
		netip.MustParseAddr("192.168.1.20"), netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("fd00:1::5"), netip.MustParseAddr("2001:db8::5"),
	}
	if got := home.Addresses(); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	seen := netip.MustParseAddrPort("203.0.113.9:7")
	got := Candidates([]netip.AddrPort{seen, {}, netip.AddrPortFrom(want[3], 0)}, want[:2], 7)
	if !slices.Equal(got, []netip.AddrPort{seen, netip.MustParseAddrPort("192.168.1.20:7")}) {
		t.Errorf("got %v", got)
	}
	var many []netip.AddrPort
	for i := range 2 * wire.MaxCandidates {
		many = append(many, netip.AddrPortFrom(want[0], uint16(1+i)))
	}
	if got := Candidates(many, want, 7); !slices.Equal(got, many[:wire.MaxCandidates]) {
		t.Errorf("%d are told", len(got))
	}
}
