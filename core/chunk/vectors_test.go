package chunk

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/vectors.json anew")

// vector is one NAR with its references and what must come of it. The NAR's
// bytes are ChaCha8's (C2SP) with the seed as the key, little-endian in its first eight
// bytes, or one byte repeated; references are written at their offsets.
type vector struct {
	Name     string        `json:"name"`
	Seed     uint64        `json:"seed,omitempty"`
	Repeat   string        `json:"repeat,omitempty"`
	Size     int           `json:"size"`
	Refs     []string      `json:"refs"`
	Plant    map[int]int   `json:"plant,omitempty"` // offset to index of Refs
	Chunks   []vectorChunk `json:"chunks"`
	Manifest string        `json:"manifest"`
}

type vectorChunk struct {
	ID     string  `json:"id"`
	Size   uint32  `json:"size"`
	Substs [][]int `json:"substs,omitempty"` // offset, index of Refs
}

type frameVector struct {
	Name  string `json:"name"`
	Chunk string `json:"chunk"` // hexadecimal; empty: unavailable
	Frame string `json:"frame"`
	// Read tells that the frame must be read, but need not be written so:
	// other versions of zstd compress otherwise.
	Read bool `json:"read_only,omitempty"`
}

func (v vector) nar(refs []Ref) []byte {
	p := randomBytes(v.Seed, v.Size)
	if v.Repeat != "" {
		p = bytes.Repeat([]byte(v.Repeat), v.Size/len(v.Repeat)+1)[:v.Size]
	}
	for off, ref := range v.Plant {
		copy(p[off:], refs[ref][:])
	}
	return p
}

func TestVectors(t *testing.T) {
	const file = "testdata/vectors.json"
	var vectors struct {
		NARs   []vector      `json:"nars"`
		Frames []frameVector `json:"frames"`
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	for i := range vectors.NARs {
		v := &vectors.NARs[i]
		var refs []Ref
		for _, s := range v.Refs {
			refs = append(refs, Ref([]byte(s)))
		}
		nar := v.nar(refs)
		m := check(t, nar, refs)
		var chunks []vectorChunk
		for _, c := range m.Chunks {
			d := vectorChunk{ID: c.ID.String(), Size: c.Size}
			for _, s := range c.Substs {
				d.Substs = append(d.Substs, []int{int(s.Offset), int(s.Ref)})
			}
			chunks = append(chunks, d)
		}
		var out bytes.Buffer
		if err := m.Write(&out); err != nil {
			t.Fatal(err)
		}
		encoded := hex.EncodeToString(out.Bytes())
		if *update {
			v.Chunks, v.Manifest = chunks, encoded
			continue
		}
		if a, b := must(json.Marshal(chunks)), must(json.Marshal(v.Chunks)); a != b {
			t.Errorf("%s: chunks are %s", v.Name, a)
		}
		if encoded != v.Manifest {
			t.Errorf("%s: manifest is %s", v.Name, encoded)
		}
	}
	for i := range vectors.Frames {
		v := &vectors.Frames[i]
		plain, err := hex.DecodeString(v.Chunk)
		if err != nil {
			t.Fatal(err)
		}
		if frame := hex.EncodeToString(AppendFrame(nil, plain, strings.Contains(v.Name, "zstd"))); *update {
			v.Frame = frame
		} else if frame != v.Frame && !v.Read {
			t.Errorf("%s: frame is %s", v.Name, frame)
		}
		frame, err := hex.DecodeString(v.Frame)
		if err != nil {
			t.Fatal(err)
		}
		got, err := NewFrameReader(bytes.NewReader(frame)).Next(nil, uint32(len(plain)))
		if len(plain) == 0 {
			if err != ErrUnavailable {
				t.Errorf("%s: %v", v.Name, err)
			}
		} else if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: read %x, %v", v.Name, got, err)
		}
	}
	if *update {
		out, err := json.MarshalIndent(vectors, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(out, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func must(p []byte, err error) string {
	if err != nil {
		panic(err)
	}
	return string(p)
}
