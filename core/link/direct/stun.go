//go:build !js && !wasip1

package direct

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/pion/stun/v3"

	"github.com/drv-thru/drv-thru/core/wire"
)

// stunRounds are the pauses before a request that was not answered is sent again
// (RFC 8489 §6.2.1, shortened: nobody waits 40 s for a path).
var stunRounds = []time.Duration{200 * time.Millisecond, 400 * time.Millisecond}

const (
	// stunWait is how long servers have for an answer.
	stunWait = 1500 * time.Millisecond
	// stunOthers is how long the others have after the first answer.
	stunOthers = 400 * time.Millisecond
)

// padding makes a request as long as its answer, which a relay asks for so that
// it multiplies nothing (RFC 5780 §7.6).
type padding struct{}

func (padding) AddTo(m *stun.Message) error {
	const attributeHeader = 4
	m.Add(stun.AttrType(0x0026), make([]byte, wire.RelaySTUNRequest-len(m.Raw)-attributeHeader))
	return nil
}

// Observed is how a STUN server sees a socket.
type Observed struct {
	Server netip.AddrPort
	At     netip.AddrPort
}

// maxSTUNServers bounds the servers that are asked at once.
const maxSTUNServers = 4

// Observe asks STUN servers how they see the endpoint. It returns what was
// answered, in the order of the servers, after a second and a half at the latest.
func (e *Endpoint) Observe(ctx context.Context, servers []netip.AddrPort) []Observed {
	servers = servers[:min(len(servers), maxSTUNServers)]
	if len(servers) == 0 {
		return nil
	}
	answers := make(chan Observed, len(servers))
	asked := make(map[netip.AddrPort]*stun.Message)
	for _, s := range servers {
		m, err := stun.Build(stun.TransactionID, stun.BindingRequest, padding{})
		if err != nil {
			continue
		}
		asked[s] = m
		e.expect(m.TransactionID, func(at netip.AddrPort) {
			select {
			case answers <- Observed{s, at}:
			default:
			}
		})
		defer e.expect(m.TransactionID, nil)
	}
	var got []Observed
	missing := func(s netip.AddrPort) bool {
		return !slices.ContainsFunc(got, func(g Observed) bool { return g.Server == s })
	}
	end := time.NewTimer(stunWait)
	defer end.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	for sent := 0; len(got) < len(asked); {
		select {
		case o := <-answers:
			if missing(o.Server) {
				got = append(got, o)
				end.Reset(stunOthers)
			}
			continue
		case <-again.C:
		case <-end.C:
			return inOrder(got, servers)
		case <-ctx.Done():
			return inOrder(got, servers)
		}
		for s, m := range asked {
			if missing(s) {
				_ = e.send(m.Raw, s)
			}
		}
		if sent < len(stunRounds) {
			again.Reset(stunRounds[sent])
			sent++
		}
	}
	return inOrder(got, servers)
}

func inOrder(got []Observed, servers []netip.AddrPort) []Observed {
	slices.SortFunc(got, func(a, b Observed) int { return slices.Index(servers, a.Server) - slices.Index(servers, b.Server) })
	return got
}

// isSTUN reports whether a packet looks like STUN (RFC 8489 §5).
func isSTUN(p []byte) bool { return len(p) > 0 && p[0] < 4 && stun.IsMessage(p) }

// mappedAddress reads a Binding success response.
func mappedAddress(p []byte) (id [stun.TransactionIDSize]byte, at netip.AddrPort, ok bool) {
	m := &stun.Message{Raw: slices.Clone(p)}
	if m.Decode() != nil || m.Type != stun.BindingSuccess {
		return id, at, false
	}
	var x stun.XORMappedAddress
	if x.GetFrom(m) != nil || x.Port <= 0 || x.Port > 1<<16-1 {
		return id, at, false
	}
	a, valid := netip.AddrFromSlice(x.IP)
	return m.TransactionID, netip.AddrPortFrom(a.Unmap(), uint16(x.Port)), valid
}

// Classify tells from what servers saw what stands between a socket on a host with
// the given addresses and the rest of the world.
func Classify(asked int, got []Observed, own []netip.Addr) wire.NAT {
	if asked == 0 {
		return wire.NATUnknown
	}
	if len(got) == 0 {
		return wire.NATBlocked
	}
	kind := wire.NATUnknown
	for i, o := range got {
		if slices.Contains(own, o.At.Addr()) {
			return wire.NATNone
		}
		for _, other := range got[:i] {
			switch {
			case other.Server.Addr().Is4() != o.Server.Addr().Is4() || other.Server == o.Server:
			case other.At != o.At:
				return wire.NATSymmetric
			default:
				kind = wire.NATCone
			}
		}
	}
	return kind
}
