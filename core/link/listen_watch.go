//go:build !js && !wasip1

package link

import (
	"context"
	"log/slog"
	"sync"

	"github.com/drv-thru/drv-thru/core/link/direct"
)

// Watch looks after the registrations when this host's network changes, until Close.
// Of one whose address is gone no word would come, and nobody could reach the
// builder until the relay's silence is noticed.
func (l *Listener) Watch() error {
	changed, err := direct.Watch(l.ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return ErrClosed
	}
	l.work.Go(func() {
		for {
			select {
			case <-changed:
			case <-l.ctx.Done():
				return
			}
			if rest(l.ctx, changed) {
				l.check()
			}
		}
	})
	return nil
}

// check drops the registrations that do not answer. It waits for all, so that a network
// that does not come to rest brings no flood of pings.
func (l *Listener) check() {
	var work sync.WaitGroup
	defer work.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.relays {
		ws := r.ws
		if ws == nil {
			continue
		}
		work.Go(func() {
			ctx, cancel := context.WithTimeout(r.ctx, pingTimeout)
			defer cancel()
			if err := ws.Ping(ctx); err != nil {
				l.log.Debug("a registration does not answer", slog.String("relay", r.url), slog.Any("error", err))
				_ = ws.CloseNow()
			}
		})
	}
}
