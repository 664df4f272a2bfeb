//go:build !linux && !js && !wasip1

package direct

import (
	"context"
	"slices"
	"time"
)

// Watch returns a channel that gets a value after addresses of this host have
// changed, a few seconds late: there is no portable way to be told. It ends with
// ctx.
func Watch(ctx context.Context) (<-chan struct{}, error) {
	last, err := LocalScope()
	if err != nil {
		return nil, err
	}
	changed := make(chan struct{}, 1)
	go func() {
		tick := time.NewTicker(3 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now, err := LocalScope()
			if err != nil || slices.Equal(now.Own, last.Own) {
				continue
			}
			last = now
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	return changed, nil
}
