package cache

import "context"

// Ahead calls give with the name and the bytes of each NAR that RunAhead fetches and
// that is wanted, in that order, once all of it is here. What somebody else has read
// meanwhile is left out, and what is given counts as read. It asks for nothing by
// itself. It returns when none is left, ctx is done or the View is closed. give must not
// keep the bytes. Call it after RunAhead, once.
func (v *View) Ahead(ctx context.Context, wanted func(name string, size int64) bool, give func(name string, nar []byte)) {
	if v.fit(ctx) != nil {
		return
	}
	arrived := make(chan struct{}, 1)
	v.mu.Lock()
	v.arrived = arrived
	nars := v.order[:v.expected]
	v.mu.Unlock()
	var buf []byte
	for _, n := range nars {
		if !wanted(n.name, n.size) {
			continue
		}
		for {
			v.mu.Lock()
			gone := n.done || n.err != nil
			here := !gone && n.covered(0) == n.size
			if here {
				buf = v.readWhole(n, buf[:0])
			}
			v.mu.Unlock()
			if here {
				give(n.name, buf)
			}
			if here || gone {
				break
			}
			select {
			case <-arrived:
			case <-ctx.Done():
				return
			case <-v.ctx.Done():
				return
			}
		}
	}
}

// readWhole appends a NAR, all of which is here, to buf, and counts it as read; v.mu
// is held.
func (v *View) readWhole(n *narState, buf []byte) []byte {
	for i, off := n.seek(0), int64(0); off < n.size; i++ {
		buf = append(buf, n.segs[i].bytes(off, n.segs[i].end())...)
		off = n.segs[i].end()
	}
	n.done = true
	v.stats.Read += uint64(n.size)
	v.trim(n)
	v.nudge()
	return buf
}
