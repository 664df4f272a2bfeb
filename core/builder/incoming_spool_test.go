package builder_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/wire"
)

func TestChunksOutliveWhatBreaks(t *testing.T) {
	text := noise(5, 2<<20)
	src := bt.Source("src", text)
	cut := bt.Cut(src)
	half := len(cut.Chunks) / 2
	var firstHalf []int
	for i := range half {
		firstHalf = append(firstHalf, i)
	}
	begun := func(t *testing.T) (*env, *bt.Client) {
		e := start(t)
		c := e.holder(1)
		id := e.begin(c, 1, src)
		if missing, err := c.PutManifest(id, 0, cut.Manifest); err != nil || !slices.Equal(missing, [][2]int{{0, len(cut.Chunks)}}) {
			t.Fatalf("%v, %v", missing, err)
		}
		// The request breaks off in the middle of another chunk.
		body := cut.Frames(append(slices.Clone(firstHalf), half)...)
		wantCode(t, c.PutChunks(id, 0, body[:len(body)-1]), wire.CodeBadRequest)
		return e, c
	}
	rest := func(t *testing.T, e *env, c *bt.Client, id uint32, want ...[2]int) {
		t.Helper()
		missing, err := c.PutManifest(bt.ID(id), 0, cut.Manifest)
		if err != nil || !slices.Equal(missing, want) {
			t.Fatalf("missing are %v, want %v; %v", missing, want, err)
		}
		for _, body := range cut.Requests(missing) {
			if err := c.PutChunks(bt.ID(id), 0, body); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Finish(bt.ID(id), 0); err != nil {
			t.Fatal(err)
		}
		e.complete(c, id, src)
	}
	end := [2]int{half, len(cut.Chunks) - half}
	t.Run("connection", func(t *testing.T) {
		e, c := begun(t)
		rest(t, e, c, 1, end)
	})
	t.Run("builder", func(t *testing.T) {
		e, c := begun(t)
		e.stop()
		e.run()
		e.begin(c, 1, src)
		rest(t, e, c, 1, end)
	})
	t.Run("client", func(t *testing.T) {
		e, c := begun(t)
		if _, err := c.Cancel(bt.ID(1)); err != nil {
			t.Fatal(err)
		}
		e.begin(c, 2, src)
		rest(t, e, c, 2, end)
	})
	t.Run("client and its identity", func(t *testing.T) {
		e, c := begun(t)
		if _, err := c.Cancel(bt.ID(1)); err != nil {
			t.Fatal(err)
		}
		c.ID = key.ID{99}
		e.begin(c, 2, src)
		rest(t, e, c, 2, end)
		if got := e.uploads(); len(got) != 1 || got[".taken"] != 1 {
			t.Errorf("what is left is %v", got)
		}
	})
	t.Run("source changes", func(t *testing.T) {
		e, c := begun(t)
		changed := bt.Source("src", text+"more")
		e.begin(c, 2, changed)
		if _, sent, err := c.SendLarge(bt.ID(2), 0, changed); err != nil || sent > len(cut.Chunks)-half+2 {
			t.Errorf("%d chunks were sent, %v", sent, err)
		}
	})
	for what, d := range map[string]struct {
		file   string
		at     int
		wanted [][2]int
	}{
		"spool":    {".spool", 1000, [][2]int{{0, 1}, end}},
		"journal":  {".have", 1, [][2]int{{0, 1}, end}},
		"manifest": {".manifest", 200, [][2]int{{0, len(cut.Chunks)}}},
	} {
		t.Run(what+" damaged", func(t *testing.T) {
			e, c := begun(t)
			e.stop()
			damage(t, e, d.file, d.at)
			e.run()
			e.begin(c, 1, src)
			rest(t, e, c, 1, d.wanted...)
		})
	}
	t.Run("time", func(t *testing.T) {
		e, _ := begun(t)
		e.stop()
		e.advance(25 * time.Hour)
		e.run()
		eventually(t, "nothing is left", func() bool { return len(e.uploads()) == 0 })
	})
}

// Of a chunk that the NAR has twice, either copy may be lost.
func TestRepeatedChunkOutlivesDamage(t *testing.T) {
	text := noise(8, 1<<20)
	src := bt.Source("src", text+text)
	cut := bt.Cut(src)
	places := make(map[string]int)
	var offsets, twice []int
	for i, c := range cut.Chunks {
		offsets = append(offsets, 0)
		if i > 0 {
			offsets[i] = offsets[i-1] + len(cut.Chunks[i-1])
		}
		if first, ok := places[string(c)]; ok && twice == nil {
			twice = []int{first, i}
		}
		places[string(c)] = i
	}
	if twice == nil {
		t.Fatal("no chunk comes twice")
	}
	last := len(cut.Chunks) - 1
	for name, damaged := range map[string][]int{"first": twice[:1], "second": twice[1:], "both": twice} {
		t.Run(name, func(t *testing.T) {
			e := start(t)
			c := e.holder(1)
			id := e.begin(c, 1, src)
			if _, err := c.PutManifest(id, 0, cut.Manifest); err != nil {
				t.Fatal(err)
			}
			var most []int
			for i := range last {
				most = append(most, i)
			}
			if err := c.PutChunks(id, 0, cut.Frames(most...)); err != nil {
				t.Fatal(err)
			}
			e.stop()
			for _, i := range damaged {
				damage(t, e, ".spool", offsets[i]+100)
			}
			e.run()
			c.Server = e.server
			e.begin(c, 1, src)
			missing, err := c.PutManifest(id, 0, cut.Manifest)
			if want := [][2]int{{damaged[0], 1}, {last, 1}}; err != nil || !slices.Equal(missing, want) {
				t.Fatalf("missing are %v, want %v; %v", missing, want, err)
			}
			for _, body := range cut.Requests(missing) {
				if err := c.PutChunks(id, 0, body); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := c.Finish(id, 0); err != nil {
				t.Fatal(err)
			}
			e.complete(c, 1, src)
		})
	}
}

// How long uploads are kept may change while the builder runs, as for outputs.
func TestUploadsAreKeptAsTuned(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	src := bt.Source("src", noise(1, 1<<20))
	if _, _, err := c.SendLarge(e.begin(c, 1, src), 0, src); err != nil {
		t.Fatal(err)
	}
	e.complete(c, 1, src)
	if got := e.uploads(); got[".taken"] != 1 {
		t.Fatalf("there is %v", got)
	}
	e.advance(2 * time.Hour)
	tuning := e.cfg.Tuning
	tuning.KeepOutputs = time.Hour
	e.svc.SetTuning(tuning)
	if _, err := e.svc.CollectGarbage(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if got := e.uploads(); len(got) != 0 {
		t.Errorf("what is left is %v", got)
	}
}

// A clock that is set back keeps no upload for as long as it was ahead.
func TestUploadsClockSetBack(t *testing.T) {
	for _, c := range []struct {
		ahead time.Duration
		kept  int
	}{{time.Minute, 1}, {10 * 365 * 24 * time.Hour, 0}} {
		e := start(t)
		client := e.holder(1, func(r *builder.TicketRecord) { r.Expires = time.Time{} })
		src := bt.Source("src", noise(1, 1<<20))
		e.advance(c.ahead)
		if _, _, err := client.SendLarge(e.begin(client, 1, src), 0, src); err != nil {
			t.Fatal(err)
		}
		e.complete(client, 1, src)
		e.advance(-c.ahead)
		if _, err := e.svc.CollectGarbage(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if got := e.uploads(); got[".taken"] != c.kept {
			t.Errorf("%s ahead: what is left is %v", c.ahead, got)
		}
	}
}

// damage changes a byte of the only file with this ending.
func damage(t *testing.T, e *env, end string, at int) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(filepath.Dir(e.cfg.Dir), "uploads", "*", "*"+end))
	if err != nil || len(names) != 1 {
		t.Fatalf("%v, %v", names, err)
	}
	data, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	data[at] ^= 0x55
	if err := os.WriteFile(names[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
}
