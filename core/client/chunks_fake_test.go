package client

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/wire"
)

// coming is a large input on its way to the fake builder.
type coming struct {
	manifest *chunk.Manifest
	chunks   [][]byte // nil: missing
}

// missing are the ranges that are to be sent.
func (c *coming) missing() (ranges [][2]int) {
	seen := make(map[chunk.ID]bool)
	for i, k := range c.manifest.Chunks {
		if c.chunks[i] != nil || seen[k.ID] {
			continue
		}
		seen[k.ID] = true
		ranges = append(ranges, [2]int{i, 1}) // ranges of one are as good
	}
	return ranges
}

func (b *builder) index(w http.ResponseWriter, r *http.Request) (int, bool) {
	i, err := strconv.Atoi(r.PathValue("index"))
	if _, has := b.has[i]; err != nil || i < 0 || i >= len(b.request.Closure) || has {
		wire.WriteError(w, wire.Errorf(wire.CodeInputUnasked, "%s", r.PathValue("index")))
		return 0, false
	}
	return i, true
}

func (b *builder) manifest(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	i, ok := b.index(w, r)
	b.mu.Unlock()
	if !ok {
		return
	}
	m, err := chunk.ReadManifest(r.Body, int64(b.request.Closure[i].NarSize))
	if err != nil {
		wire.WriteError(w, wire.Errorf(wire.CodeInputManifest, "%v", err))
		return
	}
	b.mu.Lock()
	c := b.coming[i]
	if c == nil {
		c = &coming{manifest: m, chunks: make([][]byte, len(m.Chunks))}
		b.coming[i] = c
	}
	doc := wire.MissingChunks{Missing: c.missing()}
	b.mu.Unlock()
	answer(w, doc)
}

func (b *builder) chunks(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	i, ok := b.index(w, r)
	c := b.coming[i]
	b.mu.Unlock()
	if !ok {
		return
	}
	body := bufio.NewReaderSize(r.Body, 128<<10)
	frames := chunk.NewFrameReader(body)
	sum := 0
	for {
		var head [wire.ChunkOrdinal]byte
		if _, err := io.ReadFull(body, head[:]); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			wire.WriteError(w, wire.Errorf(wire.CodeBadRequest, "%v", err))
			return
		}
		n := int(binary.BigEndian.Uint32(head[:]))
		size := c.manifest.Chunks[n].Size
		p, err := frames.Next(nil, size)
		if err != nil || chunk.Sum(p) != c.manifest.Chunks[n].ID {
			wire.WriteError(w, wire.Errorf(wire.CodeBadRequest, "%v", err))
			return
		}
		if sum += int(size); sum > wire.MaxInputChunkBytes {
			wire.WriteError(w, wire.Errorf(wire.CodeTooLarge, "%d", sum))
			return
		}
		b.mu.Lock()
		if c.chunks[n] != nil {
			b.wasted++
		}
		for k, other := range c.manifest.Chunks {
			if other.ID == c.manifest.Chunks[n].ID {
				c.chunks[k] = p
			}
		}
		b.mu.Unlock()
	}
	w.WriteHeader(http.StatusNoContent)
}

func (b *builder) end(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i, ok := b.index(w, r)
	if !ok {
		return
	}
	c := b.coming[i]
	if c == nil || len(c.missing()) > 0 {
		wire.WriteError(w, wire.Errorf(wire.CodeInputIncomplete, "%d", i))
		return
	}
	var nar bytes.Buffer
	for k, p := range c.chunks {
		p = bytes.Clone(p)
		c.manifest.Unmask(k, p)
		nar.Write(p)
	}
	if err := b.take(i, nar.Bytes()); err != nil {
		wire.WriteError(w, err)
		return
	}
	answer(w, b.build())
}
