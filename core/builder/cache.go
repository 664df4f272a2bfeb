package builder

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// maxIndexBytes bounds what the closures of builds' outputs that are kept in memory
// take of it. The newest is kept, however large.
const maxIndexBytes = 64 << 20

// maxDigestBytes bounds their digests: of 7,000 closures of 300 paths.
const maxDigestBytes = 32 << 20

// entryBytes is about what a path takes in an index besides its strings.
const entryBytes = 400

// index is the closure of a build's outputs: what its owner may read.
type index struct {
	infos  []nix.PathInfo // references first
	byHash map[string]*nix.PathInfo
	byNar  map[nix.Hash]*nix.PathInfo
	bytes  int // of memory
}

func newIndex(infos []nix.PathInfo) *index {
	x := &index{
		infos:  infos,
		byHash: make(map[string]*nix.PathInfo, len(infos)),
		byNar:  make(map[nix.Hash]*nix.PathInfo, len(infos)),
	}
	for i := range infos {
		info := &infos[i]
		x.byHash[info.Path.Hash()] = info
		x.byNar[info.NarHash] = info
		x.bytes += entryBytes + len(info.Path) + len(info.Deriver) + len(info.CA)
		for _, r := range info.References {
			x.bytes += stringBytes + len(r)
		}
		for _, sig := range info.Sigs {
			x.bytes += stringBytes + len(sig)
		}
	}
	return x
}

// digest is what it takes to tell that a closure lacks a path or a NAR, for builds
// whose index is not kept: the daemon takes a tenth of a second to tell the closure of a
// large output, and a mount asks for every path that Nix looks for. It has parts of
// hashes, sorted.
type digest []uint64

func digestOf(infos []nix.PathInfo) digest {
	d := make(digest, 0, 2*len(infos))
	for i := range infos {
		d = append(d, partOfPath(infos[i].Path.Hash()), partOfNar(infos[i].NarHash))
	}
	slices.Sort(d)
	return d
}

func partOfPath(hash string) uint64  { return binary.BigEndian.Uint64([]byte(hash)) }
func partOfNar(hash nix.Hash) uint64 { return binary.BigEndian.Uint64(hash[:]) }

func (d digest) has(part uint64) bool {
	_, ok := slices.BinarySearch(d, part)
	return ok
}

// bounded keeps something of builds for as long as it takes no more memory than most;
// the newest is kept, however large.
type bounded[V any] struct {
	most, bytes int
	of          map[wire.BuildID]V
	size        func(V) int
}

func (k *bounded[V]) keep(id wire.BuildID, v V) {
	k.drop(id)
	for id := range k.of {
		if k.bytes+k.size(v) <= k.most {
			break
		}
		k.drop(id)
	}
	k.of[id] = v
	k.bytes += k.size(v)
}

func (k *bounded[V]) drop(id wire.BuildID) {
	if v, ok := k.of[id]; ok {
		k.bytes -= k.size(v)
		delete(k.of, id)
	}
}

// indexOf returns the index of a build that has outputs, nil for one that has none.
func (s *Service) indexOf(ctx context.Context, b *build) (*index, error) {
	rec := b.record()
	if !rec.State.Ended() || rec.Result == nil || len(rec.Result.Outputs) == 0 {
		return nil, nil
	}
	// Who asks while another's question is under way waits for its answer.
	release, err := s.indexing.take(ctx, []string{string(rec.ID)})
	if err != nil {
		return nil, err
	}
	defer release()
	s.mu.Lock()
	x := s.indexes.of[rec.ID]
	s.mu.Unlock()
	if x != nil {
		return x, nil
	}
	infos, err := s.cache.Closure(ctx, outputPaths(rec.Result))
	if err != nil {
		return nil, storeError(err)
	}
	x = newIndex(infos)
	s.keepIndex(rec.ID, x)
	return x, nil
}

func (s *Service) keepIndex(id wire.BuildID, x *index) {
	d := digestOf(x.infos)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.indexes.keep(id, x)
	s.digests.keep(id, d)
}

// dropIndex forgets the closure of a build. s.mu is held.
func (s *Service) dropIndex(id wire.BuildID) {
	s.indexes.drop(id)
	s.digests.drop(id)
}

// digested returns the digest of a build's closure, nil if it is not kept.
func (s *Service) digested(id wire.BuildID) digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.digests.of[id]
}

// own returns the caller's builds that have ended, the newest first. The client may
// ask as soon as it is told of the end.
func (s *Service) own(c *caller) []*build {
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.builds.clients[c.client]))
	if c.ticket != nil {
		for b := range s.builds.tickets[c.ticket.ID] {
			if b.rec.Client != c.client {
				all = append(all, b)
			}
		}
	}
	s.mu.Unlock()
	all = slices.DeleteFunc(all, func(b *build) bool {
		select {
		case <-b.admitted:
		default:
			return true
		}
		return b.admitErr != nil || !b.record().State.Ended() || s.mayAccess(b, c) != nil
	})
	// Always in one order, so that of builds with the same outputs the same one is looked at.
	slices.SortFunc(all, func(a, b *build) int {
		return cmp.Or(b.rec.Created.Compare(a.rec.Created), cmp.Compare(a.rec.ID, b.rec.ID))
	})
	return all
}

// lookup shows find what the caller's own builds have, one after the other, until it
// says that it is done. Builds of the same outputs have the same, and those whose digest
// is of no use have nothing that is looked for.
func (s *Service) lookup(ctx context.Context, c *caller, ofUse func(digest) bool, find func(*index) (done bool)) {
	seen := make(map[string]bool)
	for _, b := range s.own(c) {
		rec := b.record()
		if rec.Result == nil || ctx.Err() != nil {
			continue
		}
		outputs := strings.Join(texts(outputPaths(rec.Result)), " ")
		if seen[outputs] {
			continue
		}
		seen[outputs] = true
		if d := s.digested(rec.ID); d != nil && !ofUse(d) {
			continue
		}
		x, err := s.indexOf(ctx, b)
		if err != nil {
			s.cfg.Log.Warn("output closure", "build", b.rec.ID, "err", err)
		}
		if x != nil && find(x) {
			return
		}
	}
}

func (c *caller) readsStore() bool { return c.trusted != nil && c.trusted.Cache == CacheStore }

func (s *Service) getClosure(w http.ResponseWriter, r *http.Request, c *caller) error {
	b, err := s.find(r.Context(), r.URL.Query().Get("build"), c)
	if err != nil {
		return err
	}
	x, err := s.indexOf(r.Context(), b)
	if err != nil {
		return err
	}
	if x == nil {
		return wire.Errorf(wire.CodeNotFound, "the build has no outputs")
	}
	// The narinfos have about the size of the index. They are not made before there
	// is room for them.
	done, err := s.unreadOf(c, x.bytes)
	if err != nil {
		return err
	}
	defer done()
	answer := wire.Closure{NarInfos: make([]string, len(x.infos)), Roots: texts(outputPaths(b.record().Result))}
	for i, info := range x.infos {
		answer.NarInfos[i] = string(s.cache.NarInfo(info))
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	return writeWhole(w, wire.TypeJSON, body)
}

func (s *Service) getNarInfo(w http.ResponseWriter, r *http.Request, c *caller) error {
	hash := r.PathValue("hash")
	if len(hash) != nix.HashPartLen {
		return errNoPath
	}
	var info *nix.PathInfo
	part := partOfPath(hash)
	s.lookup(r.Context(), c, func(d digest) bool { return d.has(part) }, func(x *index) bool {
		info = x.byHash[hash]
		return info != nil
	})
	if info == nil && c.readsStore() {
		var err error
		if info, err = s.inStore(r.Context(), hash); err != nil {
			return err
		}
	}
	if info == nil {
		return errNoPath
	}
	text := s.cache.NarInfo(*info)
	done, err := s.unreadOf(c, len(text))
	if err != nil {
		return err
	}
	defer done()
	return writeWhole(w, wire.TypeNarInfo, text)
}

var errNoPath = wire.Errorf(wire.CodeNotFound, "no such path")

// inStore finds any valid path by its hash part, and remembers its NAR hash: that
// is all that the request for the NAR will name.
func (s *Service) inStore(ctx context.Context, hash string) (*nix.PathInfo, error) {
	path, err := s.cfg.Store.PathOfHash(ctx, hash)
	if err != nil || path == "" {
		return nil, storeError(err)
	}
	infos, err := s.cfg.Store.PathInfos(ctx, []nix.Path{path})
	if err != nil {
		return nil, storeError(err)
	}
	info, ok := infos[path]
	if !ok {
		return nil, nil
	}
	s.served.Put(info.NarHash, path)
	return &info, nil
}

// nars finds the paths of NARs that the caller may read, nil for those that it may not.
func (s *Service) nars(ctx context.Context, c *caller, narHashes []string) ([]*nix.PathInfo, error) {
	found := make(map[nix.Hash]*nix.PathInfo, len(narHashes))
	hashes := make([]nix.Hash, len(narHashes))
	for i, text := range narHashes {
		hash, err := parseNarHash(text)
		if err != nil {
			continue // the zero hash is nobody's
		}
		hashes[i], found[hash] = hash, nil
	}
	left := len(found)
	ofUse := func(d digest) bool {
		for hash, known := range found {
			if known == nil && d.has(partOfNar(hash)) {
				return true
			}
		}
		return false
	}
	s.lookup(ctx, c, ofUse, func(x *index) bool {
		for hash, known := range found {
			if info := x.byNar[hash]; info != nil && known == nil {
				own := *info // not the whole index
				found[hash] = &own
				left--
			}
		}
		return left == 0
	})
	infos := make([]*nix.PathInfo, len(narHashes))
	for i, hash := range hashes {
		infos[i] = found[hash]
		if infos[i] == nil && c.readsStore() {
			var err error
			if infos[i], err = s.servedNar(ctx, hash); err != nil {
				return nil, err
			}
		}
	}
	return infos, nil
}

// servedNar finds the path whose narinfo was served from the whole store.
func (s *Service) servedNar(ctx context.Context, hash nix.Hash) (*nix.PathInfo, error) {
	path, ok := s.served.Get(hash)
	if !ok {
		return nil, nil
	}
	infos, err := s.cfg.Store.PathInfos(ctx, []nix.Path{path})
	if err != nil {
		return nil, storeError(err)
	}
	if got, ok := infos[path]; ok && got.NarHash == hash {
		return &got, nil
	}
	return nil, nil
}

func cacheError(err error) error {
	if errors.Is(err, cache.ErrAborted) {
		return brokenOff(err)
	}
	return err
}

// getLog sends the daemon's log of a derivation of one of the caller's builds.
func (s *Service) getLog(w http.ResponseWriter, r *http.Request, c *caller) error {
	drv, err := nix.ParseBase(r.PathValue("drv"))
	if err != nil || !drv.IsDrv() {
		return errNoPath
	}
	return s.answer(w, r, c, func(w http.ResponseWriter) error {
		if ok, err := s.mayReadLog(r.Context(), c, drv); err != nil || !ok {
			return errors.Join(err, errNoPath)
		}
		log, err := s.cfg.Store.BuildLog(drv)
		if errors.Is(err, fs.ErrNotExist) {
			return wire.Errorf(wire.CodeNotFound, "the builder has no log of %s", drv)
		}
		if err != nil {
			return err
		}
		defer log.Close()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, err = io.Copy(w, log)
		return brokenOff(err)
	})
}

func (s *Service) mayReadLog(ctx context.Context, c *caller, drv nix.Path) (bool, error) {
	if c.readsStore() {
		return true, nil
	}
	seen := make(map[nix.Path]bool) // shared by all builds: most of their closures is the same
	for _, b := range s.own(c) {
		// Whoever asks for a build names its roots. Only once all inputs were known to
		// be the client's are there links.
		held, err := b.heldDrvs()
		if err != nil {
			continue
		}
		if len(seen) > wire.MaxClosurePaths {
			clear(seen)
		}
		if found, err := s.leadsTo(ctx, held, drv, seen); err != nil || found {
			return found, err
		}
	}
	return false, nil
}

// leadsTo tells whether a path is in the closure of others, as far as that has not been
// seen.
func (s *Service) leadsTo(ctx context.Context, paths []nix.Path, want nix.Path, seen map[nix.Path]bool) (bool, error) {
	var next []nix.Path
	look := func(paths []nix.Path) {
		for _, p := range paths {
			if !seen[p] {
				seen[p] = true
				next = append(next, p)
			}
		}
	}
	for look(paths); len(next) > 0; {
		infos, err := s.cfg.Store.PathInfos(ctx, next)
		if err != nil {
			return false, storeError(err)
		}
		if _, ok := infos[want]; ok {
			return true, nil
		}
		next = nil
		for _, info := range infos {
			look(info.References)
		}
	}
	return false, nil
}
