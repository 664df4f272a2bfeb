//go:build e2e

package relaybench

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// noiseInfo is a path whose NAR has n bytes, as its hash and its name tell.
func noiseInfo(n uint64) nix.PathInfo {
	var h nix.Hash
	binary.BigEndian.PutUint64(h[:], n)
	return nix.PathInfo{Path: nix.Path(fmt.Sprintf("/nix/store/%s-%d", h.Nix32()[:32], n)), NarHash: h, NarSize: n}
}

// noiseOf is the path whose NAR has that hash; nil if there is none.
func noiseOf(hash string) *nix.PathInfo {
	h, err := nix.ParseHash("sha256:" + hash)
	if err != nil {
		return nil
	}
	i := noiseInfo(binary.BigEndian.Uint64(h[:]))
	return &i
}

// noiseStore has a NAR of every size.
type noiseStore struct{}

func (noiseStore) OpenNar(_ context.Context, path nix.Path) (cache.Nar, error) {
	_, text, _ := strings.Cut(string(path), "-")
	n, err := strconv.ParseInt(text, 10, 64)
	var seed [32]byte
	copy(seed[:], text)
	bits := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8(seed).Read(bits)
	return &noiseNar{n, bits}, err
}

func (s noiseStore) RestoreNar(ctx context.Context, path nix.Path, _ []byte) (cache.Nar, error) {
	return s.OpenNar(ctx, path)
}

// noiseNar is bytes that cannot be compressed and of which no part comes twice, in
// this NAR or in others.
type noiseNar struct {
	size int64
	bits []byte
}

func (n *noiseNar) Size() int64      { return n.size }
func (n *noiseNar) Skeleton() []byte { return nil }
func (n *noiseNar) Close() error     { return nil }

// ReadAt repeats the noise, each time with other bits turned over.
func (n *noiseNar) ReadAt(p []byte, off int64) (int, error) {
	size, done := int64(len(n.bits)), 0
	for done < len(p) && off < n.size {
		part := p[done:min(int64(len(p)), int64(done)+n.size-off)]
		k := copy(part, n.bits[off%size:])
		for i := range part[:k] {
			part[i] ^= byte(off / size)
		}
		done, off = done+k, off+int64(k)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// noiseBuilder answers a [cache.ChunkFetcher].
func noiseBuilder() http.HandlerFunc {
	s := cache.NewServer(cache.ServerConfig{Nars: noiseStore{}, Now: time.Now})
	return func(w http.ResponseWriter, r *http.Request) {
		var err error
		if r.URL.Path == wire.RouteManifests {
			var req wire.ManifestsRequest
			err = json.NewDecoder(r.Body).Decode(&req)
			var infos []*nix.PathInfo
			for _, hash := range req.Nars {
				infos = append(infos, noiseOf(hash))
			}
			err = errors.Join(err, s.ServeManifests(r.Context(), w, infos, false))
		} else {
			var req wire.ChunksRequest
			err = json.NewDecoder(r.Body).Decode(&req)
			var items []cache.ChunkItem
			for _, n := range req.Nars {
				items = append(items, cache.ChunkItem{Info: noiseOf(n.NarHash), Ranges: n.Chunks})
			}
			err = errors.Join(err, s.ServeChunks(r.Context(), w, cache.ChunkAnswer{Items: items, Goodput: req.Goodput}))
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// importNoise fetches a NAR of n bytes as a build does, in requests for chunks.
func importNoise(ctx context.Context, f *cache.ChunkFetcher, n int64) error {
	i := noiseInfo(uint64(n))
	s, err := f.Fetch(ctx, []cache.NarRange{{NarHash: i.NarHash.Nix32(), Size: i.NarSize, Path: i.Path}})
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Next(); err != nil {
		return err
	}
	return discard(s, n)
}
