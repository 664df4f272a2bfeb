package relay

import (
	"net"

	"golang.org/x/sys/unix"
)

// infoSize has room for what the kernel tells of a packet, by IPv4 and by IPv6.
const infoSize = 128

// askForInfo has the kernel tell to which of the host's addresses packets come
// (ip(7), ipv6(7)). Where it does not, it chooses itself what answers come from.
func askForInfo(c *net.UDPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	})
}

// fromThere makes of what was told with a request what has the answer come from the
// address that was asked. By which interface it leaves is the routes' to say.
func fromThere(info []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(info)
	if err != nil {
		return nil
	}
	for _, m := range messages { // their data is that of info
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			clear(m.Data[:4])
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			clear(m.Data[16:20])
		}
	}
	return info
}
