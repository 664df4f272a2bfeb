package chunk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestFrames(t *testing.T) {
	text := []byte(strings.Repeat("all the same ", 9000))
	noise := randomBytes(30, MaxSize)
	var out []byte
	for range 3 {
		out = AppendFrame(out, noise[:MinSize], false)
		at := len(out)
		if out = AppendFrame(out, text, true); len(out)-at > len(text)/10 {
			t.Fatal(len(out) - at)
		}
		at = len(out)
		if out = AppendFrame(out, noise, true); len(out)-at != FrameHeader+len(noise) {
			t.Fatal(len(out) - at)
		}
		out = AppendFrame(out, nil, true)
		out = AppendFrame(out, noise[:1], true)
	}
	r := NewFrameReader(iotest.HalfReader(bytes.NewReader(out)))
	for range 3 {
		for _, want := range [][]byte{noise[:MinSize], text, noise, nil, noise[:1]} {
			got, err := r.Next([]byte("before"), uint32(len(want)))
			if want == nil {
				if err != ErrUnavailable {
					t.Fatal(err)
				}
				continue
			}
			if err != nil || !bytes.Equal(got[6:], want) {
				t.Fatal(len(got), err)
			}
		}
	}
	if _, err := r.Next(nil, 1); err != io.EOF {
		t.Fatal(err)
	}
}

func TestFramesDamaged(t *testing.T) {
	frame := func(head uint32, payload []byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, head), payload...)
	}
	bomb, ok := Compress(nil, make([]byte, MaxSize))
	if !ok {
		t.Fatal("zeros do not compress")
	}
	for name, c := range map[string]struct {
		in   []byte
		size uint32
		want error
	}{
		"longer":         {frame(9, make([]byte, 9)), 8, ErrFrame},
		"shorter":        {frame(7, make([]byte, 7)), 8, ErrFrame},
		"huge":           {frame(1<<31-1, nil), MaxSize, ErrFrame},
		"huge zstd":      {frame(frameZstd|(MaxSize+1), make([]byte, MaxSize+1)), MaxSize, ErrFrame},
		"empty zstd":     {frame(frameZstd, nil), 8, ErrFrame},
		"not zstd":       {frame(frameZstd|5, []byte("hello")), 8, ErrFrame},
		"unpacks larger": {frame(frameZstd|uint32(len(bomb)), bomb), MaxSize - 1, ErrFrame},
		"torn header":    {frame(8, nil)[:3], 8, io.ErrUnexpectedEOF},
		"torn payload":   {frame(8, make([]byte, 7)), 8, io.ErrUnexpectedEOF},
		"no payload":     {frame(8, nil), 8, io.ErrUnexpectedEOF},
	} {
		if got, err := NewFrameReader(bytes.NewReader(c.in)).Next(nil, c.size); !errors.Is(err, c.want) || len(got) > 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewFrameReader(bytes.NewReader(frame(MaxSize+1, make([]byte, MaxSize+1)))).Next(nil, MaxSize+1); err == nil {
		t.Error("read too large a chunk")
	}
}

func FuzzFrame(f *testing.F) {
	frames := AppendFrame(nil, []byte("hello"), false)
	frames = AppendFrame(frames, make([]byte, 5000), true)
	f.Add(AppendFrame(frames, nil, false), uint32(5), uint32(5000))
	f.Fuzz(func(t *testing.T, in []byte, one, two uint32) {
		r := NewFrameReader(bytes.NewReader(in))
		for _, size := range []uint32{one, two, two} {
			p, err := r.Next(nil, size)
			if err == nil && (len(p) != int(size) || size > MaxSize) {
				t.Fatal(len(p), size)
			}
			if cap(p) > 2*MaxSize {
				t.Fatalf("%d bytes for %d", cap(p), size)
			}
		}
	})
}

func TestPace(t *testing.T) {
	var p Pace
	if !p.Pays() {
		t.Error("unknown: does not pay")
	}
	// 250 MB/s of compression, to a third.
	p.Compressed(1e6, 333_333, 4*time.Millisecond)
	for goodput, want := range map[float64]bool{0: true, 1e6: true, 1e8: true, 2e8: false, 1e9: false} {
		p.Goodput(goodput)
		if p.Pays() != want {
			t.Errorf("at %.0f bytes a second: %v", goodput, !want)
		}
	}
	p.Goodput(1e6)
	for range 100 {
		p.Compressed(1e6, 1e6+50, time.Millisecond) // incompressible
	}
	yes := 0
	for range 10 * probe {
		if p.Pays() {
			yes++
		}
	}
	if yes != 10 {
		t.Errorf("tried %d times of %d", yes, 10*probe)
	}
}
