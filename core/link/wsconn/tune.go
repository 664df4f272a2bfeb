package wsconn

import "net"

// notSentLowat is how much a socket keeps that it has not sent yet, beyond
// what is on its way. More would only delay what is written later; less would
// let the line run dry between two wake-ups.
const notSentLowat = 128 << 10

// Tune sets up a TCP connection for circuits: little unsent data in the
// kernel, congestion control by BBR where the kernel has it. It looks through
// TLS, and does nothing to what is not TCP or where the system has no such
// settings: they are improvements, not needs.
func Tune(c net.Conn) {
	for {
		switch t := c.(type) {
		case *net.TCPConn:
			tuneTCP(t)
			return
		case interface{ NetConn() net.Conn }: // tls.Conn and wrappers like it
			c = t.NetConn()
		default:
			return
		}
	}
}
