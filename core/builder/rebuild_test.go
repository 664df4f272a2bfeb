package builder_test

import (
	"context"
	"errors"
	"testing"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

// checkedStore notes how builds are to be checked.
type checkedStore struct {
	*bt.Store
	opts []builder.BuildOptions
}

type checkedSession struct {
	builder.Session
	s *checkedStore
}

func (s *checkedStore) Session(ctx context.Context) (builder.Session, error) {
	session, err := s.Store.Session(ctx)
	return &checkedSession{session, s}, err
}

func (c *checkedSession) Build(ctx context.Context, targets []daemon.DerivedPath, opts builder.BuildOptions, sink daemon.Sink) ([]daemon.BuildResult, error) {
	if opts.Check {
		c.s.opts = append(c.s.opts, opts)
	}
	return c.Session.Build(ctx, targets, opts, sink)
}

// What differs stays on the disk for trusted clients only: it counts against no limit.
func TestStrangersKeepNothingThatDiffers(t *testing.T) {
	store := new(checkedStore)
	e := start(t, func(c *builder.Config) {
		store.Store = c.Store.(*bt.Store)
		c.Store = store
		c.Clients = map[key.ID]builder.TrustedClient{{70}: {Name: "trusted"}}
	})
	for id, c := range []*bt.Client{e.holder(1), {Server: e.server, ID: key.ID{70}}} {
		req := bt.Request(e.one("x"))
		req.Mode = wire.ModeCheck
		if _, err := c.Put(bt.ID(uint32(id)), req); err != nil {
			t.Fatal(err)
		}
		if r := e.finish(c, uint32(id)); r.Error != nil {
			t.Fatal(r.Error)
		}
	}
	if len(store.opts) != 2 || store.opts[0].KeepDiffering || !store.opts[1].KeepDiffering {
		t.Errorf("%+v", store.opts)
	}
}

// What was never built here is built twice, so that there is something to compare
// with; what is there already once more, and what fails not again.
func TestRebuild(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	var builds int
	var fail error
	e.store.OnBuild = func(context.Context, nix.Path, daemon.Sink) error {
		builds++
		return fail
	}
	rebuild := func(id uint32, o bt.Object) *wire.Result {
		t.Helper()
		req := bt.Request(o)
		req.Mode = wire.ModeCheck
		if _, err := c.Put(bt.ID(id), req); err != nil {
			t.Fatal(err)
		}
		ev, err := c.Events(bt.ID(id), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer ev.Close()
		r, err := ev.Finish()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	o := e.one("rebuilt")
	for i, want := range []int{2, 3} {
		if r := rebuild(uint32(i+1), o); r.Error != nil || len(r.Outputs) != 1 || builds != want {
			t.Errorf("time %d: %d builds, %+v", i+1, builds, r)
		}
	}
	builds, fail = 0, errors.New("no")
	if r := rebuild(3, e.one("broken")); r.Error == nil || r.Error.Code != wire.CodeBuildFailed || builds != 1 {
		t.Errorf("a build that fails: %d builds, %+v", builds, r)
	}
}
