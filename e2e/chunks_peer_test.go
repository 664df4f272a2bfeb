//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/wire"
)

// cut is an entry's NAR in chunks.
func (e entry) cut() (manifest []byte, m *chunk.Manifest) {
	refs := []chunk.Ref{chunk.Ref([]byte(e.Path.Hash()))}
	for _, p := range e.References {
		refs = append(refs, chunk.Ref([]byte(p.Hash())))
	}
	m = &chunk.Manifest{Refs: chunk.SortRefs(refs)}
	var b bytes.Buffer
	enc := chunk.NewEncoder(&b, m.Refs)
	var err error
	m.Size, err = chunk.Cut(context.Background(), bytes.NewReader(e.nar), m.Refs, func(c chunk.Chunk, _ []byte) error {
		m.Chunks = append(m.Chunks, c)
		return enc.Chunk(c)
	})
	if err == nil {
		err = enc.Close()
	}
	if err != nil {
		panic(err)
	}
	return b.Bytes(), m
}

// chunkFrames is the body of a request with chunks of the entry.
func (e entry) chunkFrames(m *chunk.Manifest, ordinals ...int) []byte {
	var b []byte
	for _, i := range ordinals {
		c := m.Chunks[i]
		p := bytes.Clone(e.nar[c.Offset : c.Offset+int64(c.Size)])
		m.Mask(i, p)
		b = chunk.AppendFrame(binary.BigEndian.AppendUint32(b, uint32(i)), p, true)
	}
	return b
}

func inputPath(id wire.BuildID, index int) string {
	return fmt.Sprintf("/v1/builds/%s/inputs/%d", id, index)
}

// putManifest begins an input and returns what is missing of it.
func (p *peer) putManifest(id wire.BuildID, index int, manifest []byte) ([][2]int, answer) {
	p.t.Helper()
	a := p.ask(http.MethodPut, inputPath(id, index)+"/manifest", bytes.NewReader(manifest))
	var m wire.MissingChunks
	if a.code == "" {
		if err := json.Unmarshal(a.body, &m); err != nil {
			p.t.Fatalf("builder answered %.200q: %v", a.body, err)
		}
	}
	return m.Missing, a
}

func (p *peer) putChunks(id wire.BuildID, index int, body []byte) answer {
	p.t.Helper()
	return p.ask(http.MethodPut, inputPath(id, index)+"/chunks", bytes.NewReader(body))
}

// sendLarge sends an entry in chunks.
func (p *peer) sendLarge(id wire.BuildID, index int, e entry) answer {
	p.t.Helper()
	manifest, m := e.cut()
	missing, a := p.putManifest(id, index, manifest)
	if a.code != "" {
		return a
	}
	var ordinals []int
	size := 0
	send := func() answer {
		if len(ordinals) == 0 {
			return answer{}
		}
		a := p.putChunks(id, index, e.chunkFrames(m, ordinals...))
		ordinals, size = nil, 0
		return a
	}
	for _, r := range missing {
		for i := r[0]; i < r[0]+r[1]; i++ {
			if n := int(m.Chunks[i].Size); size+n > wire.MaxInputChunkBytes {
				if a := send(); a.code != "" {
					return a
				}
			}
			ordinals, size = append(ordinals, i), size+int(m.Chunks[i].Size)
		}
	}
	if a := send(); a.code != "" {
		return a
	}
	return p.ask(http.MethodPost, inputPath(id, index), nil)
}

// send sends entries as a client does: frames, and chunks of what is large.
func (p *peer) send(id wire.BuildID, c closure, wanted ...int) (last answer) {
	p.t.Helper()
	var small []int
	flush := func() {
		if len(small) > 0 && last.code == "" {
			last = p.putInputs(id, bytes.NewReader(c.frames(small...)))
		}
		small = nil
	}
	for _, i := range wanted {
		if len(c[i].nar) < wire.ChunkedInput || c[i].Path.IsDrv() {
			small = append(small, i)
			continue
		}
		if flush(); last.code == "" {
			last = p.sendLarge(id, i, c[i])
		}
	}
	flush()
	return last
}
