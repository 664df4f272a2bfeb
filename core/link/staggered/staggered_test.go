package staggered

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// Ways that are dead cost no more than a moment each.
func TestFirst(t *testing.T) {
	refused := errors.New("refused")
	dead := func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	refuses := func(context.Context) (net.Conn, error) { return nil, refused }
	answers := func(context.Context) (net.Conn, error) {
		conn, _ := net.Pipe()
		return conn, nil
	}
	type ways []func(context.Context) (net.Conn, error)
	for name, c := range map[string]struct {
		ways ways
		err  error
		took time.Duration
	}{
		"one":              {ways{answers}, nil, 0},
		"nine dead":        {ways{dead, dead, dead, dead, dead, dead, dead, dead, dead, answers}, nil, 9 * Delay},
		"refused at once":  {ways{refuses, refuses, answers}, nil, 0},
		"none":             {ways{refuses, refuses}, refused, 0},
		"none, and a dead": {ways{dead, refuses, refuses}, refused, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				begin := time.Now()
				conn, errs := First(ctx, c.ways)
				var err error
				if len(errs) > 0 {
					err = errs[0]
				}
				if !errors.Is(err, c.err) || (err == nil) != (conn != nil) || time.Since(begin) != c.took {
					t.Errorf("%v, %v after %s", conn, err, time.Since(begin))
				}
			})
		})
	}
}
