//go:build unix

package chunk

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
)

const benchSize = 64 << 20

// benchNARs are what is cut. References of the kind that a program has stand in
// all of them, one in about 10 KiB.
func benchNARs(b *testing.B, refs []Ref) map[string][]byte {
	b.Helper()
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		b.Fatal(err)
	}
	var text []byte
	err = filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		p, err := os.ReadFile(path)
		text = append(text, p...)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	nars := map[string][]byte{
		"incompressible": randomBytes(1, benchSize),
		"elf":            bytes.Repeat(program, benchSize/len(program)+1)[:benchSize],
		"text":           bytes.Repeat(text, benchSize/len(text)+1)[:benchSize],
		"base32":         []byte(nil),
	}
	hashes := randomBytes(2, benchSize)
	for i, c := range hashes {
		hashes[i] = alphabet[c%32]
	}
	nars["base32"] = hashes
	for _, nar := range nars {
		for i, off := 0, 0; off+RefLen <= len(nar); i, off = i+1, off+10_007 {
			copy(nar[off:], refs[i%len(refs)][:])
		}
	}
	return nars
}

// rate reports the bytes for each second of a core, which other processes on
// the machine disturb less than the clock's.
func rate(b *testing.B, n int) {
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	b.Cleanup(func() {
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
		spent := func(r syscall.Rusage) time.Duration { return time.Duration(r.Utime.Nano() + r.Stime.Nano()) }
		b.ReportMetric(float64(n)*float64(b.N)/1e6/(spent(after)-spent(before)).Seconds(), "MB/core-s")
	})
	b.SetBytes(int64(n))
	b.ReportAllocs()
}

// BenchmarkCut compares Cut and the encoding of the manifest, reading from a
// file, with its parts alone. Run it with TMPDIR on a tmpfs.
func BenchmarkCut(b *testing.B) {
	refs := randomRefs(1, 60)
	for name, nar := range benchNARs(b, refs) {
		path := filepath.Join(b.TempDir(), name)
		if err := os.WriteFile(path, nar, 0o600); err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/all", func(b *testing.B) {
			rate(b, len(nar))
			for b.Loop() {
				file, err := os.Open(path)
				if err != nil {
					b.Fatal(err)
				}
				e := NewEncoder(io.Discard, refs)
				if _, err := Cut(b.Context(), file, refs, func(c Chunk, _ []byte) error { return e.Chunk(c) }); err != nil {
					b.Fatal(err)
				}
				if err := e.Close(); err != nil {
					b.Fatal(err)
				}
				file.Close()
			}
		})
		b.Run(name+"/blake3", func(b *testing.B) {
			rate(b, len(nar))
			for b.Loop() {
				for at := 0; at < len(nar); at += 48 << 10 {
					Sum(nar[at:min(len(nar), at+48<<10)])
				}
			}
		})
		b.Run(name+"/library", func(b *testing.B) {
			rate(b, len(nar))
			buf := make([]byte, window)
			for b.Loop() {
				c, err := chunkers.NewChunkerBuffer(algorithm, bytes.NewReader(nar),
					&chunkers.ChunkerOpts{MinSize: MinSize, NormalSize: NormalSize, MaxSize: MaxSize}, buf)
				for err == nil {
					_, err = c.Next()
				}
				if err != io.EOF {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/mask", func(b *testing.B) {
			m := newMatcher(refs)
			p := make([]byte, window)
			rate(b, len(nar))
			for b.Loop() {
				for at := 0; at < len(nar); at += len(p) {
					n := copy(p, nar[at:])
					m.mask(p[:n], func(int, uint32) bool { return true })
				}
			}
		})
	}
}

// BenchmarkUnmask is what a reader of chunks does with each.
func BenchmarkUnmask(b *testing.B) {
	refs := randomRefs(1, 60)
	m := &Manifest{Refs: refs}
	nar := benchNARs(b, refs)["incompressible"]
	if _, err := Cut(b.Context(), bytes.NewReader(nar), refs, func(c Chunk, _ []byte) error {
		m.Chunks = append(m.Chunks, c)
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	rate(b, len(nar))
	for b.Loop() {
		for i, c := range m.Chunks {
			m.Unmask(i, nar[c.Offset:][:c.Size])
		}
	}
}

func BenchmarkManifest(b *testing.B) {
	refs := randomRefs(1, 60)
	var encoded bytes.Buffer
	e := NewEncoder(&encoded, refs)
	nar := benchNARs(b, refs)["incompressible"]
	if _, err := Cut(b.Context(), bytes.NewReader(nar), refs, func(c Chunk, _ []byte) error { return e.Chunk(c) }); err != nil {
		b.Fatal(err)
	}
	if err := e.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(encoded.Len()))
	for b.Loop() {
		if _, err := ReadManifest(bytes.NewReader(encoded.Bytes()), int64(len(nar))); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(encoded.Len())*1000/float64(len(nar)), "‰-of-NAR")
}

func BenchmarkFrames(b *testing.B) {
	nars := benchNARs(b, randomRefs(1, 60))
	for _, name := range []string{"incompressible", "elf", "text"} {
		nar := nars[name][:16<<20]
		b.Run(name+"/zstd", func(b *testing.B) {
			rate(b, len(nar))
			var wire int64
			var frame []byte
			for b.Loop() {
				for at := 0; at < len(nar); at += 48 << 10 {
					frame = AppendFrame(frame[:0], nar[at:min(len(nar), at+48<<10)], true)
					wire += int64(len(frame))
				}
			}
			b.ReportMetric(100*float64(wire)/float64(b.N)/float64(len(nar)), "%-of-size")
		})
		b.Run(name+"/unzstd", func(b *testing.B) {
			var out []byte
			for at := 0; at < len(nar); at += 64 << 10 {
				out = AppendFrame(out, nar[at:at+64<<10], true)
			}
			rate(b, len(nar))
			var p []byte
			for b.Loop() {
				r := NewFrameReader(bytes.NewReader(out))
				for range len(nar) / (64 << 10) {
					var err error
					if p, err = r.Next(p[:0], 64<<10); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
