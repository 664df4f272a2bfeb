package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
)

const (
	// backlog bounds the NARs that wait to be cut before anyone asks for them;
	// what is beyond is cut when it is asked for.
	backlog = 64 << 10
	// backgroundPause is how long the background waits before each piece that it
	// reads while requests are being answered.
	backgroundPause = 50 * time.Millisecond
	// damagedFor is how long a NAR that no longer has its hash is not read again.
	damagedFor = time.Minute
)

// ErrDamaged says that a store path is not what the Nix database says.
var ErrDamaged = errors.New("store path is damaged")

var errClosed = errors.New("the builder stops")

// use returns the entry of a NAR, which is being filled if it is not complete.
// The caller has to put it back.
func (s *Server) use(info nix.PathInfo) *entry {
	e, fresh := s.entries.get(info, true)
	if fresh {
		s.entries.hold(e)
		if !s.start(func() {
			defer s.entries.put(e)
			s.fill(e, s.turn)
		}) {
			e.fail(errClosed)
			s.entries.put(e)
		}
	}
	return e
}

// start runs f in a goroutine that Close waits for; false after Close.
func (s *Server) start(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}

// turn waits until the server may cut one more NAR for a request.
func (s *Server) turn() (done func(), err error) {
	select {
	case s.scans <- struct{}{}:
		return func() { <-s.scans }, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// fill finds out what an entry's chunks are, from the index or by cutting, for
// which it waits for its turn.
func (s *Server) fill(e *entry, turn func() (func(), error)) {
	err := s.ctx.Err()
	if err == nil && !s.fromIndex(e) {
		err = s.fromStore(e, turn)
	}
	if err != nil {
		// The next one to ask tries again.
		s.entries.drop(e)
		e.fail(err)
	}
}

// fromIndex takes what the index knows.
func (s *Server) fromIndex(e *entry) bool {
	if s.cfg.Index == nil || e.info.NarSize <= smallNar || s.suspects.has(e.info.Path) {
		return false
	}
	k := s.cfg.Index.load(e.info)
	if k == nil {
		return false
	}
	n, err := s.cfg.Nars.RestoreNar(s.ctx, e.info.Path, k.skeleton)
	if err == nil && uint64(n.Size()) != e.info.NarSize {
		err = errors.Join(fmt.Errorf("a layout of %d bytes for a NAR of %d", n.Size(), e.info.NarSize), n.Close())
	}
	if err != nil {
		s.cfg.Log.Warn("index entry is useless and was removed", "path", e.info.Path, "err", err)
		s.cfg.Index.drop(e.info.Path)
		return false
	}
	e.change(func() {
		e.opened, e.nar, e.refs, e.chunks, e.done = true, n, k.manifest.Refs, k.manifest.Chunks, true
	})
	return true
}

// fromStore cuts the NAR.
func (s *Server) fromStore(e *entry, turn func() (func(), error)) error {
	if s.suspects.damaged(e.info.Path, s.cfg.Now()) {
		return ErrDamaged
	}
	done, err := turn()
	if err != nil {
		return err
	}
	defer done()
	n, err := s.cfg.Nars.OpenNar(s.ctx, e.info.Path)
	if err != nil {
		return fmt.Errorf("open NAR: %w", err)
	}
	if n.Size() < 0 || uint64(n.Size()) != e.info.NarSize {
		return errors.Join(fmt.Errorf("open NAR: %w: %s has %d bytes on disk, the Nix database says %d",
			ErrDamaged, e.info.Path, n.Size(), e.info.NarSize), n.Close())
	}
	if err := s.cut(e, n, chunk.RefsOf(e.info.Path, e.info.References)); err != nil {
		return err
	}
	if e.info.NarSize > smallNar && s.cfg.Index != nil {
		s.keep(e)
	}
	return nil
}

// cut finds the chunks of a NAR, which from the first on can be read from the
// entry. The chunks of a NAR that once was not what it should be are shown only
// after its hash was checked.
func (s *Server) cut(e *entry, n Nar, refs []chunk.Ref) error {
	suspect := s.suspects.has(e.info.Path)
	small := e.info.NarSize <= smallNar
	e.change(func() {
		e.nar, e.refs, e.opened = n, refs, !suspect // an entry closes its NAR
	})
	var r io.Reader = &politeReader{s: s, e: e, r: io.NewSectionReader(n, 0, n.Size())}
	hash := sha256.New()
	if suspect {
		r = io.TeeReader(r, hash)
	}
	var whole []byte
	var fresh []chunk.Chunk
	var cut, shown int64
	show := func(done bool) {
		shown = cut
		e.change(func() {
			e.chunks = append(e.chunks, fresh...)
			if done {
				e.done, e.opened, e.small = true, true, whole
			}
		})
		fresh = fresh[:0]
	}
	_, err := chunk.Cut(s.ctx, r, refs, func(c chunk.Chunk, masked []byte) error {
		if small {
			whole = append(whole, masked...)
		}
		fresh = append(fresh, c)
		if cut += int64(c.Size); cut-shown >= noticeEvery && !suspect {
			show(false)
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("cut %s: %w", e.info.Path, err)
	case uint64(cut) != e.info.NarSize:
		return fmt.Errorf("cut %s: %d bytes of %d", e.info.Path, cut, e.info.NarSize)
	case suspect && nix.Hash(hash.Sum(nil)) != e.info.NarHash:
		s.suspects.condemn(e.info.Path, s.cfg.Now())
		s.cfg.Log.Error("a store path does not have the hash that the Nix database says", "path", e.info.Path,
			"hint", "nix-store --verify-path "+string(e.info.Path))
		return fmt.Errorf("cut %s: %w", e.info.Path, ErrDamaged)
	}
	if suspect {
		s.suspects.clear(e.info.Path)
	}
	show(true)
	if small {
		e.change(func() { e.nar = nil })
		return n.Close()
	}
	return nil
}

// keep writes what was found out to the index. Without it all works too.
func (s *Server) keep(e *entry) {
	err := s.cfg.Index.store(&known{
		info: e.info, narinfo: s.NarInfo(e.info), skeleton: e.nar.Skeleton(),
		manifest: &chunk.Manifest{Refs: e.refs, Chunks: e.chunks, Size: int64(e.info.NarSize)},
	})
	if err != nil {
		s.cfg.Log.Warn("keep index entry", "path", e.info.Path, "err", err)
	}
}

// doubt drops an entry whose NAR is not what the entry says. Whoever asks next
// has it cut anew, and then its hash is checked too.
func (s *Server) doubt(e *entry, why error) {
	s.entries.drop(e)
	s.suspects.add(e.info.Path)
	if s.cfg.Index != nil {
		s.cfg.Index.drop(e.info.Path)
	}
	s.cfg.Log.Warn("a store path is not what it was", "path", e.info.Path, "err", why)
}

// suspects are the paths that turned out to be something else than their index
// said, and when it was found that this is the store's fault.
type suspects struct {
	mu     sync.Mutex
	byPath map[nix.Path]time.Time
}

// maxSuspects bounds them; there is one only where a disk fails or somebody
// writes to the store.
const maxSuspects = 4096

func (s *suspects) add(p nix.Path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byPath == nil || len(s.byPath) >= maxSuspects {
		s.byPath = make(map[nix.Path]time.Time)
	}
	if _, ok := s.byPath[p]; !ok {
		s.byPath[p] = time.Time{}
	}
}

func (s *suspects) condemn(p nix.Path, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byPath[p] = now
}

func (s *suspects) has(p nix.Path) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.byPath[p]
	return ok
}

func (s *suspects) damaged(p nix.Path, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	since := s.byPath[p]
	return !since.IsZero() && now.Sub(since) < damagedFor
}

func (s *suspects) clear(p nix.Path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byPath, p)
}

// politeReader reads for a cut. While nobody has asked for the NAR and requests
// for others are being answered, it leaves the machine to them.
type politeReader struct {
	s *Server
	e *entry
	r io.Reader
}

func (p *politeReader) Read(b []byte) (int, error) {
	if p.s.busy.Load() > 0 {
		select {
		case <-p.e.wanted:
		default:
			pause := time.NewTimer(backgroundPause)
			defer pause.Stop()
			select {
			case <-p.e.wanted:
			case <-pause.C:
			case <-p.s.ctx.Done():
				return 0, p.s.ctx.Err()
			}
		}
	}
	return p.r.Read(b)
}

// background cuts NARs before anyone asks for them, one at a time.
type background struct {
	mu      sync.Mutex
	queue   []nix.PathInfo
	running bool
}

// Prepare has NARs cut in the background, in the order given, so that the first
// request for them finds them done. It returns at once.
func (s *Server) Prepare(infos []nix.PathInfo) {
	b := &s.background
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, infos[:min(len(infos), backlog-len(b.queue))]...)
	if !b.running && len(b.queue) > 0 {
		b.running = s.start(s.prepare)
	}
}

func (s *Server) prepare() {
	b := &s.background
	for {
		b.mu.Lock()
		if len(b.queue) == 0 || s.ctx.Err() != nil {
			b.queue, b.running = nil, false
			b.mu.Unlock()
			return
		}
		info := b.queue[0]
		b.queue = b.queue[1:]
		b.mu.Unlock()
		if s.cfg.Index != nil && s.cfg.Index.has(info.Path) {
			continue
		}
		e, fresh := s.entries.get(info, false)
		if fresh {
			// Its turn takes nothing from requests: there is one, and it waits for them.
			s.fill(e, func() (func(), error) { return func() {}, nil })
		}
		s.entries.put(e)
	}
}

// follow waits until an entry has n chunks. What must be done before it waits
// is done by idle.
func follow(ctx context.Context, e *entry, n int, idle func() error) (state, error) {
	if !e.ready(n) {
		if err := idle(); err != nil {
			return state{}, err
		}
	}
	return e.wait(ctx, n)
}
