package cache

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// manifestBatch bounds the bytes of NARs whose manifests one request asks
	// for, if they are several, and manifestNars their number: enough for an
	// import of small paths to need few round trips.
	manifestBatch = 1 << 30
	manifestNars  = 4096
	// manifestPiece is how many chunks of a manifest are announced at once.
	manifestPiece = 64
	// keepManifests bounds the chunks of the manifests that are kept, when they
	// are not in use; some 50 bytes each.
	keepManifests = 256 << 10
	// maxEntries bounds one manifest in memory, whatever size the NAR is said
	// to have: 200 GB of average chunks.
	maxEntries = 4 << 20
)

// gotManifest is a manifest, or what has come of it. Guarded by
// ChunkFetcher.mu; what has been appended to its lists does not change.
type gotManifest struct {
	hash string
	size int64 // of the NAR, by its narinfo

	refs   []chunk.Ref
	chunks []chunkEntry
	substs []chunk.Subst
	// done: it is complete. gone: the builder does not have the NAR. err: no
	// more of it will come.
	done, gone bool
	err        error
	struck     bool
	asker      *chunkStream

	users   int
	used    uint64
	waiters watchers
}

// chunkEntry is a chunk in a manifest.
type chunkEntry struct {
	id   chunk.ID
	off  int64 // in the NAR
	size uint32
}

// at returns the ordinal of the chunk that has a byte of the NAR, or how many
// chunks are known if it is none of those.
func (m *gotManifest) at(off int64) int {
	return sort.Search(len(m.chunks), func(i int) bool { return m.chunks[i].off+int64(m.chunks[i].size) > off })
}

// ended reports whether nothing more of it will come.
func (m *gotManifest) ended() bool { return m.done || m.gone || m.err != nil }

// manifest returns the manifest of a stream's range, after having asked for it
// and those that follow.
func (s *chunkStream) manifest(i int) *gotManifest {
	if s.mans[i] == nil {
		s.ask(i)
	}
	return s.mans[i]
}

// ask sees to the manifests of a batch of ranges; f.mu is held.
func (s *chunkStream) ask(from int) {
	f := s.f
	var wanted []*gotManifest
	var bytes uint64
	for i := from; i < len(s.ranges); i++ {
		r := &s.ranges[i]
		if bytes += r.Size; i > from && (bytes > manifestBatch || i-from == manifestNars) {
			break
		}
		m := f.manifests[r.NarHash]
		if m == nil || m.err != nil {
			if m != nil {
				f.forget(m)
			}
			m = &gotManifest{hash: r.NarHash, size: int64(r.Size), asker: s}
			f.manifests[r.NarHash] = m
			wanted = append(wanted, m)
		}
		if old := s.mans[i]; old != nil {
			old.users-- // of an earlier batch, of which one was lost
		}
		f.clock++
		m.users++
		m.used = f.clock
		s.mans[i] = m
	}
	if len(wanted) == 0 || f.closed {
		return
	}
	f.tidy()
	f.wg.Add(1)
	go func() {
		defer f.wg.Done()
		err := f.readManifests(s.ctx, wanted)
		if s.ctx.Err() != nil {
			err = context.Cause(s.ctx)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, m := range wanted {
			if !m.ended() {
				if err == nil {
					err = io.ErrUnexpectedEOF
				}
				m.err = err
				f.forget(m)
			}
			m.waiters.signal()
		}
	}()
}

// forget makes sure that a manifest is asked for again.
func (f *ChunkFetcher) forget(m *gotManifest) {
	if f.manifests[m.hash] == m {
		delete(f.manifests, m.hash)
		f.entries -= len(m.chunks)
	}
}

// tidy keeps the memory of manifests in bounds.
func (f *ChunkFetcher) tidy() {
	for f.entries > keepManifests {
		var oldest *gotManifest
		for _, m := range f.manifests {
			if m.users == 0 && m.ended() && (oldest == nil || m.used < oldest.used) {
				oldest = m
			}
		}
		if oldest == nil {
			return
		}
		f.forget(oldest)
	}
}

// readManifests asks for manifests and takes them in as they come.
func (f *ChunkFetcher) readManifests(ctx context.Context, list []*gotManifest) error {
	req := wire.ManifestsRequest{Nars: make([]string, len(list))}
	for i, m := range list {
		req.Nars[i] = m.hash
	}
	body, err := json.Marshal(req)
	if err != nil {
		return Permanent(err)
	}
	resp, err := f.http.post(ctx, wire.RouteManifests, body)
	if err != nil {
		return fmt.Errorf("ask for manifests: %w", err)
	}
	defer resp.Body.Close()
	src := &countedBody{r: resp.Body, f: f}
	r := bufio.NewReaderSize(src, 64<<10)
	for _, m := range list {
		if err := f.readManifest(r, m); err != nil {
			switch {
			case src.err != nil:
				return fmt.Errorf("read manifests: %w", src.err)
			case isPermanent(err):
			case errors.Is(err, io.ErrUnexpectedEOF), err == io.EOF:
				return fmt.Errorf("read manifests: %w", io.ErrUnexpectedEOF)
			default:
				err = Permanent(fmt.Errorf("%w: manifest of %s: %w", ErrStream, m.hash, err))
			}
			return err
		}
	}
	return nil
}

// readManifest reads the next manifest of an answer.
func (f *ChunkFetcher) readManifest(r *bufio.Reader, m *gotManifest) error {
	switch status, err := r.ReadByte(); {
	case err != nil:
		return err
	case status == wire.ManifestUnavailable:
		f.mu.Lock()
		m.gone = true
		f.forget(m)
		m.waiters.signal()
		f.mu.Unlock()
		return nil
	case status != wire.ManifestFollows:
		return fmt.Errorf("status %d", status)
	}
	d, err := chunk.NewDecoder(r, m.size)
	if err != nil {
		return err
	}
	var (
		chunks [manifestPiece]chunkEntry
		substs []chunk.Subst
		n      int
		total  int
	)
	announce := func(done bool) {
		f.mu.Lock()
		m.refs = d.Refs()
		m.chunks = append(m.chunks, chunks[:n]...)
		m.substs = append(m.substs, substs...)
		m.done = done
		if f.manifests[m.hash] == m {
			f.entries += n
		}
		m.waiters.signal()
		f.mu.Unlock()
		n, substs = 0, substs[:0]
	}
	for {
		c, err := d.Next()
		if err == io.EOF {
			announce(true)
			return nil
		}
		if err != nil {
			announce(false)
			return err
		}
		if total++; total > maxEntries {
			return fmt.Errorf("more than %d chunks", maxEntries)
		}
		chunks[n] = chunkEntry{c.ID, c.Offset, c.Size}
		substs = append(substs, c.Substs...)
		if n++; n == manifestPiece || r.Buffered() == 0 {
			announce(false)
		}
	}
}

// countedBody counts what arrives, and keeps what the connection failed with.
type countedBody struct {
	r   io.Reader
	f   *ChunkFetcher
	err error
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 {
		c.f.mu.Lock()
		c.f.received += uint64(n)
		c.f.mu.Unlock()
	}
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}
