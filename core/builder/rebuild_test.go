package builder_test

import (
	"context"
	"errors"
	"testing"

	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

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
