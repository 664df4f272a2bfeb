//go:build !linux

package wsconn

import "net"

func tuneTCP(*net.TCPConn) {}

func movedTCP(*net.TCPConn) (n uint64, known bool) { return 0, false }
