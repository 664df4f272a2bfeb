//go:build !linux && !js && !wasip1

package direct

import "net"

func gathering(c *net.UDPConn) net.PacketConn { return c }
