//go:build !js && !wasip1

package direct

import (
	"net"
	"net/netip"
)

// LocalScope returns the networks that this host is connected to now.
func LocalScope() (Scope, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return Scope{}, err
	}
	var s Scope
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			ip, ok := netip.AddrFromSlice(n.IP)
			ones, _ := n.Mask.Size()
			if ip = ip.Unmap(); ok {
				s.Own = append(s.Own, netip.PrefixFrom(ip, ones))
			}
		}
	}
	return s, nil
}
