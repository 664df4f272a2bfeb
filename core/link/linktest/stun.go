//go:build !js && !wasip1

package linktest

import (
	"bytes"
	"net"
	"net/netip"

	"github.com/pion/stun/v3"
)

// ServeSTUN answers the binding requests (RFC 8489) that come to c with the address that
// seen returns, until c is closed.
func ServeSTUN(c *net.UDPConn, seen func(request *stun.Message, from netip.AddrPort) netip.AddrPort) {
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		m := &stun.Message{Raw: bytes.Clone(buf[:n])}
		if m.Decode() != nil || m.Type != stun.BindingRequest {
			continue
		}
		at := seen(m, from)
		r, err := stun.Build(m, stun.BindingSuccess, &stun.XORMappedAddress{IP: at.Addr().Unmap().AsSlice(), Port: int(at.Port())})
		if err == nil {
			_, _ = c.WriteToUDPAddrPort(r.Raw, from)
		}
	}
}
