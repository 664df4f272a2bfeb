package builder_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/wire"
)

// within sends requests that end with ctx.
type within struct {
	ctx context.Context
	rt  http.RoundTripper
}

func (w within) RoundTrip(r *http.Request) (*http.Response, error) {
	return w.rt.RoundTrip(r.WithContext(w.ctx))
}

// A client that leaves while substituters are asked for it, detached or not, has left
// them no work without an end.
func TestAbandonedWhileSubstituting(t *testing.T) {
	for _, detach := range []bool{false, true} {
		t.Run(fmt.Sprintf("detached %v", detach), func(t *testing.T) {
			slow := &fullDisk{asked: make(chan struct{})}
			e := start(t, func(c *builder.Config) {
				c.ReattachGrace = 30 * time.Millisecond
				slow.Store = c.Store.(*bt.Store)
				c.Store = slow
			})
			c := e.holder(1)
			ctx, leave := context.WithCancel(t.Context())
			gone := &bt.Client{Server: c.Server, ID: c.ID, Secret: c.Secret,
				HTTP: &http.Client{Transport: within{ctx, c.Server.Client().Transport}}}
			go func() {
				<-slow.asked
				leave()
			}()
			req := bt.Request(withSource(bt.Built(bt.Source("built", "x").Info.Path, "contents"))...)
			req.Detach = detach
			if _, err := gone.Put(bt.ID(1), req); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			eventually(t, "the substituters are asked no more", func() bool { return e.svc.Builds()[0].State.Ended() })
			if b, err := c.Get(bt.ID(1)); err != nil || b.State != wire.StateCancelled || b.Result.Error.Code != wire.CodeBuildAbandoned {
				t.Errorf("it is %+v, %v", b, err)
			}
		})
	}
}

// A client that cancels while substituters are asked for it ends that at once.
func TestCancelledWhileSubstituting(t *testing.T) {
	slow := &fullDisk{asked: make(chan struct{})}
	e := start(t, func(c *builder.Config) {
		slow.Store = c.Store.(*bt.Store)
		c.Store = slow
	})
	c := e.holder(1)
	put := make(chan error, 1)
	go func() {
		_, err := c.Put(bt.ID(1), bt.Request(withSource(bt.Built(bt.Source("built", "x").Info.Path, "contents"))...))
		put <- err
	}()
	<-slow.asked
	if b, err := c.Cancel(bt.ID(1)); err != nil || b.State != wire.StateCancelled {
		t.Errorf("it is %+v, %v", b, err)
	}
	wantCode(t, <-put, wire.CodeBuildCancelled)
}

// A detached build that got all its inputs from substituters needs nobody.
func TestDetachedWithSubstitutes(t *testing.T) {
	e := start(t, func(c *builder.Config) { c.ReattachGrace = 30 * time.Millisecond; c.Slots = 2 })
	g := e.gate()
	c := e.holder(1)
	objects := withSource(bt.Built(bt.Source("built", "x").Info.Path, "contents"))
	e.store.AddUpstream(objects[0])
	e.store.Add(objects[1])
	e.detach(c, 1, objects...)
	<-g.begun
	if _, err := c.Put(bt.ID(2), bt.Request(e.one("2"))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another is abandoned", func() bool { return e.state(c, 2) == wire.StateCancelled })
	close(g.open)
	if r := e.finish(c, 1); r.Error != nil {
		t.Error(r.Error)
	}
}
