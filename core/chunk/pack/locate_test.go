package pack

import (
	"bytes"
	"testing"
	"time"
)

// What has been written is where Locate says, other processes' too, and what has not is
// nowhere. Its pack has been of use.
func TestLocate(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	other := open(t, dir, config(c))
	put(t, other, 0, 10)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	const last = 60
	s := open(t, dir, config(c))
	put(t, s, 10, last)
	c.add(2 * usedEvery)
	written := 0
	for i := range last {
		want := data(i)
		file, off := s.Locate(id(i), len(want))
		if file == nil {
			if i < 10 {
				t.Errorf("chunk %d is nowhere", i)
			}
			continue
		}
		written++
		got := make([]byte, len(want))
		if _, err := file.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
			t.Errorf("chunk %d is not there: %v", i, err)
		}
		if file, _ := s.Locate(id(i), len(want)+1); file != nil {
			t.Errorf("chunk %d is there with another size", i)
		}
	}
	if written <= 10 || written == last {
		t.Errorf("%d of %d chunks are written", written, last)
	}
	if file, _ := s.Locate(id(last), len(data(last))); file != nil {
		t.Error("a chunk that was never put is there")
	}
	if used := time.Unix(0, s.packs[0].used.Load()); !used.Equal(c.now) {
		t.Errorf("the first pack was last used %v, now is %v", used, c.now)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if file, _ := s.Locate(id(0), len(data(0))); file != nil {
		t.Error("a closed store has a chunk")
	}
}
