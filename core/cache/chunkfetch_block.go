package cache

import (
	"slices"

	"github.com/drv-thru/drv-thru/core/chunk"
)

// Where the chunks of a block come from.
const (
	fromWire = iota
	fromHere // the chunk store or a seed; what fails there, from the wire
	sources
)

// A chunkBlock is memory that one job fills with chunks, masked as they are. Its
// fields are guarded by ChunkFetcher.mu; the bytes of a part that is there do
// not change until nothing holds the block any more.
type chunkBlock struct {
	buf   []byte
	used  int
	parts []chunkPart
	// owner is the stream whose context the job has.
	owner  *chunkStream
	source int
	// open: more may be added; the job has not begun.
	open bool
	// owed counts towards ChunkFetcher.inflight.
	owed int
	// holds is how many need it: the job, the chunk store, items of streams.
	holds   int
	waiters watchers
}

// A chunkPart is one chunk in a block.
type chunkPart struct {
	id        chunk.ID
	pos, size int
	// man and ordinal are how the builder is asked for it.
	man     *gotManifest
	ordinal uint32
	state   partState
	wired   bool // it came over the wire
	err     error
}

type partState uint8

const (
	partDue partState = iota
	partHere
	partFailed
)

func (p *chunkPart) bytes(b *chunkBlock) []byte { return b.buf[p.pos : p.pos+p.size : p.pos+p.size] }

// chunkPlace says where in memory a chunk is, or will be.
type chunkPlace struct {
	block *chunkBlock
	part  int
}

// newBlock returns an empty block, or nil when there is none to be had; with
// must there always is.
func (f *ChunkFetcher) newBlock(must bool) *chunkBlock {
	// Without a chunk store, what was used longest ago goes first: the rest may
	// be needed again. Otherwise the last used is likelier in the CPU's cache.
	k := len(f.free) - 1
	if f.cfg.Store == nil {
		if f.blocks < maxBlocks {
			k = -1
		} else {
			k = min(k, 0)
		}
	}
	limit := maxBlocks
	if len(f.puts) > 0 {
		limit += maxBehind
		if k < 0 && f.blocks >= limit {
			// Nobody waits for the chunk store.
			b := f.puts[0]
			f.puts = f.puts[1:]
			f.unhold(b)
			k = len(f.free) - 1
		}
	}
	switch {
	case k >= 0:
		b := f.free[k]
		f.free = slices.Delete(f.free, k, k+1)
		f.empty(b)
		return b
	case f.blocks < limit || must:
		f.blocks++
		if k := len(f.spare) - 1; k >= 0 {
			b := f.spare[k]
			f.spare = f.spare[:k]
			return b
		}
		return &chunkBlock{buf: make([]byte, blockSize)}
	}
	return nil
}

// empty forgets what a block has.
func (f *ChunkFetcher) empty(b *chunkBlock) {
	for i := range b.parts {
		f.unindex(b, i)
	}
	clear(b.parts)
	clear(b.waiters)
	b.parts, b.waiters = b.parts[:0], b.waiters[:0]
	b.used, b.owner = 0, nil
}

func (f *ChunkFetcher) unindex(b *chunkBlock, i int) {
	if p, ok := f.index[b.parts[i].id]; ok && p.block == b && p.part == i {
		delete(f.index, b.parts[i].id)
	}
}

// unhold lets go of a block.
func (f *ChunkFetcher) unhold(b *chunkBlock) {
	b.holds--
	if b.holds > 0 || b.open {
		return
	}
	if f.blocks > maxBlocks {
		f.blocks--
		f.empty(b)
		f.spare = append(f.spare, b)
		return
	}
	f.free = append(f.free, b)
}

// add makes room for a chunk in a block.
func (f *ChunkFetcher) add(b *chunkBlock, m *gotManifest, ordinal int) chunkPlace {
	e := &m.chunks[ordinal]
	b.parts = append(b.parts, chunkPart{id: e.id, pos: b.used, size: int(e.size), man: m, ordinal: uint32(ordinal)})
	b.used += int(e.size)
	if b.source == fromWire {
		b.owed += int(e.size)
		f.inflight += int(e.size)
	}
	p := chunkPlace{b, len(b.parts) - 1}
	f.index[e.id] = p
	return p
}

// fail gives up what a block still lacks.
func (f *ChunkFetcher) fail(b *chunkBlock, err error) {
	for i := range b.parts {
		if p := &b.parts[i]; p.state == partDue {
			p.state, p.err = partFailed, err
			f.unindex(b, i)
		}
	}
}

// settle ends the account of a block with the wire.
func (f *ChunkFetcher) settle(b *chunkBlock) {
	f.inflight -= b.owed
	b.owed = 0
}
