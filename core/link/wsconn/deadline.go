package wsconn

import (
	"sync"
	"time"
)

// deadline is a point in time that can be moved while somebody waits for it,
// as net.Pipe has it: expired returns a channel that is closed once it passed.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	ch    chan struct{}
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.ch // the timer's function is about to close it
	}
	d.timer = nil
	closed := d.ch != nil && isClosed(d.ch)
	if t.IsZero() {
		if closed {
			d.ch = nil
		}
		return
	}
	if d.ch == nil || closed {
		d.ch = make(chan struct{})
	}
	left := time.Until(t)
	if left <= 0 {
		close(d.ch)
		return
	}
	ch := d.ch
	d.timer = time.AfterFunc(left, func() { close(ch) })
}

// expired returns a channel that is closed when the deadline passes. A caller
// that waits on it sees deadlines that are set later.
func (d *deadline) expired() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ch == nil {
		d.ch = make(chan struct{})
	}
	return d.ch
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
