//go:build !js && !wasip1

package link

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
)

// Of two names each has its turn before one's other addresses, of which one may be dead.
func TestSTUNServersInTurn(t *testing.T) {
	at := netip.MustParseAddrPort
	got := inTurn([][]netip.AddrPort{
		{at("192.0.2.1:1"), at("192.0.2.2:1"), at("[2001:db8::1]:1"), at("[2001:db8::2]:1")},
		{at("192.0.2.3:1")},
	})
	const want = "[192.0.2.1:1 [2001:db8::1]:1 192.0.2.3:1 192.0.2.2:1 [2001:db8::2]:1]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %v", got)
	}
}

// Silence of STUN servers at both ends is no proof that a network lets no UDP through:
// it may be the relay's port that is closed.
func TestWhyNoSTUN(t *testing.T) {
	for _, c := range []struct {
		here, there wire.NAT
		want        string
	}{
		{wire.NATBlocked, wire.NATBlocked, "no STUN server answers"},
		{wire.NATBlocked, wire.NATCone, "this network"},
		{wire.NATCone, wire.NATBlocked, "the builder's network"},
	} {
		f := search{tried: true, nat: c.here, answer: &wire.PathAnswer{NAT: c.there}, lastErr: errNoPacket}
		if got := f.why(); !strings.Contains(got, c.want) {
			t.Errorf("%s here and %s there: %s", c.here, c.there, got)
		}
	}
}
