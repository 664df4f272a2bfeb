package cache

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/drv-thru/drv-thru/core/chunk"
)

// chunkStream is the [Stream] of a [ChunkFetcher]. What it is to deliver is
// planned ahead of its reader: chunk after chunk, across all its NARs, an item
// is queued that says where in memory the chunk is or will be. Jobs fill that
// memory, each with a goroutine of its own. Planning is done by the reader
// itself, whenever it asks for something, so that nothing runs for one who does
// not read.
type chunkStream struct {
	f      *ChunkFetcher
	ctx    context.Context
	cancel context.CancelFunc
	stop   func() bool
	ranges []NarRange
	// wake is signalled when something may have changed.
	wake chan struct{}
	// arrived counts the bytes of chunks that came from the wire.
	arrived atomic.Uint64

	// The reader: the range it is in, and the bytes [off, end) of that NAR
	// which are to come.
	cur      int
	off, end int64

	// Guarded by f.mu: the plan. plan goes on at chunk next of range
	// planned; first is -1 when that range has not begun.
	mans    []*gotManifest // by range
	planned int
	first   int
	queue   []chunkItem
	head    int
	ahead   int  // bytes in the queue
	sought  bool // seeds for the range that is being planned, if need be
	open    [sources]*chunkBlock
	running [sources]int
	closed  bool
}

// chunkItem is a chunk that the reader will come to.
type chunkItem struct {
	place   chunkPlace
	rng     int
	man     *gotManifest
	ordinal int
}

// Next implements [Stream].
func (s *chunkStream) Next() (Frame, error) {
	f := s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.cur++; s.cur >= len(s.ranges) {
		s.cur = len(s.ranges)
		return Frame{}, io.EOF
	}
	s.skip()
	r := &s.ranges[s.cur]
	if r.Offset > r.Size {
		return Frame{}, Permanent(fmt.Errorf("offset %d of a NAR of %d bytes", r.Offset, r.Size))
	}
	s.off, s.end = int64(r.Offset), int64(r.Size)
	for {
		if err := s.ctx.Err(); err != nil {
			return Frame{}, context.Cause(s.ctx)
		}
		s.plan()
		m := s.manifest(s.cur)
		switch {
		case m.gone:
			s.off = s.end
			return Frame{Index: s.cur, Unavailable: true}, nil
		case len(m.chunks) > 0 || m.done:
			return Frame{Index: s.cur, Size: r.Size - r.Offset}, nil
		case m.err != nil:
			if err := s.lost(m); err != nil {
				return Frame{}, err
			}
			continue
		}
		s.wait(&m.waiters)
	}
}

// skip drops what is planned of ranges before the current one.
func (s *chunkStream) skip() {
	for s.head < len(s.queue) && s.queue[s.head].rng < s.cur {
		s.pop()
	}
	if s.planned < s.cur {
		s.planned, s.first = s.cur, -1
	}
}

func (s *chunkStream) pop() {
	it := &s.queue[s.head]
	s.ahead -= it.place.block.parts[it.place.part].size
	s.f.unhold(it.place.block)
	if s.head++; s.head == len(s.queue) {
		s.queue, s.head = s.queue[:0], 0
	}
}

// lost is why a manifest did not come whole. If another stream has asked for it,
// and ended, that is nil, and this one asks itself.
func (s *chunkStream) lost(m *gotManifest) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if m.asker == s {
		return m.err
	}
	m.users--
	s.mans[s.cur] = nil
	s.planned, s.first = s.cur, -1
	return nil
}

// Read implements [Stream].
func (s *chunkStream) Read(p []byte) (int, error) {
	if s.off == s.end {
		return 0, io.EOF
	}
	f := s.f
	n := 0
	f.mu.Lock()
	defer f.mu.Unlock()
	for n < len(p) && s.off < s.end {
		s.plan()
		part, err := s.next()
		if err != nil {
			if n > 0 {
				break // it comes again
			}
			return 0, err
		}
		if part == nil {
			if n > 0 {
				break
			}
			if s.ctx.Err() != nil {
				return 0, context.Cause(s.ctx)
			}
			switch m := s.mans[s.cur]; {
			case s.head < len(s.queue):
				s.wait(&s.queue[s.head].place.block.waiters)
			case m != nil:
				s.wait(&m.waiters)
			}
			continue
		}
		it := s.queue[s.head]
		e := it.man.chunks[it.ordinal]
		refs, substs := it.man.refs, it.man.substs
		f.mu.Unlock()
		k := copy(p[n:], part.bytes(it.place.block)[s.off-e.off:])
		chunk.Unmask(p[n:n+k], s.off, refs, substs)
		n += k
		s.off += int64(k)
		f.mu.Lock()
		if s.off == e.off+int64(e.size) {
			s.pop()
		}
	}
	return n, nil
}

// next returns the chunk that the reader needs now, or nil when it has not come.
func (s *chunkStream) next() (*chunkPart, error) {
	if s.head == len(s.queue) {
		m := s.mans[s.cur]
		switch {
		case m.err != nil:
			return nil, s.lost(m)
		case m.gone, m.done && m.at(s.off) == len(m.chunks):
			return nil, io.ErrUnexpectedEOF
		}
		return nil, nil // the manifest is on its way
	}
	it := &s.queue[s.head]
	part := &it.place.block.parts[it.place.part]
	switch part.state {
	case partDue:
		return nil, nil
	case partHere:
		return part, nil
	}
	if it.place.block.owner == s {
		return nil, part.err
	}
	// It was another stream's, which has ended: this one has it fetched
	// itself.
	f := s.f
	f.unhold(it.place.block)
	b := f.newBlock(true)
	b.owner, b.source = s, fromWire
	it.place = f.add(b, it.man, it.ordinal)
	b.holds++
	s.dispatch(b)
	return nil, nil
}

// wait waits for a change; f.mu is held, and released meanwhile.
func (s *chunkStream) wait(of *watchers) {
	*of = append(*of, s.wake)
	s.f.mu.Unlock()
	select {
	case <-s.wake:
	case <-s.ctx.Done():
	}
	s.f.mu.Lock()
	*of = remove(*of, s.wake)
}

// plan queues as much as may be queued now, and has jobs do it; f.mu is held.
func (s *chunkStream) plan() {
	if s.closed {
		return
	}
	for s.planned < len(s.ranges) {
		m := s.manifest(s.planned)
		r := &s.ranges[s.planned]
		if s.first < 0 {
			off := int64(r.Offset)
			if s.planned == s.cur {
				off = s.off
			}
			if i := m.at(off); i < len(m.chunks) {
				s.first, s.sought = i, false
			}
		}
		if s.first < 0 || s.first == len(m.chunks) {
			if m.done || m.gone {
				s.planned, s.first = s.planned+1, -1
				continue
			}
			break
		}
		if !s.enqueue(m, s.first) {
			break
		}
		s.first++
	}
	// What the reader needs now does not wait for company, nor does a job
	// when no other is at work.
	for source, b := range s.open {
		if b != nil && (s.planned == len(s.ranges) || s.running[source] == 0 || s.head < len(s.queue) && s.queue[s.head].place.block == b) {
			s.dispatch(b)
		}
	}
}

// enqueue queues a chunk, and reports whether there was room for it.
func (s *chunkStream) enqueue(m *gotManifest, ordinal int) bool {
	f := s.f
	e := &m.chunks[ordinal]
	must := s.head == len(s.queue)
	if !must && s.ahead+int(e.size) > maxAhead {
		return false
	}
	place, ok := f.index[e.id]
	// A manifest that lies about a size gets no chunk of another size for it.
	if ok && place.block.parts[place.part].size == int(e.size) {
		b := place.block
		if b.open && b.owner != s {
			b.owner.dispatch(b) // its owner may be held up
		}
		if b.holds == 0 && !b.open {
			f.free = remove(f.free, b)
		}
	} else if place, ok = s.assign(m, ordinal, must); !ok {
		return false
	}
	place.block.holds++
	s.queue = append(s.queue, chunkItem{place, s.planned, m, ordinal})
	s.ahead += int(e.size)
	return true
}

// assign adds a chunk to a job.
func (s *chunkStream) assign(m *gotManifest, ordinal int, must bool) (chunkPlace, bool) {
	f := s.f
	e := &m.chunks[ordinal]
	source := f.sourceOf(e.id)
	most := localJob
	if source == fromWire {
		if !s.sought {
			s.sought = f.seeds.want(&s.ranges[s.planned], f.pace.rate())
		}
		var window int
		window, most = f.pace.window()
		if !must && f.inflight > 0 && f.inflight+int(e.size) > window {
			return chunkPlace{}, false
		}
	}
	b := s.open[source]
	if b != nil && (b.used+int(e.size) > most && b.used > 0 || b.used+int(e.size) > len(b.buf) || len(b.parts) == blockChunks) {
		s.dispatch(b)
		b = nil
	}
	if b == nil {
		if source == fromHere && !must && s.running[source] >= maxLocalJobs {
			return chunkPlace{}, false
		}
		if b = f.newBlock(must); b == nil {
			return chunkPlace{}, false
		}
		b.owner, b.source, b.open = s, source, true
		s.open[source] = b
	}
	return f.add(b, m, ordinal), true
}

// dispatch has a block filled.
func (s *chunkStream) dispatch(b *chunkBlock) {
	if s.open[b.source] == b {
		s.open[b.source] = nil
	}
	b.open = false
	b.holds++
	s.running[b.source]++
	s.f.filling++
	s.f.wg.Add(1)
	go s.f.fill(s, b)
}

// Arrived implements [arriving]. All answers share the line: it counts what comes of
// those that the reader does not need yet, too.
func (s *chunkStream) Arrived() uint64 {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.head < len(s.queue) {
		return s.queue[s.head].place.block.owner.arrived.Load()
	}
	return s.arrived.Load()
}

// Close implements [Stream].
func (s *chunkStream) Close() error {
	s.stop()
	s.cancel()
	f := s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	for i, b := range s.open {
		if b != nil {
			s.open[i] = nil
			b.open = false
			b.holds++ // until it is settled
			f.fail(b, context.Canceled)
			f.settle(b)
			b.waiters.signal()
			f.unhold(b)
		}
	}
	for s.head < len(s.queue) {
		s.pop()
	}
	for _, m := range s.mans {
		if m != nil {
			m.users--
		}
	}
	return nil
}
