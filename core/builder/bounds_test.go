package builder_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

// slowLogs has logs that end when they are told to, and counts those that are open.
type slowLogs struct {
	*bt.Store
	end chan struct{}

	mu         sync.Mutex
	open, most int
}

func (s *slowLogs) BuildLog(nix.Path) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	s.most = max(s.most, s.open)
	return slowLog{s}, nil
}

type slowLog struct{ s *slowLogs }

func (l slowLog) Read([]byte) (int, error) { <-l.s.end; return 0, io.EOF }

func (l slowLog) Close() error {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.s.open--
	return nil
}

// brokenLogs are damaged in the middle.
type brokenLogs struct{ *bt.Store }

func (brokenLogs) BuildLog(nix.Path) (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)), iotest.ErrReader(errors.New("damaged")))), nil
}

// An answer that cannot be finished does not look as if it were.
func TestBrokenOffAnswer(t *testing.T) {
	e := start(t, func(c *builder.Config) { c.Store = brokenLogs{c.Store.(*bt.Store)} })
	c := e.holder(1)
	objects := small("a")
	if r := e.build(c, 1, objects...); r.Error != nil {
		t.Fatal(r.Error)
	}
	resp, err := c.Do(http.MethodGet, "/v1/cache/log/"+objects[2].Info.Path.Base(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("%d bytes, and then the end", len(got))
	}
}

// noDaemon is a store whose daemon is away at times.
type noDaemon struct {
	*bt.Store
	away atomic.Bool
}

func (s *noDaemon) Session(ctx context.Context) (builder.Session, error) {
	if s.away.Load() {
		return nil, errors.New("connection refused")
	}
	return s.Store.Session(ctx)
}

// A connection that could not be had takes nobody's place.
func TestNoDaemonForAWhile(t *testing.T) {
	var store noDaemon
	e := start(t, func(c *builder.Config) {
		store.Store = c.Store.(*bt.Store)
		c.Store = &store
	})
	c := e.holder(1)
	objects := small("a")
	store.away.Store(true)
	for id := range uint32(200) { // more than there may be
		if _, err := c.Put(bt.ID(id), bt.Request(objects...)); wire.CodeOf(err) != wire.CodeStore {
			t.Fatalf("build %d: %v", id, err)
		}
	}
	store.away.Store(false)
	if r := e.build(c, 0, objects...); r.Error != nil {
		t.Error(r.Error)
	}
}

// Unpacking a log takes megabytes, for as long as its reader likes: a ticket has no
// more of them at once than of other answers, which leaves room for others.
func TestLogsAreBounded(t *testing.T) {
	const share, all = 24, 72
	logs := &slowLogs{end: make(chan struct{})}
	e := start(t, func(c *builder.Config) {
		logs.Store = c.Store.(*bt.Store)
		c.Store = logs
	})
	c := e.holder(1)
	objects := small("a")
	if r := e.build(c, 1, objects...); r.Error != nil {
		t.Fatal(r.Error)
	}
	var readers sync.WaitGroup
	for range all {
		readers.Go(func() {
			resp, err := c.Do(http.MethodGet, "/v1/cache/log/"+objects[1].Info.Path.Base(), nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if _, err := io.ReadAll(resp.Body); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "as many as may be", func() bool {
		logs.mu.Lock()
		defer logs.mu.Unlock()
		return logs.open >= share
	})
	close(logs.end)
	readers.Wait()
	if logs.most > share {
		t.Errorf("%d logs were open at once", logs.most)
	}
}

// Each reader of events may hold a buffer for as long as it takes nothing: a ticket
// has a share of them, however many builds it has.
func TestReadersAreBounded(t *testing.T) {
	const share, readers = 1024, 64
	e := start(t)
	g := e.gate()
	defer close(g.open)
	c := e.holder(1)
	opened := 0
	for id := range uint32(share/readers + 1) {
		if _, err := c.Put(bt.ID(id), bt.Request(e.one("1"))); err != nil {
			t.Fatal(err)
		}
		for range readers {
			ev, err := c.Events(bt.ID(id), 1)
			if err != nil {
				wantCode(t, err, wire.CodeRate)
				continue
			}
			defer ev.Close()
			opened++
		}
	}
	if opened != share {
		t.Errorf("%d readers at once", opened)
	}
	if e.put(e.holder(2), 100, e.one("2")) == nil {
		t.Error("another has none")
	}
}

// slowMissing takes until it is told to tell what is missing for one derivation, and
// counts who waits for that.
type slowMissing struct {
	*bt.Store
	drv nix.Path
	end chan struct{}

	mu         sync.Mutex
	open, most int
}

func (s *slowMissing) Missing(ctx context.Context, targets []daemon.DerivedPath) (daemon.Missing, error) {
	if targets[0].Path == s.drv {
		s.count(1)
		<-s.end
		s.count(-1)
	}
	return s.Store.Missing(ctx, targets)
}

func (s *slowMissing) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open += n
	s.most = max(s.most, s.open)
}

// What is missing may take minutes to find out: whoever asks that many times at once
// keeps no other ticket waiting.
func TestMissingIsShared(t *testing.T) {
	const share, all = 4, 12
	object, _ := bt.Derivation(bt.Drv{Name: "slow"})
	slow := &slowMissing{drv: object.Info.Path, end: make(chan struct{})}
	e := start(t, func(c *builder.Config) {
		slow.Store = c.Store.(*bt.Store)
		c.Store = slow
	})
	e.store.Add(object)
	ask := func(c *bt.Client, object bt.Object) {
		req := bt.Request(object)
		var plan wire.Plan
		if err := c.JSON(http.MethodPost, "/v1/plan", wire.PlanRequest{Roots: req.Roots, Closure: req.Closure}, &plan); err != nil || len(plan.WillBuild) != 1 {
			t.Errorf("%+v, %v", plan, err)
		}
	}
	end := sync.OnceFunc(func() { close(slow.end) })
	defer end()
	c := e.holder(1)
	var asking sync.WaitGroup
	for range all {
		asking.Go(func() { ask(c, object) })
	}
	eventually(t, "as many as may be", func() bool {
		slow.mu.Lock()
		defer slow.mu.Unlock()
		return slow.open >= share
	})
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		ask(e.holder(2), e.one("other"))
	}()
	eventually(t, "an answer for another", func() bool {
		select {
		case <-answered:
			return true
		default:
			return false
		}
	})
	end()
	asking.Wait()
	if slow.most > share {
		t.Errorf("%d were asked at once", slow.most)
	}
}

func TestDiskIsPromisedOnce(t *testing.T) {
	e := start(t)
	e.setFree(5 << 20)
	src := bt.Source("src", strings.Repeat("x", 2<<20)) // needs 4 MiB for a moment
	a, b := e.holder(1), e.holder(2)
	for i, c := range []*bt.Client{a, b} {
		if _, err := c.Put(bt.ID(uint32(i)), bt.Request(withSource(src)...)); err != nil {
			t.Fatal(err)
		}
	}
	cut := bt.Cut(src)
	missing, err := a.PutManifest(bt.ID(0), 0, cut.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.PutManifest(bt.ID(1), 0, cut.Manifest)
	wantCode(t, err, wire.CodeDisk)
	for _, body := range cut.Requests(missing) {
		if err := a.PutChunks(bt.ID(0), 0, body); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Finish(bt.ID(0), 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.SendLarge(bt.ID(1), 0, src); err != nil {
		t.Error(err)
	}
}

// What has been written of a large input is promised no more, or as long as one is on its
// way, another has room for nothing, and one that was cut off cannot go on.
func TestWrittenIsNotPromised(t *testing.T) {
	e := start(t)
	src := bt.Source("src", noise(1, 2<<20))
	size := src.Info.NarSize
	free := 2*size + 1<<20 // and 1 MiB for others
	e.setFree(free)
	a, b := e.holder(1), e.holder(2)
	if _, err := a.Put(bt.ID(1), bt.Request(withSource(src)...)); err != nil {
		t.Fatal(err)
	}
	cut := bt.Cut(src)
	if _, err := a.PutManifest(bt.ID(1), 0, cut.Manifest); err != nil {
		t.Fatal(err)
	}
	half := make([]int, len(cut.Chunks)/2)
	for i := range half {
		half[i] = i
		free -= uint64(len(cut.Chunks[i]))
	}
	if err := a.PutChunks(bt.ID(1), 0, cut.Frames(half...)); err != nil {
		t.Fatal(err)
	}
	e.setFree(free)
	large := bt.Source("large", noise(2, 600<<10))
	if _, err := b.Put(bt.ID(2), bt.Request(withSource(large)...)); err != nil {
		t.Fatal(err)
	}
	_, err := b.PutManifest(bt.ID(2), 0, bt.Cut(large).Manifest)
	wantCode(t, err, wire.CodeDisk)
	objects := withSource(bt.Source("smaller", noise(3, 300<<10)))
	v, err := b.Put(bt.ID(3), bt.Request(objects...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.SendWanted(v, objects...); err != nil {
		t.Errorf("there is room for another: %v", err)
	}
	e.stop()
	e.run()
	e.setFree(free - 1<<20)
	if _, err := a.Put(bt.ID(1), bt.Request(withSource(src)...)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.SendLarge(bt.ID(1), 0, src); err != nil {
		t.Errorf("there is room for the rest: %v", err)
	}
}

// fullDisk has substituters that never come to an end.
type fullDisk struct {
	*bt.Store
	asked chan struct{}
}

func (s *fullDisk) ValidPaths(ctx context.Context, paths []nix.Path, substitute bool) ([]nix.Path, error) {
	if !substitute {
		return s.Store.ValidPaths(ctx, paths, false)
	}
	close(s.asked)
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// What the builder's own substituters have of a closure is fetched without a limit of the
// ticket's, and counts as little as its holder likes: it must not take the reserve.
func TestSubstitutesLeaveTheReserve(t *testing.T) {
	full := &fullDisk{asked: make(chan struct{})}
	e := start(t, func(c *builder.Config) {
		c.MinFree, c.DiskEvery = 1<<30, time.Millisecond
		full.Store = c.Store.(*bt.Store)
		c.Store = full
	})
	c := e.holder(1)
	go func() {
		<-full.asked
		e.setFree(1<<30 - 1)
	}()
	answered := make(chan error, 1)
	go func() {
		_, err := c.Put(bt.ID(1), bt.Request(withSource(bt.Built(bt.Source("built", "x").Info.Path, "contents"))...))
		answered <- err
	}()
	select {
	case err := <-answered:
		wantCode(t, err, wire.CodeDisk)
	case <-time.After(30 * time.Second):
		t.Error("the substituters fill the disk")
		e.svc.Close()
		<-answered
	}
}
