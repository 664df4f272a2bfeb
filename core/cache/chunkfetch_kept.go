package cache

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// errNobody is why what is not here cannot be had without a Transport.
var errNobody = errors.New("it is not in the chunk store, and there is no builder to ask")

// AppendManifests appends the manifests of the infos' NARs to dst, each NAR's once,
// as [wire.RouteManifests] answers: those that this session has seen.
func (f *ChunkFetcher) AppendManifests(dst []byte, infos []nix.PathInfo) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	buf := bytes.NewBuffer(dst)
	for _, n := range narsOf(infos) {
		m := f.manifests[n.NarHash.Nix32()]
		if m == nil || !m.done {
			buf.WriteByte(wire.ManifestUnavailable)
			continue
		}
		buf.WriteByte(wire.ManifestFollows)
		e := chunk.NewEncoder(buf, m.refs)
		substs := m.substs
		for _, c := range m.chunks {
			k := 0
			for k < len(substs) && substs[k].Offset < c.off+int64(c.size) {
				k++
			}
			if err := e.Chunk(chunk.Chunk{ID: c.id, Offset: c.off, Size: c.size, Substs: substs[:k]}); err != nil {
				return nil, err
			}
			substs = substs[k:]
		}
		if err := e.Close(); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), nil
}

// TakeManifests takes in what AppendManifests has written of the same infos in an
// earlier session, before anything is fetched, and returns those that it has the
// manifests of. It fails where what is kept is damaged.
func (f *ChunkFetcher) TakeManifests(kept []byte, infos []nix.PathInfo) ([]nix.PathInfo, error) {
	r := bufio.NewReader(bytes.NewReader(kept))
	gone := make(map[nix.Hash]bool)
	for _, n := range narsOf(infos) {
		m := &gotManifest{hash: n.NarHash.Nix32(), size: int64(n.NarSize)}
		f.mu.Lock()
		f.manifests[m.hash] = m
		f.mu.Unlock()
		if err := f.readManifest(r, m); err != nil {
			f.mu.Lock()
			f.forget(m)
			f.mu.Unlock()
			return nil, fmt.Errorf("manifest of %s: %w", m.hash, err)
		}
		gone[n.NarHash] = m.gone
	}
	return slices.DeleteFunc(slices.Clone(infos), func(i nix.PathInfo) bool { return gone[i.NarHash] }), nil
}

// Kept reports whether the infos' NARs can be had from the chunk store alone, as far
// as is known without reading it.
func (f *ChunkFetcher) Kept(infos []nix.PathInfo) bool {
	if f.cfg.Store == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range narsOf(infos) {
		m := f.manifests[n.NarHash.Nix32()]
		if m == nil || !m.done {
			return false
		}
		for i := range m.chunks {
			if !f.cfg.Store.Has(m.chunks[i].id) {
				return false
			}
		}
	}
	return true
}

// narsOf returns infos without those that have the NAR of an earlier one.
func narsOf(infos []nix.PathInfo) []nix.PathInfo {
	seen := make(map[nix.Hash]bool, len(infos))
	return slices.DeleteFunc(slices.Clone(infos), func(i nix.PathInfo) bool {
		defer func() { seen[i.NarHash] = true }()
		return seen[i.NarHash]
	})
}
