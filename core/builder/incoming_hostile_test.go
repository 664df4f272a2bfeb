package builder_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/wire"
)

func TestHostileChunks(t *testing.T) {
	src := bt.Source("src", noise(8, 600_000))
	cut := bt.Cut(src)
	manifest := func(change func(m *chunk.Manifest)) []byte {
		m, err := chunk.ReadManifest(bytes.NewReader(cut.Manifest), int64(src.Info.NarSize))
		if err != nil {
			t.Fatal(err)
		}
		change(m)
		return rawManifest(m)
	}
	spoiled := func(at int) bt.Object {
		o := src
		o.Nar = slices.Clone(src.Nar)
		o.Nar[at] ^= 1
		return o
	}
	raw := func(ordinal, head uint32, payload ...byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, ordinal)
		return append(binary.BigEndian.AppendUint32(b, head), payload...)
	}
	put := func(manifest []byte) func(*bt.Client, wire.BuildID) error {
		return func(c *bt.Client, id wire.BuildID) error {
			_, err := c.PutManifest(id, 0, manifest)
			return err
		}
	}
	chunks := func(body []byte) func(*bt.Client, wire.BuildID) error {
		return func(c *bt.Client, id wire.BuildID) error {
			if _, err := c.PutManifest(id, 0, cut.Manifest); err != nil {
				t.Error(err)
			}
			return c.PutChunks(id, 0, body)
		}
	}
	send := func(o bt.Object) func(*bt.Client, wire.BuildID) error {
		return func(c *bt.Client, id wire.BuildID) error {
			_, _, err := c.SendLarge(id, 0, o)
			return err
		}
	}
	for _, tt := range []struct {
		name string
		do   func(*bt.Client, wire.BuildID) error
		code wire.Code
	}{
		{"contents differ", send(spoiled(len(src.Nar) / 2)), wire.CodeInputHash},
		{"last byte differs", send(spoiled(len(src.Nar) - 1)), wire.CodeInputNar},
		{"magic", send(spoiled(9)), wire.CodeInputNar},
		{"no manifest", put(nil), wire.CodeBadRequest},
		{"junk", put([]byte("junk, and more of it")), wire.CodeInputManifest},
		{"breaks off", put(cut.Manifest[:len(cut.Manifest)-1]), wire.CodeBadRequest},
		{"something follows", put(append(slices.Clone(cut.Manifest), 0)), wire.CodeInputManifest},
		{"too small", put(manifest(func(m *chunk.Manifest) { m.Chunks = m.Chunks[1:] })), wire.CodeInputManifest},
		{"too large", put(manifest(func(m *chunk.Manifest) { m.Chunks = append(m.Chunks, m.Chunks[0]) })), wire.CodeInputManifest},
		{"another total", put(manifest(func(m *chunk.Manifest) { m.Size++ })), wire.CodeInputManifest},
		{"sizes lie", put(manifest(func(m *chunk.Manifest) {
			m.Chunks[0].Size, m.Chunks[1].Size = m.Chunks[0].Size-100, m.Chunks[1].Size+100
			m.Chunks[0].ID = m.Chunks[1].ID
		})), wire.CodeInputManifest},
		{"empty chunk", put(manifest(func(m *chunk.Manifest) { m.Chunks[2].Size = 0 })), wire.CodeInputManifest},
		{"huge chunk", put(manifest(func(m *chunk.Manifest) { m.Chunks[2].Size = 1 << 30 })), wire.CodeInputManifest},
		{"masks nothing", put(manifest(func(m *chunk.Manifest) { m.Refs = nil })), wire.CodeInputManifest},
		{"masks another", put(manifest(func(m *chunk.Manifest) { m.Refs = []chunk.Ref{chunk.Ref(bytes.Repeat([]byte("a"), 32))} })), wire.CodeInputManifest},
		{"mask outside", put(manifest(func(m *chunk.Manifest) {
			m.Chunks[len(m.Chunks)-1].Substs = []chunk.Subst{{Offset: int64(src.Info.NarSize) - 1}}
		})), wire.CodeInputManifest},
		{"mask of no reference", put(manifest(func(m *chunk.Manifest) { m.Chunks[0].Substs = []chunk.Subst{{Offset: 9, Ref: 1}} })), wire.CodeInputManifest},
		{"mask in the wrong place", send(bt.Object{Info: src.Info, Nar: []byte(strings.Replace(string(src.Nar), noise(8, 600_000)[5000:5032], src.Info.Path.Hash(), 1))}), wire.CodeInputHash},
		{"chunks without manifest", func(c *bt.Client, id wire.BuildID) error { return c.PutChunks(id, 0, cut.Frames(0)) }, wire.CodeInputIncomplete},
		{"end without manifest", func(c *bt.Client, id wire.BuildID) error { _, err := c.Finish(id, 0); return err }, wire.CodeInputIncomplete},
		{"end without chunks", func(c *bt.Client, id wire.BuildID) error {
			if _, err := c.PutManifest(id, 0, cut.Manifest); err != nil {
				t.Error(err)
			}
			_, err := c.Finish(id, 0)
			return err
		}, wire.CodeInputIncomplete},
		{"of a derivation", func(c *bt.Client, id wire.BuildID) error { _, err := c.PutManifest(id, 1, cut.Manifest); return err }, wire.CodeInputSize},
		{"of nothing", func(c *bt.Client, id wire.BuildID) error { _, err := c.PutManifest(id, 7, cut.Manifest); return err }, wire.CodeInputUnasked},
		{"of another build", func(c *bt.Client, _ wire.BuildID) error {
			_, err := c.PutManifest(bt.ID(99), 0, cut.Manifest)
			return err
		}, wire.CodeNotFound},
		{"ordinal", chunks(raw(uint32(len(cut.Chunks)), 1, 0)), wire.CodeInputChunk},
		{"highest ordinal", chunks(raw(1<<32-1, 1, 0)), wire.CodeInputChunk},
		{"another chunk", chunks(slices.Concat([]byte{0, 0, 0, 1}, cut.Frames(0)[4:])), wire.CodeInputChunk},
		{"contents of a chunk", chunks(raw(0, uint32(len(cut.Chunks[0])), bytes.Repeat([]byte{1}, len(cut.Chunks[0]))...)), wire.CodeInputChunk},
		{"huge frame", chunks(raw(0, 1<<31-1)), wire.CodeInputChunk},
		{"unavailable", chunks(raw(0, 0)), wire.CodeInputChunk},
		{"no zstd", chunks(raw(0, 1<<31|4, 1, 2, 3, 4)), wire.CodeInputChunk},
		{"breaks off in an ordinal", chunks(cut.Frames(0)[:3]), wire.CodeBadRequest},
		{"breaks off in a head", chunks(cut.Frames(0)[:6]), wire.CodeBadRequest},
		{"breaks off in a chunk", chunks(cut.Frames(0)[:99]), wire.CodeBadRequest},
		{"too much at once", chunks(bytes.Repeat(cut.Frames(0), wire.MaxInputChunkBytes/len(cut.Chunks[0])+1)), wire.CodeTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := start(t)
			c := e.holder(1)
			id := e.begin(c, 1, src)
			wantCode(t, tt.do(c, id), tt.code)
			if e.store.Has(src.Info.Path) {
				t.Error("it is in the store")
			}
			if _, err := c.Cancel(id); err != nil {
				t.Error(err)
			}
			// The builder is unharmed, and so is the one who did it.
			if r := e.build(c, 2, withSource(src)...); r.Error != nil {
				t.Error(r.Error)
			}
			if got := e.uploads(); got[".taken"] != 1 || len(got) != 1 {
				t.Errorf("what is left is %v", got)
			}
		})
	}
}

// rawManifest writes what an Encoder would refuse.
func rawManifest(m *chunk.Manifest) []byte {
	b := binary.AppendUvarint([]byte("DTM\x01"), uint64(len(m.Refs)))
	var refs bytes.Buffer
	if chunk.NewEncoder(&refs, m.Refs).Flush() == nil {
		b = refs.Bytes()
	}
	var off, last int64
	for _, c := range m.Chunks {
		b = binary.AppendUvarint(b, uint64(c.Size))
		b = append(b, c.ID[:]...)
		b = binary.AppendUvarint(b, uint64(len(c.Substs)))
		for _, s := range c.Substs {
			b = binary.AppendUvarint(b, uint64(s.Offset-max(off, last)))
			b = binary.AppendUvarint(b, uint64(s.Ref))
			last = s.Offset + chunk.RefLen
		}
		off += int64(c.Size)
	}
	return binary.AppendUvarint(append(b, 0), uint64(m.Size))
}
