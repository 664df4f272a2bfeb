package relay

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// ForwardedBy returns a [Config.ClientAddr] for a relay behind proxies: from
// one of those it takes the address that X-Forwarded-For adds, from anybody
// else the header means nothing. Proxies append, so the list is read from its
// end up to the first address that is no trusted proxy.
func ForwardedBy(proxies []netip.Prefix) func(*http.Request) netip.Addr {
	trusted := func(a netip.Addr) bool {
		return slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return func(r *http.Request) netip.Addr {
		addr := peerAddr(r)
		list := strings.Join(r.Header.Values("X-Forwarded-For"), ",")
		for list != "" && trusted(addr) {
			comma := strings.LastIndexByte(list, ',')
			next, ok := forwardedAddr(strings.TrimSpace(list[comma+1:]))
			if !ok {
				break // what is before it cannot be told either
			}
			addr, list = next, list[:max(comma, 0)]
		}
		return addr
	}
}

// forwardedAddr reads an entry: an address, which some proxies give with a port.
func forwardedAddr(text string) (netip.Addr, bool) {
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return a.Unmap().WithZone(""), err == nil
}

func peerAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}
