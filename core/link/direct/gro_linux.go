package direct

import (
	"encoding/binary"
	"net"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// gatheringConn is a UDP socket for which the kernel gathers packets of one
// sender that come together (udp(7), UDP_GRO): one system call reads up to 64 KiB
// of them. Package quic reads in batches, and takes this one's.
type gatheringConn struct {
	*net.UDPConn
	buf     []byte
	oob     [oobSize]byte
	control []byte // of the packets below
	rest    []byte // packets that were read and not handed on
	size    int    // of each but the last
	from    *net.UDPAddr
}

const (
	// gathered is the most that comes at once: a UDP packet's length has 16 bits.
	gathered = 64 << 10
	// oobSize is what package quic keeps for control messages.
	oobSize = 128
)

// gathering makes packets come gathered where the kernel can do that.
func gathering(c *net.UDPConn) net.PacketConn {
	raw, err := c.SyscallConn()
	if err != nil {
		return c
	}
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	}); err != nil || optErr != nil {
		return c
	}
	return &gatheringConn{UDPConn: c, buf: make([]byte, gathered)}
}

// ReadBatch hands packets on one by one, with the control messages that they have
// in common. It waits for the first only.
func (c *gatheringConn) ReadBatch(ms []ipv4.Message, _ int) (int, error) {
	if len(c.rest) == 0 {
		n, oobn, _, from, err := c.ReadMsgUDPAddrPort(c.buf, c.oob[:])
		if err != nil {
			return 0, err
		}
		c.rest, c.control, c.from = c.buf[:n], c.oob[:oobn], net.UDPAddrFromAddrPort(from)
		if c.size = segmentSize(c.control); c.size <= 0 {
			c.size = max(n, 1)
		}
		if n == 0 { // an empty packet is one too
			ms[0].N, ms[0].NN, ms[0].Addr = 0, copy(ms[0].OOB, c.control), c.from
			return 1, nil
		}
	}
	i := 0
	for ; i < len(ms) && len(c.rest) > 0; i++ {
		packet := c.rest[:min(c.size, len(c.rest))]
		c.rest = c.rest[len(packet):]
		m := &ms[i]
		m.N, m.NN, m.Addr, m.Flags = copy(m.Buffers[0], packet), copy(m.OOB, c.control), c.from, 0
	}
	return i, nil
}

// segmentSize finds out how long each of the gathered packets is; 0: there is but
// one.
func segmentSize(control []byte) int {
	for len(control) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return 0
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4 {
			return int(int32(binary.NativeEndian.Uint32(data)))
		}
		control = rest
	}
	return 0
}
