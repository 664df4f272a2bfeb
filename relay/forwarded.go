package relay

import (
	"net/http"
	"net/netip"
	"strings"
)

// ForwardedBy returns a [Config.ClientAddr] for a relay behind proxies: from
// one of those it takes the address that X-Forwarded-For adds, from anybody
// else the header means nothing. Proxies append, so the list is read from its
// end up to the first address that is no trusted proxy.
func ForwardedBy(proxies []netip.Prefix) func(*http.Request) netip.Addr {
	trusted := func(a netip.Addr) bool {
		for _, p := range proxies {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
	return func(r *http.Request) netip.Addr {
		addr := peerAddr(r)
		lines := r.Header.Values("X-Forwarded-For")
		for i := len(lines) - 1; i >= 0; i-- {
			line := lines[i]
			for {
				if !trusted(addr) {
					return addr
				}
				rest, last := "", line
				comma := strings.LastIndexByte(line, ',')
				if comma >= 0 {
					rest, last = line[:comma], line[comma+1:]
				}
				next, ok := forwardedAddr(strings.TrimSpace(last))
				if !ok {
					return addr // what is before it cannot be told either
				}
				addr = next
				if comma < 0 {
					break
				}
				line = rest
			}
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
