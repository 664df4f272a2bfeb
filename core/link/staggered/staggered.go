// Package staggered tries several ways to one thing, each beside the ones before it
// (RFC 8305 §5), so that one that does not answer costs a moment.
package staggered

import (
	"context"
	"io"
	"time"
)

// Delay is how long a way has before the next is tried beside it.
const Delay = 250 * time.Millisecond

// First returns what the first way that succeeds leads to; what the others lead to is
// closed. Ways are tried in order, each a Delay after the one before it, or at once when
// one has failed. If none succeeds, errs tells why, those that failed first at the
// beginning. A way has to end soon after its context does.
func First[T io.Closer](ctx context.Context, ways []func(context.Context) (T, error)) (first T, errs []error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		found T
		err   error
	}
	results := make(chan result)
	next := time.NewTimer(0)
	defer next.Stop()
	for started, running := 0, 0; ; {
		// With nothing left to start, only results count.
		var start <-chan time.Time
		if started < len(ways) {
			start = next.C
		} else if running == 0 {
			return first, errs
		}
		select {
		case <-start:
			go func(way func(context.Context) (T, error)) {
				found, err := way(ctx)
				results <- result{found, err}
			}(ways[started])
			started++
			running++
			next.Reset(Delay)
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
				if late := <-results; late.err == nil {
					_ = late.found.Close()
				}
			}
			return r.found, nil
		}
	}
}
