package cache

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"

	"github.com/drv-thru/drv-thru/core/chunk"
)

// Piece is a part of a NAR.
type Piece struct {
	// File has it at Offset, as it is, unless it is nil. Nobody has verified it there, and
	// it may be closed at any time.
	File         *os.File
	Offset, Size int64
	// Load returns its bytes, verified; they are valid until the next Load.
	Load func() ([]byte, error)
}

// PieceFetcher is a [Fetcher] that may have NARs in files.
type PieceFetcher interface {
	Fetcher
	// Pieces returns a NAR's pieces in order, nil when it does not know of all.
	Pieces(narHash string) iter.Seq[Piece]
}

// Pieces returns a NAR in order, if [ViewConfig].Filed lets it be read past this View,
// otherwise nil. What keeps a reader from going on to the end is for Fail.
func (v *View) Pieces(ctx context.Context, name string) (iter.Seq[Piece], error) {
	f, ok := v.cfg.Fetcher.(PieceFetcher)
	if !ok {
		return nil, nil
	}
	info, err := v.stat(ctx, "open", name)
	if err != nil || info.nar == nil || !v.filed(info.nar) {
		return nil, err
	}
	n := info.nar
	pieces := f.Pieces(n.hash)
	if pieces == nil {
		return nil, nil
	}
	return func(yield func(Piece) bool) {
		var given uint64
		for p := range pieces {
			if !yield(p) {
				return
			}
			given += uint64(p.Size)
			v.mu.Lock()
			v.stats.Read += uint64(p.Size)
			v.mu.Unlock()
			if v.cfg.Progress != nil {
				v.cfg.Progress(Progress{Path: n.path, Fetched: given, Size: uint64(n.size)})
			}
		}
	}, nil
}

// filed reports whether a NAR may be read past this View.
func (v *View) filed(n *narState) bool { return v.cfg.Filed > 0 && n.size >= v.cfg.Filed }

// Fail notes why a NAR could not be read, for Err.
func (v *View) Fail(name string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	_ = v.fail(name, err)
}

// errNotFiled is why a piece cannot be loaded.
var errNotFiled = errors.New("the chunk store does not have it any more")

// Pieces implements [PieceFetcher]. The pieces are chunks, of which those that were masked
// are in no file.
func (f *ChunkFetcher) Pieces(narHash string) iter.Seq[Piece] {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.manifests[narHash]
	if m == nil || !m.done || f.cfg.Store == nil {
		return nil
	}
	return func(yield func(Piece) bool) {
		var buf []byte
		for _, e := range m.chunks {
			p := Piece{Size: int64(e.size)}
			if len(chunk.Within(m.substs, e.off, int(e.size))) == 0 {
				p.File, p.Offset = f.cfg.Store.Locate(e.id, int(e.size))
			}
			p.Load = func() ([]byte, error) {
				var ok bool
				if buf, ok = f.cfg.Store.Get(e.id, buf[:0]); !ok || len(buf) != int(e.size) {
					return nil, fmt.Errorf("chunk %s: %w", e.id, errNotFiled)
				}
				chunk.Unmask(buf, e.off, m.refs, m.substs)
				return buf, nil
			}
			if !yield(p) {
				return
			}
		}
	}
}
