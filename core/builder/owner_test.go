package builder_test

import (
	"bytes"
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// ownersEvents reads a build's events as its builder's owner does.
func (e *env) ownersEvents(id uint32, follow bool) []wire.Event {
	e.t.Helper()
	var text bytes.Buffer
	if err := e.svc.Events(e.t.Context(), bt.ID(id), &text, follow, func() error { return nil }); err != nil {
		e.t.Fatal(err)
	}
	var all []wire.Event
	for dec := json.NewDecoder(&text); dec.More(); {
		var ev wire.Event
		if err := dec.Decode(&ev); err != nil {
			e.t.Fatal(err)
		}
		all = append(all, ev)
	}
	return all
}

func TestOwnerSeesBuilds(t *testing.T) {
	e := start(t, func(c *builder.Config) { c.RecentBuilds = 1 })
	for id := range uint32(3) {
		e.advance(time.Second)
		if r := e.build(e.holder(byte(id+1)), id, small("x")...); r.Error != nil {
			t.Fatal(r.Error)
		}
	}
	g := e.gate()
	c := e.holder(7)
	ev := e.put(c, 7, e.one("7"))
	<-g.begun
	all := e.svc.Builds()
	if len(all) != 4 || all[0].ID != bt.ID(7) || all[1].ID != bt.ID(2) || all[3].ID != bt.ID(0) || len(e.svc.Status().Recent) != 1 {
		t.Errorf("got %+v", all)
	}
	// What there is of a build that runs, which does not end with it.
	if got := e.ownersEvents(7, false); len(got) == 0 || got[len(got)-1].Type == wire.EventFinished {
		t.Errorf("got %+v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.svc.Events(ctx, bt.ID(7), new(bytes.Buffer), true, func() error { return nil }); err == nil {
		t.Error("following a build that runs ended without its end")
	}
	wantCode(t, e.svc.Events(t.Context(), bt.ID(9), nil, false, nil), wire.CodeNotFound)
	close(g.open)
	if got := e.ownersEvents(7, true); got[len(got)-1].Type != wire.EventFinished {
		t.Errorf("got %+v", got)
	}
	if _, err := ev.Finish(); err != nil {
		t.Fatal(err)
	}
}

// The owner reads what an interrupted build has told.
func TestOwnerSeesInterrupted(t *testing.T) {
	e := start(t)
	g := e.gate()
	e.put(e.holder(1), 1, e.one("1"))
	<-g.begun
	e.stop()
	e.run()
	if all := e.svc.Builds(); len(all) != 1 || all[0].State != wire.StateInterrupted {
		t.Errorf("got %+v", all)
	}
	if got := e.ownersEvents(1, false); len(got) < 2 || got[0].Seq != 1 {
		t.Errorf("got %+v", got)
	}
}

// The owner may look at a build, and cancel those of a ticket, while it is admitted.
func TestOwnerLooksWhileAdmitted(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	o := e.one("1")
	stop := make(chan struct{})
	var lookers sync.WaitGroup
	lookers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				e.svc.Builds()
				e.svc.CancelTicket(t.Context(), ticket.ID{1})
			}
		}
	})
	for id := range uint32(50) {
		if _, err := c.Put(bt.ID(id), bt.Request(o)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	lookers.Wait()
}

// A client that leaves a detached build before its inputs are there has left it:
// the place that it holds is given up.
func TestDetachedWithoutInputsIsAbandoned(t *testing.T) {
	e := start(t, func(c *builder.Config) { c.ReattachGrace = 30 * time.Millisecond })
	c := e.holder(1)
	objects := small("late")
	req := bt.Request(objects...)
	req.Detach = true
	if _, err := c.Put(bt.ID(1), req); err != nil {
		t.Fatal(err)
	}
	eventually(t, "abandoned", func() bool { return e.state(c, 1) == wire.StateCancelled })
}

// Who waits because the builder is paused waits in line.
func TestPausedPositions(t *testing.T) {
	e := start(t)
	e.svc.Pause(true)
	c := e.holder(1)
	ev := e.put(c, 1, e.one("1"))
	e.put(c, 2, e.one("2"))
	eventually(t, "positions", func() bool {
		x, err1 := c.Get(bt.ID(1))
		y, err2 := c.Get(bt.ID(2))
		return err1 == nil && err2 == nil && x.Position == 1 && y.Position == 2
	})
	e.svc.Pause(false)
	if r, err := ev.Finish(); err != nil || r.Error != nil {
		t.Errorf("%+v, %v", r, err)
	}
}
