//go:build !js && !wasip1

package portmap

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// PCP's MAP request and answer (RFC 6887 §7, §11.1): a common header of 24 bytes,
// then 36 bytes of the opcode's own.
const (
	pcpPort     = 5351
	pcpSize     = 60
	pcpVersion  = 2
	pcpMap      = 1
	pcpAnswer   = 0x80
	protocolTCP = 6
	protocolUDP = 17
)

// pcpNonce names this host's mappings towards the router: RFC 6887 §11.2 wants
// it to be hard to guess for others in the network.
type pcpNonce [12]byte

// ownNonce is one for all that this process asks for: a router refuses to renew or to
// take back a mapping under another (RFC 6887 §11.3.1).
var ownNonce = sync.OnceValue(func() (n pcpNonce) {
	_, _ = rand.Read(n[:]) // never fails
	return n
})

// pcpRequest encodes a request to forward a port, for no time to take it back.
func pcpRequest(nonce pcpNonce, client netip.Addr, protocol byte, port uint16, life time.Duration) []byte {
	b := make([]byte, pcpSize)
	b[0], b[1] = pcpVersion, pcpMap
	binary.BigEndian.PutUint32(b[4:], uint32(life.Seconds()))
	a := client.As16()
	copy(b[8:], a[:])
	copy(b[24:], nonce[:])
	b[36] = protocol
	binary.BigEndian.PutUint16(b[40:], port)
	binary.BigEndian.PutUint16(b[42:], port)
	// No suggestion of an outer address: all zeros of the client's family.
	if client.Is4() {
		copy(b[44:], []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff})
	}
	return b
}

var errPCP = errors.New("not an answer by PCP")

// pcpParse reads an answer.
func pcpParse(b []byte, nonce pcpNonce, protocol byte, port uint16) (at netip.AddrPort, life time.Duration, err error) {
	if len(b) < pcpSize || b[0] != pcpVersion || b[1] != pcpAnswer|pcpMap {
		return at, 0, errPCP
	}
	if code := b[3]; code != 0 {
		return at, 0, fmt.Errorf("%w: PCP result %d", errRefused, code)
	}
	if pcpNonce(b[24:36]) != nonce || b[36] != protocol || binary.BigEndian.Uint16(b[40:]) != port {
		return at, 0, errPCP
	}
	at = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[44:60])).Unmap(), binary.BigEndian.Uint16(b[42:]))
	return at, time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Second, nil
}

func askPCP(ctx context.Context, port uint16) (Mapping, func(), time.Duration, error) {
	at, err := router()
	if err != nil {
		return Mapping{}, nil, 0, err
	}
	return pcp(ctx, at, port)
}

// pcp asks by PCP.
func pcp(ctx context.Context, at netip.Addr, port uint16) (Mapping, func(), time.Duration, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", netip.AddrPortFrom(at, pcpPort).String())
	if err != nil {
		return Mapping{}, nil, 0, err
	}
	defer c.Close()
	local := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	nonce := ownNonce()
	udp, life, err := pcpAsk(ctx, c, nonce, local, protocolUDP, port)
	if err != nil {
		return Mapping{}, nil, 0, err
	}
	if !usable(udp.Addr()) {
		return Mapping{}, nil, 0, errTranslated
	}
	m := Mapping{UDP: udp, Protocol: "PCP"}
	if tcp, _, err := pcpAsk(ctx, c, nonce, local, protocolTCP, port); err == nil && usable(tcp.Addr()) {
		m.TCP = tcp
	}
	release := func() {
		if c, err := net.Dial("udp", netip.AddrPortFrom(at, pcpPort).String()); err == nil {
			for _, protocol := range []byte{protocolUDP, protocolTCP} {
				_, _ = c.Write(pcpRequest(nonce, local, protocol, port, 0))
			}
			c.Close()
		}
	}
	return m, release, life, nil
}

// pcpAsk sends a request up to three times.
func pcpAsk(ctx context.Context, c net.Conn, nonce pcpNonce, local netip.Addr, protocol byte, port uint16) (netip.AddrPort, time.Duration, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 1100) // RFC 6887 §7
	err := errNobody
	for wait := 250 * time.Millisecond; wait <= time.Second && ctx.Err() == nil; wait *= 2 {
		if _, err := c.Write(pcpRequest(nonce, local, protocol, port, lifetime)); err != nil {
			return netip.AddrPort{}, 0, err
		}
		_ = c.SetReadDeadline(time.Now().Add(wait))
		n, rerr := c.Read(buf)
		if rerr != nil {
			continue
		}
		at, life, perr := pcpParse(buf[:n], nonce, protocol, port)
		if perr == nil {
			return at, life, nil
		}
		err = perr
	}
	return netip.AddrPort{}, 0, err
}
