package builder_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// rootsIn counts the links in the builds' directories.
func rootsIn(t *testing.T, e *env) int {
	t.Helper()
	links, err := filepath.Glob(filepath.Join(e.cfg.Dir, "*", "*-*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(links)
}

// After keep_outputs no root is left; what is remembered of the newest builds is
// their state and their log.
func TestRetention(t *testing.T) {
	e := start(t, func(c *builder.Config) { c.RecentBuilds = 1; c.KeepOutputs = time.Hour })
	c := e.holder(1)
	for id := range uint32(3) {
		if r := e.build(c, id, small("x")...); r.Error != nil {
			t.Fatal(r.Error)
		}
		e.advance(time.Minute)
	}
	if rootsIn(t, e) == 0 {
		t.Fatal("there are no roots")
	}
	e.advance(time.Hour)
	e.stop()
	e.run() // looks for old builds at its start
	eventually(t, "old builds go", func() bool {
		_, err0 := c.Get(bt.ID(0))
		_, err1 := c.Get(bt.ID(1))
		b, err2 := c.Get(bt.ID(2)) // which may have lost its roots before the restart
		entries, err := os.ReadDir(e.cfg.Dir)
		return err == nil && len(entries) == 1 && wire.CodeOf(err0) == wire.CodeNotFound && wire.CodeOf(err1) == wire.CodeNotFound &&
			err2 == nil && len(b.Result.Outputs) == 0
	})
	if n := rootsIn(t, e); n != 0 {
		t.Errorf("%d roots are left", n)
	}
	if b, err := c.Get(bt.ID(2)); err != nil || b.State != wire.StateBuilt {
		t.Errorf("the newest: %+v, %v", b, err)
	}
	if r := e.finish(c, 2); r.Error != nil {
		t.Errorf("its log: %v", r.Error)
	}
	_, err := c.Do(http.MethodGet, "/v1/cache/closure?build="+string(bt.ID(2)), nil)
	wantCode(t, err, wire.CodeNotFound)
}

// kinds counts garbage by its kind.
func kinds(all []builder.Garbage) map[string]int {
	n := make(map[string]int)
	for _, g := range all {
		n[g.What]++
	}
	return n
}

func TestCollectGarbage(t *testing.T) {
	index, err := cache.OpenIndex(cache.IndexConfig{Dir: t.TempDir(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	e := start(t, func(c *builder.Config) {
		c.RecentBuilds = 1
		c.KeepOutputs = time.Hour
		c.Index = index
	})
	c := e.holder(1)
	big := strings.Repeat("contents of an output ", 20_000)
	e.store.Contents = func(string) string { return big }
	for id := range uint32(2) {
		if r := e.build(c, id, small(string('a'+rune(id)))...); r.Error != nil {
			t.Fatal(r.Error)
		}
		e.advance(time.Minute)
	}
	eventually(t, "the outputs are in the index", func() bool { n, _ := index.Usage(); return n == 2 })
	if err := os.MkdirAll(filepath.Join(e.cfg.Dir, "stray"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(e.cfg.Dir, "stray", "file"), []byte("12345"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := e.svc.CollectGarbage(t.Context(), true); err != nil || len(got) != 1 || got[0].What != builder.GarbageLeft {
		t.Errorf("before their time is over: %+v, %v", got, err)
	}
	b, err := c.Get(bt.ID(0))
	if err != nil {
		t.Fatal(err)
	}
	e.store.Delete(nix.Path(b.Result.Outputs[0].Path))
	e.advance(time.Hour)
	want := map[string]int{
		builder.GarbageOutputs: 2, builder.GarbageBuild: 1, builder.GarbageIndex: 1, builder.GarbageLeft: 1,
	}
	for _, dryRun := range []bool{true, true, false} {
		got, err := e.svc.CollectGarbage(t.Context(), dryRun)
		if err != nil {
			t.Fatal(err)
		}
		for kind, n := range want {
			if kinds(got)[kind] != n {
				t.Errorf("dry run %v: %d of %q, want %d", dryRun, kinds(got)[kind], kind, n)
			}
		}
		i := slices.IndexFunc(got, func(g builder.Garbage) bool { return g.What == builder.GarbageLeft })
		if i < 0 || got[i].Bytes != 5 {
			t.Errorf("got %+v", got)
		}
		if roots := rootsIn(t, e); (roots > 0) != dryRun {
			t.Errorf("dry run %v: %d roots are left", dryRun, roots)
		}
	}
	if got, err := e.svc.CollectGarbage(t.Context(), false); err != nil || len(got) != 0 {
		t.Errorf("a second time: %+v, %v", got, err)
	}
	if n, _ := index.Usage(); n != 1 {
		t.Errorf("%d index files", n)
	}
}

// The logs of ended builds have a bound, and the oldest go first.
func TestLogQuota(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	for id := range uint32(2) {
		if r := e.build(c, id, small("x")...); r.Error != nil {
			t.Fatal(r.Error)
		}
		e.advance(time.Minute)
	}
	newest, err := os.Stat(filepath.Join(e.cfg.Dir, string(bt.ID(1)), "events.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	// Not from the start: a builder also looks by itself, whenever it gets to it.
	e.svc.SetTuning(builder.Tuning{KeepLogs: newest.Size()})
	eventually(t, "the oldest goes", func() bool {
		if _, err := e.svc.CollectGarbage(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		_, err := c.Events(bt.ID(0), 1)
		return wire.CodeOf(err) == wire.CodeNotFound
	})
	if r := e.finish(c, 1); r.Error != nil {
		t.Errorf("the newest: %v", r.Error)
	}
	if _, err := c.Do(http.MethodGet, "/v1/cache/closure?build="+string(bt.ID(0)), nil); err != nil {
		t.Errorf("its outputs: %v", err)
	}
}

// fullRecords cannot write down how a build ended while full is set.
type fullRecords struct {
	*bt.Records
	full atomic.Bool
}

func (r *fullRecords) UpdateBuild(ctx context.Context, b builder.BuildRecord) error {
	if r.full.Load() {
		return errors.New("database or disk is full (13)")
	}
	return r.Records.UpdateBuild(ctx, b)
}

// unrecorded is a builder whose disk was full when its holder's build 1 ended.
func unrecorded(t *testing.T) (*env, *bt.Client, *fullRecords) {
	t.Helper()
	full := &fullRecords{}
	e := start(t, func(c *builder.Config) {
		full.Records = c.Records.(*bt.Records)
		c.Records, c.Log = full, nil
	})
	c := e.holder(1)
	full.full.Store(true)
	if r := e.build(c, 1, e.one("x")); r.Error != nil {
		t.Fatal(r.Error)
	}
	return e, c, full
}

// An end that could not be recorded is recorded later: nothing counts as under way for
// ever, nor is built again after a restart.
func TestUnrecordedEnd(t *testing.T) {
	e, c, full := unrecorded(t)
	eventually(t, "it is tried again, and told that the disk is still full", func() bool {
		_, err := e.svc.CollectGarbage(t.Context(), false)
		return err != nil
	})
	if rec, err := e.records.Build(t.Context(), bt.ID(1)); err != nil || rec.State.Ended() {
		t.Fatalf("recorded as %q, %v", rec.State, err)
	}
	full.full.Store(false)
	for range 2 {
		if gone, err := e.svc.CollectGarbage(t.Context(), false); err != nil || len(gone) > 0 {
			t.Errorf("%+v, %v", gone, err)
		}
	}
	usage, err := e.records.Usage(t.Context(), builder.UsageQuery{Client: c.ID, Now: now})
	if err != nil || usage.Client.Active != 0 {
		t.Errorf("%d builds are under way, %v", usage.Client.Active, err)
	}
	e.stop()
	e.run()
	if b, err := c.Get(bt.ID(1)); err != nil || b.State != wire.StateBuilt {
		t.Errorf("after a restart: %q, %v", b.State, err)
	}
}

// It is recorded at the latest when the builder stops.
func TestUnrecordedEndAtStop(t *testing.T) {
	e, c, full := unrecorded(t)
	full.full.Store(false)
	e.stop()
	e.run()
	if b, err := c.Get(bt.ID(1)); err != nil || b.State != wire.StateBuilt {
		t.Errorf("after a restart: %q, %v", b.State, err)
	}
}

// A clock that was years ahead keeps nothing for years: the time of what ended then
// begins when the clock is set back, also for later processes.
func TestRetentionClockSetBack(t *testing.T) {
	const years = 10 * 365 * 24 * time.Hour
	e := start(t, func(c *builder.Config) { c.RecentBuilds = 1; c.KeepOutputs = time.Hour })
	c := e.holder(1, func(r *builder.TicketRecord) { r.Expires = time.Time{} })
	e.advance(years)
	for id := range uint32(2) {
		if r := e.build(c, id, small("x")...); r.Error != nil {
			t.Fatal(r.Error)
		}
	}
	e.advance(-years)
	for i, want := range []struct{ roots, builds int }{{4, 2}, {4, 2}, {0, 1}} {
		if _, err := e.svc.CollectGarbage(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(e.cfg.Dir); err != nil || rootsIn(t, e) != want.roots || len(entries) != want.builds {
			t.Errorf("after %d minutes: %d roots and %d builds, want %+v, %v", 40*i, rootsIn(t, e), len(entries), want, err)
		}
		e.stop()
		e.advance(40 * time.Minute)
		e.run()
	}
}

// heldRecords hold up the removal of a build.
type heldRecords struct {
	*bt.Records
	goOn chan struct{}
}

func (r *heldRecords) DeleteBuild(ctx context.Context, id wire.BuildID) error {
	<-r.goOn
	return r.Records.DeleteBuild(ctx, id)
}

// inProcess sends requests to a handler.
type inProcess struct{ h http.Handler }

func (p inProcess) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	defer func() {
		if p := recover(); p == http.ErrAbortHandler { // net/http's server breaks off the connection
			err = http.ErrAbortHandler
		} else if p != nil {
			panic(p)
		}
	}()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	defer r.Body.Close()
	w := httptest.NewRecorder()
	p.h.ServeHTTP(w, r)
	return w.Result(), nil
}

// A client that is back just as its interrupted build is removed gets one that is whole:
// with a record, and with a directory for what keeps its inputs and tells its events.
func TestBackDuringRemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := &heldRecords{goOn: make(chan struct{})}
		e := configured(t, func(c *builder.Config) {
			held.Records = c.Records.(*bt.Records)
			c.Records, c.KeepOutputs, c.RecentBuilds = held, time.Hour, 1
		})
		e.server = &httptest.Server{URL: "https://builder.example"}
		c, object := e.holder(1, func(r *builder.TicketRecord) { r.Expires = time.Time{} }), e.one("1")
		run := func() {
			svc, err := builder.New(t.Context(), e.cfg)
			if err != nil {
				t.Fatal(err)
			}
			e.svc, c.HTTP = svc, &http.Client{Transport: inProcess{svc}}
			svc.Pause(true)
		}
		run()
		if _, err := c.Put(bt.ID(1), bt.Request(object)); err != nil {
			t.Fatal(err)
		}
		e.svc.Close() // interrupts it
		run()
		defer func() { e.svc.Close() }()
		e.advance(time.Minute)
		if _, err := c.Put(bt.ID(2), bt.Request(object)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Cancel(bt.ID(2)); err != nil { // it is the newest, which stays
			t.Fatal(err)
		}
		synctest.Wait() // nothing is old enough to go by itself
		e.advance(2 * time.Hour)
		go func() {
			if _, err := e.svc.CollectGarbage(t.Context(), false); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		back := make(chan error, 1)
		go func() {
			_, err := c.Put(bt.ID(1), bt.Request(object))
			back <- err
		}()
		synctest.Wait()
		close(held.goOn)
		if err := <-back; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := e.records.Build(t.Context(), bt.ID(1)); err != nil {
			t.Errorf("its record: %v", err)
		}
		if _, err := os.Stat(filepath.Join(e.cfg.Dir, string(bt.ID(1)), "events.ndjson")); err != nil {
			t.Errorf("its events: %v", err)
		}
	})
}
