//go:build !linux

package wsconn

import "net"

type waiter struct{}

func newWaiter(net.Conn) *waiter { return nil }

func (*waiter) wait() {}
