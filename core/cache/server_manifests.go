package cache

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// ahead is how many NARs of a request for manifests are begun before it is their
// turn to be sent, for each that is cut at once.
const ahead = 2

// ErrAborted is wrapped by errors after the answer's headers were sent: the
// handler can only break the stream off.
var ErrAborted = errors.New("answer broken off")

// manifestBuffers collect small writes: each is a TLS record and may wake up the
// peer.
var manifestBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 256<<10) }}

// ServeManifests answers with the manifests of NARs in the order given (see
// package wire); nil stands for one that the caller may not read or that is not
// there. What is not known yet is sent while it is found out. compress allows to
// send it as zstd.
func (s *Server) ServeManifests(ctx context.Context, w http.ResponseWriter, infos []*nix.PathInfo, compress bool) error {
	s.busy.Add(1)
	defer s.busy.Add(-1)
	w.Header().Set("Content-Type", wire.TypeFrames)
	gather := manifestBuffers.Get().(*bufio.Writer)
	gather.Reset(w)
	defer func() {
		gather.Reset(nil)
		manifestBuffers.Put(gather)
	}()
	out := &manifestWriter{gather: gather, rc: http.NewResponseController(w), w: gather}
	if compress {
		w.Header().Set("Content-Encoding", "zstd")
		z := manifestEncoders.Get().(*zstd.Encoder)
		defer manifestEncoders.Put(z)
		z.Reset(gather)
		out.w, out.z = z, z
	}
	w.WriteHeader(http.StatusOK)
	begun := make([]*entry, 0, len(infos))
	sent := 0
	defer func() {
		for _, e := range begun[sent:] {
			if e != nil {
				s.entries.put(e)
			}
		}
	}()
	for i := range infos {
		for len(begun) < len(infos) && len(begun) <= i+ahead*cap(s.scans) {
			var e *entry
			if info := infos[len(begun)]; info != nil {
				e = s.use(*info)
			}
			begun = append(begun, e)
		}
		if err := s.manifest(ctx, out, begun[i]); err != nil {
			return fmt.Errorf("%w: %w", ErrAborted, err)
		}
		if begun[i] != nil {
			s.entries.put(begun[i])
		}
		sent++
	}
	if err := out.finish(); err != nil {
		return fmt.Errorf("%w: %w", ErrAborted, err)
	}
	return nil
}

// manifest sends one manifest, as far as it is known at each moment.
func (s *Server) manifest(ctx context.Context, out *manifestWriter, e *entry) error {
	if e == nil {
		return out.status(wire.ManifestUnavailable)
	}
	st, err := follow(ctx, e, 0, out.flush)
	if err != nil {
		if ctx.Err() != nil || s.ctx.Err() != nil {
			return err
		}
		s.cfg.Log.Debug("no manifest", "path", e.info.Path, "err", err)
		return out.status(wire.ManifestUnavailable)
	}
	if err := out.status(wire.ManifestFollows); err != nil {
		return err
	}
	enc := chunk.NewEncoder(out.w, st.refs)
	for n := 0; ; {
		for _, c := range st.chunks[n:] {
			if err := enc.Chunk(c); err != nil {
				return err
			}
		}
		n = len(st.chunks)
		if st.done {
			return enc.Close()
		}
		st, err = follow(ctx, e, n+1, func() error {
			if err := enc.Flush(); err != nil {
				return err
			}
			return out.flush()
		})
		if err != nil {
			return err
		}
	}
}

// manifestWriter gathers what is sent, compressed or not, until there is nothing
// to add for a while.
type manifestWriter struct {
	gather *bufio.Writer
	rc     *http.ResponseController
	w      io.Writer // into gather
	z      *zstd.Encoder
}

func (m *manifestWriter) status(b byte) error {
	_, err := m.w.Write([]byte{b})
	return err
}

func (m *manifestWriter) flush() error {
	if m.z != nil {
		if err := m.z.Flush(); err != nil {
			return err
		}
	}
	if err := m.gather.Flush(); err != nil {
		return err
	}
	return m.rc.Flush()
}

func (m *manifestWriter) finish() error {
	if m.z != nil {
		if err := m.z.Close(); err != nil {
			return err
		}
	}
	return m.gather.Flush()
}

// manifestEncoders are small: most of a manifest are hashes, and what else there
// is repeats itself within a short distance.
var manifestEncoders = sync.Pool{New: func() any {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("make zstd encoder: " + err.Error()) // only wrong options fail
	}
	return z
}}
