package cache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// ErrAborted is wrapped by errors after the answer's headers were sent: the
// handler can only break the stream off.
var ErrAborted = errors.New("NAR stream broken off")

const (
	// gatherSize is what small writes are collected to. Every write to an HTTP/2
	// stream is a frame, a TLS record and a wake-up of the peer.
	gatherSize = 256 << 10
	// directSize is the size from which on a write is not copied first.
	directSize = 64 << 10
)

var gatherBuffers = sync.Pool{New: func() any { return new([gatherSize]byte) }}

// gather collects small writes.
type gather struct {
	w   io.Writer
	buf *[gatherSize]byte
	n   int
}

func newGather(w io.Writer) *gather {
	return &gather{w: w, buf: gatherBuffers.Get().(*[gatherSize]byte)}
}

func (g *gather) free() {
	gatherBuffers.Put(g.buf)
	g.buf = nil
}

func (g *gather) Write(p []byte) (int, error) {
	if len(p) >= directSize {
		if err := g.flush(); err != nil {
			return 0, err
		}
		return g.w.Write(p)
	}
	if g.n+len(p) > gatherSize {
		if err := g.flush(); err != nil {
			return 0, err
		}
	}
	g.n += copy(g.buf[g.n:], p)
	return len(p), nil
}

func (g *gather) flush() error {
	if g.n == 0 {
		return nil
	}
	_, err := g.w.Write(g.buf[:g.n])
	g.n = 0
	return err
}

// ServeNar answers a request for one NAR or one range of it (RFC 9110 §14).
// Errors that do not wrap ErrAborted come before the answer has begun.
func (s *Server) ServeNar(w http.ResponseWriter, r *http.Request, info nix.PathInfo) error {
	n, err := s.openNar(r.Context(), info)
	if err != nil {
		return err
	}
	defer s.nars.put(n)
	off, length, partial, err := parseRange(r.Header.Get("Range"), n.Size())
	h := w.Header()
	if err != nil {
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", n.Size()))
		http.Error(w, err.Error(), http.StatusRequestedRangeNotSatisfiable)
		return nil
	}
	h.Set("Content-Type", wire.TypeNar)
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	if partial {
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off+length-1, n.Size()))
		w.WriteHeader(http.StatusPartialContent)
	}
	if _, err := n.CopyRange(w, off, length); err != nil {
		return fmt.Errorf("%w: %w", ErrAborted, err)
	}
	return nil
}

// openNar opens the NAR of a path and makes sure that it is the size that its
// info says: a store that is damaged must not be served.
func (s *Server) openNar(ctx context.Context, info nix.PathInfo) (*openNar, error) {
	n, err := s.nars.get(ctx, info.Path)
	if err != nil {
		return nil, fmt.Errorf("open NAR: %w", err)
	}
	if n.Size() < 0 || uint64(n.Size()) != info.NarSize {
		s.nars.put(n)
		return nil, fmt.Errorf("open NAR: %s has %d bytes on disk, the Nix database says %d", info.Path, n.Size(), info.NarSize)
	}
	return n, nil
}

// parseRange reads a Range header of one range; partial is false without one.
func parseRange(header string, size int64) (off, length int64, partial bool, err error) {
	if header == "" {
		return 0, size, false, nil
	}
	bad := errors.New("cannot satisfy this range")
	spec, ok := strings.CutPrefix(header, "bytes=")
	first, last, dash := strings.Cut(spec, "-")
	if !ok || !dash || strings.Contains(spec, ",") {
		return 0, 0, false, bad
	}
	if first == "" { // the last so many bytes
		n, err := strconv.ParseUint(last, 10, 63)
		if err != nil || n == 0 {
			return 0, 0, false, bad
		}
		length = min(int64(n), size)
		return size - length, length, true, nil
	}
	from, err := strconv.ParseUint(first, 10, 63)
	if err != nil || int64(from) >= size {
		return 0, 0, false, bad
	}
	to := uint64(size - 1)
	if last != "" {
		if to, err = strconv.ParseUint(last, 10, 63); err != nil || to < from {
			return 0, 0, false, bad
		}
		to = min(to, uint64(size-1))
	}
	return int64(from), int64(to-from) + 1, true, nil
}

// NarItem is a NAR for ServeNars.
type NarItem struct {
	// Info is nil for one that the caller may not read or that is not there.
	Info   *nix.PathInfo
	Offset uint64
}

// ServeNars answers with the frames of several NARs in the order given (see
// package wire). Those that cannot be opened are told as unavailable.
func (s *Server) ServeNars(ctx context.Context, w http.ResponseWriter, items []NarItem) error {
	w.Header().Set("Content-Type", wire.TypeFrames)
	w.WriteHeader(http.StatusOK)
	g := newGather(w)
	defer g.free()
	for i, item := range items {
		if err := s.narFrame(ctx, g, i, item); err != nil {
			return fmt.Errorf("%w: %w", ErrAborted, err)
		}
	}
	if err := g.flush(); err != nil {
		return fmt.Errorf("%w: %w", ErrAborted, err)
	}
	return nil
}

func (s *Server) narFrame(ctx context.Context, g *gather, i int, item NarItem) error {
	var head [wire.NarFrameHeader]byte
	binary.BigEndian.PutUint32(head[:4], uint32(i))
	binary.BigEndian.PutUint64(head[4:], wire.NarUnavailable)
	if item.Info == nil || item.Offset > item.Info.NarSize {
		_, err := g.Write(head[:])
		return err
	}
	n, err := s.openNar(ctx, *item.Info)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		_, err := g.Write(head[:])
		return err
	}
	defer s.nars.put(n)
	length := n.Size() - int64(item.Offset)
	binary.BigEndian.PutUint64(head[4:], uint64(length))
	if _, err := g.Write(head[:]); err != nil {
		return err
	}
	_, err = n.CopyRange(g, int64(item.Offset), length)
	return err
}
