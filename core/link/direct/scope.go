package direct

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/drv-thru/drv-thru/core/wire"
)

// minPort is the lowest port that gets packets: below are the services of
// others (RFC 6335 §6), where address translators put nobody's UDP.
const minPort = 1024

// Scope is the networks that a host is connected to, and with them which
// addresses of others may get packets from it: a list of candidates comes from
// the other end, and must not make a scanner or an amplifier of this one.
type Scope struct {
	// Own are the host's own addresses with their networks.
	Own []netip.Prefix
	// Loopback allows 127.0.0.0/8 nevertheless: for tests inside one host.
	Loopback bool
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// never are addresses that stand for no single other host, or hide one
// (RFC 6890; the IPv6 blocks hold IPv4 addresses).
var never = prefixes("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fe80::/10", "fec0::/10", "ff00::/8")

// private are addresses that mean other hosts elsewhere (RFC 1918, 4193, 6598).
var private = prefixes("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		out[i] = netip.MustParsePrefix(t)
	}
	return out
}

func within(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Allows reports whether packets may be sent to an address that somebody else
// named.
func (s Scope) Allows(at netip.AddrPort) bool {
	a := at.Addr()
	if s.Loopback && loopback.Contains(a) {
		return at.Port() >= minPort
	}
	if !a.IsValid() || a.Zone() != "" || at.Port() < minPort || a.Is4In6() || within(never, a) {
		return false
	}
	if within(private, a) && !within(s.Own, a) {
		return false
	}
	return !slices.ContainsFunc(s.Own, func(p netip.Prefix) bool { return ends(p, a) })
}

// ends reports whether an address is the first or the last of an IPv4 network:
// the network's own and its broadcast address (RFC 919; RFC 3021 for /31).
func ends(p netip.Prefix, a netip.Addr) bool {
	if !a.Is4() || !p.Addr().Is4() || p.Bits() >= 31 || !p.Contains(a) {
		return false
	}
	raw := a.As4()
	host := binary.BigEndian.Uint32(raw[:])
	mask := uint32(1)<<(32-p.Bits()) - 1
	return host&mask == 0 || host&mask == mask
}

// Select returns what is allowed of a list, each once, at most
// [wire.MaxCandidates].
func (s Scope) Select(list []netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	for _, at := range list {
		if len(out) == wire.MaxCandidates {
			break
		}
		if s.Allows(at) && !slices.Contains(out, at) {
			out = append(out, at)
		}
	}
	return out
}

// Addresses returns the host's own addresses that others may have a use for.
func (s Scope) Addresses() []netip.Addr {
	var out []netip.Addr
	for _, p := range s.Own {
		a := p.Addr()
		if (!within(never, a) || s.Loopback && loopback.Contains(a)) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// Candidates puts together what a host tells of itself: addresses that others
// see first, then its own, at most [wire.MaxCandidates].
func Candidates(seen []netip.AddrPort, own []netip.Addr, port uint16) []netip.AddrPort {
	list := slices.Clone(seen)
	for _, a := range own {
		list = append(list, netip.AddrPortFrom(a, port))
	}
	var out []netip.AddrPort
	for _, at := range list {
		if len(out) < wire.MaxCandidates && at.IsValid() && at.Port() != 0 && !slices.Contains(out, at) {
			out = append(out, at)
		}
	}
	return out
}
