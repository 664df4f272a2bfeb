//go:build !js && !wasip1

package link

import (
	"fmt"
	"net/netip"
	"testing"
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
