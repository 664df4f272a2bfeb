//go:build !linux

package wsconn

import "net"

func tuneTCP(*net.TCPConn) {}
