package cache

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// showAfter is how many bytes are shown to readers at once when they come
	// fast: each time wakes one up. showTime is how long some may be kept back
	// for that.
	showAfter = 256 << 10
	showTime  = 2 * time.Millisecond
)

var frameReaders = sync.Pool{New: func() any { return chunk.NewFrameReader(nil) }}

// fill fills a block: what can be from here, the rest from the builder.
func (f *ChunkFetcher) fill(s *chunkStream, b *chunkBlock) {
	defer f.wg.Done()
	if b.source == fromHere {
		f.fillFromHere(b)
	}
	err := f.fillFromWire(s.ctx, b)
	if s.ctx.Err() != nil {
		err = context.Cause(s.ctx)
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail(b, err)
	f.settle(b)
	b.waiters.signal()
	s.running[b.source]--
	wakeUp(s.wake)
	f.keep(b)
	if f.filling--; f.filling == 0 {
		f.putsDone.Broadcast()
	}
	f.unhold(b)
}

// fillFromHere reads the chunks of a block from the chunk store or from seeds.
func (f *ChunkFetcher) fillFromHere(b *chunkBlock) {
	shown := &shower{f: f, b: b}
	defer shown.done()
	for i := range b.parts {
		p := &b.parts[i]
		dst := p.bytes(b)
		if !readStore(f.cfg.Store, p.id, dst) && !f.seeds.read(p.id, dst) {
			continue
		}
		shown.add(i, false)
	}
}

func readStore(store ChunkStore, id chunk.ID, dst []byte) bool {
	if store == nil {
		return false
	}
	data, ok := store.Get(id, dst[:0])
	if !ok || len(data) != len(dst) {
		return false
	}
	if &data[0] != &dst[0] {
		copy(dst, data)
	}
	return true
}

// fillFromWire asks the builder for what a block lacks, again as long as each
// time brings something.
func (f *ChunkFetcher) fillFromWire(ctx context.Context, b *chunkBlock) error {
	for {
		due := make([]int, 0, len(b.parts))
		f.mu.Lock()
		for i := range b.parts {
			if b.parts[i].state == partDue {
				due = append(due, i)
			}
		}
		f.mu.Unlock()
		if len(due) == 0 {
			return nil
		}
		got, err := f.request(ctx, b, due)
		if err != nil && (got == 0 || ctx.Err() != nil || isPermanent(err)) {
			return err
		}
	}
}

// request makes one request for chunks of a block, and returns how many came.
func (f *ChunkFetcher) request(ctx context.Context, b *chunkBlock, due []int) (got int, err error) {
	body, err := json.Marshal(f.chunksRequest(b, due))
	if err != nil {
		return 0, Permanent(err)
	}
	t := f.pace.begin()
	defer f.pace.end(&t)
	resp, err := f.http.post(ctx, wire.RouteChunks, body)
	if err != nil {
		return 0, fmt.Errorf("ask for chunks: %w", err)
	}
	defer resp.Body.Close()
	src := &chunkBody{countedBody: countedBody{r: resp.Body, f: f}, s: b.owner, t: &t}
	fr := frameReaders.Get().(*chunk.FrameReader)
	fr.Reset(src)
	defer func() {
		fr.Reset(nil)
		frameReaders.Put(fr)
	}()
	shown := &shower{f: f, b: b}
	defer shown.done()
	for _, i := range due {
		p := &b.parts[i]
		data, err := fr.Next(p.bytes(b)[:0], uint32(p.size))
		switch {
		case err == nil && chunk.Sum(data) == p.id:
			got++
			f.pace.unpacked(p.size)
			shown.add(i, true)
		case err == nil:
			f.refuse(b, i, fmt.Errorf("%w: chunk %d of the NAR %s is not what its manifest says", ErrStream, p.ordinal, p.man.hash))
		case errors.Is(err, chunk.ErrUnavailable):
			f.refuse(b, i, fmt.Errorf("%w: chunk %d of the NAR %s cannot be had", ErrUnavailable, p.ordinal, p.man.hash))
		case src.err != nil:
			return got, fmt.Errorf("read chunks: %w", src.err)
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return got, fmt.Errorf("read chunks: %w", io.ErrUnexpectedEOF)
		default:
			// Asked once more, it may be whole.
			err = fmt.Errorf("%w: chunk %d of the NAR %s: %w", ErrStream, p.ordinal, p.man.hash, err)
			f.mu.Lock()
			defer f.mu.Unlock()
			return got, f.strike(p.man, err)
		}
	}
	shown.done()
	// To have seen the end spares the connection a reset.
	_, _ = fr.Next(nil, 0)
	return got, nil
}

// chunksRequest asks for some parts of a block.
func (f *ChunkFetcher) chunksRequest(b *chunkBlock, due []int) *wire.ChunksRequest {
	req := &wire.ChunksRequest{Goodput: f.pace.rate()}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range due {
		p := &b.parts[i]
		if k := len(req.Nars); k == 0 || req.Nars[k-1].NarHash != p.man.hash {
			req.Nars = append(req.Nars, wire.NarChunks{NarHash: p.man.hash})
			req.Check = req.Check || f.strikes[p.man.hash] > 0
		}
		n := &req.Nars[len(req.Nars)-1]
		if k := len(n.Chunks); k > 0 && n.Chunks[k-1][0]+n.Chunks[k-1][1] == p.ordinal {
			n.Chunks[k-1][1]++
		} else {
			n.Chunks = append(n.Chunks, wire.ChunkRange{p.ordinal, 1})
		}
	}
	return req
}

// refuse fails one part of a block for what the builder sent in its place.
func (f *ChunkFetcher) refuse(b *chunkBlock, i int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := &b.parts[i]
	p.state, p.err = partFailed, f.strike(p.man, err)
	f.unindex(b, i)
	b.waiters.signal()
}

// A shower tells readers of the parts of a block that are complete and verified.
type shower struct {
	f     *ChunkFetcher
	b     *chunkBlock
	late  *time.Timer
	armed bool
	bytes int // that nobody was woken for
}

// add takes a part. Whoever looks sees it at once; who sleeps is not woken for
// every one.
func (s *shower) add(i int, wired bool) {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	p := &s.b.parts[i]
	p.state, p.wired = partHere, wired
	if s.b.owed > 0 {
		s.b.owed -= p.size
		s.f.inflight -= p.size
	}
	if len(s.b.waiters) == 0 {
		return
	}
	switch s.bytes += p.size; {
	case s.bytes >= showAfter:
		s.bytes = 0
		s.b.waiters.signal()
	case s.late == nil:
		s.late = time.AfterFunc(showTime, s.show)
		s.armed = true
	case !s.armed:
		s.late.Reset(showTime)
		s.armed = true
	}
}

func (s *shower) show() {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	s.bytes, s.armed = 0, false
	s.b.waiters.signal()
}

// done wakes those who still sleep.
func (s *shower) done() {
	if s.late != nil {
		s.late.Stop()
	}
	s.show()
}

// chunkBody is the answer to a request for chunks.
type chunkBody struct {
	countedBody
	s *chunkStream
	t *flight
}

func (c *chunkBody) Read(p []byte) (int, error) {
	n, err := c.countedBody.Read(p)
	if n > 0 {
		c.s.arrived.Add(uint64(n))
		c.f.pace.read(c.t, n)
	}
	return n, err
}

// keep has what came over the wire put into the chunk store; f.mu is held.
func (f *ChunkFetcher) keep(b *chunkBlock) {
	if f.cfg.Store == nil || f.closed {
		return
	}
	any := false
	for i := range b.parts {
		any = any || b.parts[i].wired && b.parts[i].state == partHere
	}
	if !any {
		return
	}
	b.holds++
	f.puts = append(f.puts, b)
	if !f.putting {
		f.putting = true
		f.wg.Add(1)
		go f.put()
	}
}

// put writes blocks into the chunk store until none waits. How long one that has
// failed takes nothing is its own business.
func (f *ChunkFetcher) put() {
	defer f.wg.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	var failed error
	for len(f.puts) > 0 {
		b := f.puts[0]
		f.puts = f.puts[1:]
		if !f.closed {
			f.mu.Unlock()
			err := putBlock(f.cfg.Store, b)
			f.mu.Lock()
			failed = cmp.Or(failed, err)
		}
		f.unhold(b)
	}
	f.putting = false
	f.putsDone.Broadcast()
	if failed != nil && !f.warned && f.cfg.Warn != nil {
		f.warned = true
		f.mu.Unlock()
		f.cfg.Warn("nothing more is kept for the next time: " + failed.Error())
		f.mu.Lock()
	}
}

// putBlock puts what came over the wire into the chunk store. The states of the
// parts do not change any more.
func putBlock(store ChunkStore, b *chunkBlock) error {
	for i := range b.parts {
		if p := &b.parts[i]; p.wired && p.state == partHere {
			if err := store.Put(p.id, p.bytes(b)); err != nil {
				return err
			}
		}
	}
	return nil
}
