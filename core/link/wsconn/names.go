//go:build !js

package wsconn

import (
	"context"
	"net"
	"time"
)

// nextAfter is how long an address of a name has before the next is tried beside it
// (RFC 8305 §5).
const nextAfter = 250 * time.Millisecond

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
	addresses := make([]string, len(found))
	for i, a := range found {
		addresses[i] = net.JoinHostPort(a.String(), port)
	}
	return dialAny(ctx, network, addresses, new(net.Dialer).DialContext)
}

// dialAny returns the first connection, or else the first error.
func dialAny(ctx context.Context, network string, addresses []string, dial func(ctx context.Context, network, address string) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	next := time.NewTimer(0)
	defer next.Stop()
	var failed error
	for started, running := 0, 0; ; {
		var start <-chan time.Time
		if started < len(addresses) {
			start = next.C
		} else if running == 0 {
			return nil, failed
		}
		select {
		case <-start:
			at := addresses[started]
			go func() {
				conn, err := dial(ctx, network, at)
				results <- result{conn, err}
			}()
			started++
			running++
			next.Reset(nextAfter)
		case r := <-results:
			running--
			if r.err != nil {
				if failed == nil {
					failed = r.err
				}
				next.Reset(0)
				continue
			}
			cancel()
			// They end soon: ctx did.
			for range running {
				if late := <-results; late.err == nil {
					_ = late.conn.Close()
				}
			}
			return r.conn, nil
		}
	}
}
