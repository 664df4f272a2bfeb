package link

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
)

type raced struct {
	conn *tls.Conn
	path Path
	err  error
}

// race opens a circuit by whichever path first leads to the builder. Paths are
// tried in order, each beside the ones before it after a delay or at once when
// the last has failed (RFC 8305 §5).
func race(ctx context.Context, identity key.Secret, builder key.ID, proto string, dialers []dialer) (*tls.Conn, Path, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dialers = slices.Clone(dialers)
	slices.SortStableFunc(dialers, func(a, b dialer) int { return cmp.Compare(unsteady(a), unsteady(b)) })
	results := make(chan raced)
	next := time.NewTimer(0)
	defer next.Stop()
	var errs []error
	started, running := 0, 0
	for {
		// With nothing left to start, only results count.
		var start <-chan time.Time
		if started < len(dialers) {
			start = next.C
		} else if running == 0 {
			return nil, Path{}, &UnreachableError{builder, errs}
		}
		select {
		case <-start:
			go func(d dialer) {
				conn, err := attempt(ctx, identity, builder, proto, d)
				results <- raced{conn, d.path(), err}
			}(dialers[started])
			started++
			running++
			next.Reset(stagger)
		case r := <-results:
			running--
			if r.err != nil {
				errs = append(errs, r.err)
				next.Reset(0)
				continue
			}
			cancel()
			// Late winners are not needed. They end soon: ctx did.
			for range running {
				if r := <-results; r.err == nil {
					_ = r.conn.Close()
				}
			}
			return r.conn, r.path, nil
		}
	}
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
	return conn, nil
}
