//go:build !js

package wsconn

import (
	"context"
	"net"

	"github.com/drv-thru/drv-thru/core/link/staggered"
)

// DialHost connects to a host by whichever of its addresses answers first. A net.Dialer
// tries one after another, and net/http hides from it until when: one that is dead would
// take all the time there is.
func DialHost(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	found, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	ways := make([]func(context.Context) (net.Conn, error), len(found))
	for i, a := range found {
		ways[i] = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(a.String(), port))
		}
	}
	conn, errs := staggered.First(ctx, ways)
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return conn, nil
}
