//go:build !linux

package wsconn

import "net"

type waiter struct{}

func newWaiter(net.Conn) *waiter { return nil }

func (*waiter) wait()                         {}
func (*waiter) skip(string) bool              { return false }
func (*waiter) try([]byte) (sent, begun bool) { return }
