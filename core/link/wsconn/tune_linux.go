package wsconn

import (
	"net"

	"golang.org/x/sys/unix"
)

func tuneTCP(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	// tcp(7) and Documentation/networking/ip-sysctl.rst. A kernel without
	// either option goes on as it is.
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "bbr")
	})
}

func movedTCP(c *net.TCPConn) (n uint64, known bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			n = info.Bytes_acked + info.Bytes_received
		}
	})
	// Linux before 4.1 leaves these empty.
	return n, n > 0
}
