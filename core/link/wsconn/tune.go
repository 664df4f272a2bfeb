package wsconn

import "net"

// notSentLowat is how much a socket keeps that it has not sent yet, beyond
// what is on its way. More would only delay what is written later. With less,
// the socket runs dry while its writer is not woken up, which takes a third of
// the buffer to be free whatever this says (net/core/stream.c). BBR does not
// trust its measure then, and goes on for seconds as it begins: with almost
// three times what the line takes, of which the line drops the rest, and what
// else it carries with it.
const notSentLowat = 1 << 20

// Tune sets up a TCP connection for circuits: little unsent data in the
// kernel, congestion control by BBR where the kernel has it. It looks through
// TLS, and does nothing to what is not TCP or where the system has no such
// settings: they are improvements, not needs.
func Tune(c net.Conn) {
	if t := tcpBelow(c); t != nil {
		tuneTCP(t)
	}
}

// Moved is how many bytes a TCP connection has brought to its other end and from
// there, as the kernel counts them: what was written may wait here for long. It is
// not known of what is not TCP, or where the system does not tell.
func Moved(c net.Conn) (n uint64, known bool) {
	if t := tcpBelow(c); t != nil {
		return movedTCP(t)
	}
	return 0, false
}

// tcpBelow finds the TCP connection that c stands on, nil for none.
func tcpBelow(c net.Conn) *net.TCPConn {
	for {
		switch t := c.(type) {
		case *net.TCPConn:
			return t
		case interface{ NetConn() net.Conn }: // tls.Conn and wrappers like it
			c = t.NetConn()
		default:
			return nil
		}
	}
}
