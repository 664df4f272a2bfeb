package cache

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
)

const (
	// seedBelow is the goodput, in bytes per second, up to which looking
	// through local data is worth it: cutting is several times as fast, and
	// there is enough of the CPU left for it.
	seedBelow = 150 << 20
	// seedFrom is the size of a NAR from which on it is.
	seedFrom = 256 << 10
	// maxSeeds bounds the seeds of one path, maxSeedBytes what is looked
	// through in a session, maxSeedChunks what is remembered of it: 15 MiB.
	maxSeeds      = 2
	maxSeedBytes  = 4 << 30
	maxSeedChunks = 128 << 10
	// seedsRest ends a session: seeds that nobody has used for so long are closed and
	// forgotten. A mount lasts for months, and what garbage collection has removed of an
	// open tree keeps its room on the disk.
	seedsRest = time.Minute
)

// SeedFinder finds local data that is likely to resemble a path's.
type SeedFinder interface {
	// Seeds returns the likeliest first. They are closed by the caller, which asks for
	// one path at a time.
	Seeds(ctx context.Context, like nix.Path) ([]Seed, error)
}

// Seed is the NAR of a local path.
type Seed struct {
	NAR  io.ReaderAt
	Size int64
	// Refs are the hash parts of what it refers to, and its own.
	Refs  []chunk.Ref
	Close func() error
}

// seeds knows the chunks of the seeds of a session. A nil one knows none.
type seeds struct {
	ctx    context.Context
	wg     *sync.WaitGroup
	finder SeedFinder

	mu     sync.Mutex
	index  map[chunk.ID]seedPlace
	tried  map[string]bool // names
	queue  []nix.Path
	active bool
	bytes  int64
	open   []*openSeed
	users  int // reads under way
	used   time.Time
	rest   *time.Timer // nil while there is nothing to forget
}

type openSeed struct {
	Seed
	substs []chunk.Subst
}

type seedPlace struct {
	seed *openSeed
	off  int64
}

func newSeeds(ctx context.Context, wg *sync.WaitGroup, finder SeedFinder) *seeds {
	return &seeds{ctx: ctx, wg: wg, finder: finder, index: make(map[chunk.ID]seedPlace), tried: make(map[string]bool)}
}

// want has seeds for a NAR looked through in the background if the link, of that
// goodput, is slow; false when that is not known yet.
func (s *seeds) want(r *NarRange, rate uint64) bool {
	if s == nil || r.Path == "" || r.Size < seedFrom {
		return true
	}
	if rate == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := r.Path.Name()
	if rate > seedBelow || s.tried[name] {
		return true
	}
	s.tried[name], s.used = true, time.Now()
	if s.rest == nil {
		s.rest = time.AfterFunc(seedsRest, s.forget)
	}
	s.queue = append(s.queue, r.Path)
	if !s.active {
		s.active = true
		s.wg.Add(1)
		go s.work()
	}
	return true
}

// work looks through seeds, one after another.
func (s *seeds) work() {
	defer s.wg.Done()
	for {
		s.mu.Lock()
		if len(s.queue) == 0 || s.ctx.Err() != nil {
			s.active = false
			s.mu.Unlock()
			return
		}
		p := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		// Without seeds, the chunks come over the wire.
		found, _ := s.finder.Seeds(s.ctx, p)
		for i, seed := range found {
			if i >= maxSeeds || !s.cut(seed) {
				_ = seed.Close()
			}
		}
	}
}

var errEnough = errors.New("enough")

// cut remembers the chunks of a seed, and reports whether it is of use.
func (s *seeds) cut(seed Seed) bool {
	s.mu.Lock()
	if s.bytes+seed.Size > maxSeedBytes || len(s.index) >= maxSeedChunks {
		s.mu.Unlock()
		return false
	}
	s.bytes += seed.Size
	o := &openSeed{Seed: seed}
	s.open = append(s.open, o)
	s.mu.Unlock()
	off := int64(0)
	_, _ = chunk.Cut(s.ctx, io.NewSectionReader(seed.NAR, 0, seed.Size), seed.Refs, func(c chunk.Chunk, _ []byte) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		o.substs = append(o.substs, c.Substs...)
		if _, ok := s.index[c.ID]; !ok {
			s.index[c.ID] = seedPlace{o, off}
		}
		off += int64(c.Size)
		if len(s.index) >= maxSeedChunks {
			return errEnough
		}
		return nil
	})
	return true
}

func (s *seeds) has(id chunk.ID) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.index[id]
	return ok
}

// read reads a chunk from a seed, masked, and verifies it.
func (s *seeds) read(id chunk.ID, dst []byte) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	p, ok := s.index[id]
	if !ok {
		s.mu.Unlock()
		return false
	}
	substs := p.seed.substs
	s.users++
	s.mu.Unlock()
	n, _ := p.seed.NAR.ReadAt(dst, p.off)
	if ok = n == len(dst); ok {
		chunk.Mask(dst, p.off, substs)
		ok = chunk.Sum(dst) == id
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	s.used = time.Now()
	if !ok {
		delete(s.index, id)
	}
	return ok
}

// forget closes seeds that nobody uses and begins anew, or looks again later.
func (s *seeds) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rest == nil {
		return // closed
	}
	if left := seedsRest - time.Since(s.used); left > 0 || s.active || s.users > 0 {
		s.rest.Reset(max(left, time.Second))
		return
	}
	s.reset()
}

// close closes the seeds; nothing uses them any more.
func (s *seeds) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rest != nil {
		s.rest.Stop()
	}
	s.reset()
}

// reset closes what is open and forgets all. s.mu is held.
func (s *seeds) reset() {
	for _, o := range s.open {
		_ = o.Close()
	}
	s.open, s.bytes, s.rest = nil, 0, nil
	clear(s.index)
	clear(s.tried)
}
