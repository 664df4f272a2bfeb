package link

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link/staggered"
	"github.com/drv-thru/drv-thru/core/wire"
)

// race opens a circuit by whichever path first leads to the builder.
func race(ctx context.Context, identity key.Secret, builder key.ID, proto string, dialers []dialer) (*tls.Conn, error) {
	dialers = slices.Clone(dialers)
	slices.SortStableFunc(dialers, func(a, b dialer) int { return cmp.Compare(unsteady(a), unsteady(b)) })
	ways := make([]func(context.Context) (*tls.Conn, error), len(dialers))
	for i, d := range dialers {
		ways[i] = func(ctx context.Context) (*tls.Conn, error) { return attempt(ctx, identity, builder, proto, d) }
	}
	first, errs := staggered.First(ctx, ways)
	if first == nil {
		for _, err := range errs {
			if _, ok := err.(*wire.Error); ok {
				return nil, err // the builder was reached
			}
		}
		return nil, &UnreachableError{builder, errs}
	}
	return first, nil
}

// unsteady is 1 for a path whose last circuit did not last, which goes behind
// the others.
func unsteady(d dialer) int {
	if d, ok := d.(interface{ unsteady() bool }); ok && d.unsteady() {
		return 1
	}
	return 0
}

// attempt opens one circuit and makes the builder prove itself on it.
func attempt(ctx context.Context, identity key.Secret, builder key.ID, proto string, d dialer) (*tls.Conn, error) {
	cfg, err := identity.ClientTLS(builder)
	if err != nil {
		return nil, err
	}
	dialCtx, cancelDial := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("no answer within %s", dialTimeout))
	defer cancelDial()
	raw, err := d.dial(dialCtx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout,
		fmt.Errorf("no answer to the TLS handshake within %s", handshakeTimeout))
	defer cancel()
	conn := tls.Client(raw, circuitTLS(cfg, proto))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if errors.Is(err, ErrWrongPeer) {
			err = fmt.Errorf("it leads to somebody else than the builder: %w", err)
		}
		if p := d.path(); p.Kind == PathRelay {
			return nil, &RelayError{p.Via, err}
		}
		return nil, err
	}
	// Net/http takes a client that offers nothing that it speaks for one that knows
	// no ALPN, and then closes the connection with the first request.
	if conn.ConnectionState().NegotiatedProtocol != proto {
		_ = conn.Close()
		return nil, wire.Errorf(wire.CodeVersion, "this client needs %s", proto).
			WithHint("update the older of client and builder")
	}
	return conn, nil
}
