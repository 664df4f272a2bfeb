package builder_test

import (
	"net/http"
	"testing"
	"time"

	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/wire"
)

// A plan of what is built tells how much its outputs are.
func TestPlanOfWhatIsBuilt(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	objects := small("x")
	req := bt.Request(objects...)
	plan := func() (p wire.Plan) {
		t.Helper()
		if err := c.JSON(http.MethodPost, "/v1/plan", wire.PlanRequest{Roots: req.Roots, Closure: req.Closure}, &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := plan(); p.Built || len(p.Wanted) != len(objects) || p.OutputPaths != 0 || p.OutputBytes != 0 {
		t.Errorf("before: %+v", p)
	}
	r := e.build(c, 1, objects...)
	if r.Error != nil {
		t.Fatal(r.Error)
	}
	if p := plan(); !p.Built || p.OutputPaths < 1 || p.OutputBytes == 0 {
		t.Errorf("afterwards: %+v", p)
	}
}

// startWithHistory is start, and its holder has built something that took a minute.
func startWithHistory(t *testing.T) (*env, *bt.Client) {
	t.Helper()
	e := start(t)
	c := e.holder(1)
	g := e.gate()
	history := e.put(c, 1, e.one("history"))
	<-g.begun
	e.advance(time.Minute)
	close(g.open)
	if r, err := history.Finish(); err != nil || r.Error != nil {
		t.Fatalf("%+v, %v", r, err)
	}
	return e, c
}

// Who waits is told for how long, once there is a history to tell by.
func TestWaitIsForetold(t *testing.T) {
	e, c := startWithHistory(t)
	g := e.gate()
	first := e.put(c, 2, e.one("running"))
	<-g.begun
	e.advance(10 * time.Second)
	second := e.put(c, 3, e.one("waiting"))
	for {
		ev, err := second.Next()
		if err != nil {
			t.Fatal(err)
		}
		if ev.Type == wire.EventQueued && ev.Position == 1 {
			if ev.Wait() != 50*time.Second {
				t.Errorf("it is told %+v", ev)
			}
			break
		}
	}
	waiting := 0
	for _, b := range e.svc.Status().Active {
		if b.Position == 1 {
			waiting++
			if b.WaitSeconds != 50 {
				t.Errorf("the status tells %+v", b)
			}
		}
	}
	if waiting != 1 {
		t.Errorf("%d builds are next", waiting)
	}
	close(g.open)
	for _, ev := range []*bt.Events{first, second} {
		if r, err := ev.Finish(); err != nil || r.Error != nil {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// awaitPosition reads events until the build has come to a place.
func awaitPosition(t *testing.T, ev *bt.Events, position int) wire.Event {
	t.Helper()
	for {
		x, err := ev.Next()
		if err != nil {
			t.Fatal(err)
		}
		if x.Type == wire.EventQueued && x.Position == position {
			return x
		}
	}
}

// Who moves up because somebody has got the slot waits for that one, too.
func TestWaitAfterMovingUp(t *testing.T) {
	e, c := startWithHistory(t)
	g := e.gate()
	e.put(c, 2, e.one("running"))
	<-g.begun
	e.put(c, 3, e.one("next"))
	last := e.put(c, 4, e.one("last"))
	if x := awaitPosition(t, last, 2); x.Wait() != 2*time.Minute {
		t.Errorf("at first it is told %+v", x)
	}
	if _, err := c.Cancel(bt.ID(2)); err != nil {
		t.Fatal(err)
	}
	<-g.begun
	if x := awaitPosition(t, last, 1); x.Wait() != time.Minute {
		t.Errorf("then it is told %+v", x)
	}
	close(g.open)
}

// Nor is a build told less that waits again after a restart.
func TestWaitAfterRestart(t *testing.T) {
	e, c := startWithHistory(t)
	g := e.gate()
	e.detach(c, 2, e.one("running"))
	<-g.begun
	e.detach(c, 3, e.one("next"))
	e.detach(c, 4, e.one("last"))
	b, err := c.Get(bt.ID(4)) // it may leave now
	if err != nil {
		t.Fatal(err)
	}
	e.stop()
	e.run()
	<-g.begun
	again, err := c.Events(bt.ID(4), b.LastEvent+1)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	// Whether the first has its slot by then is not certain.
	if x := awaitPosition(t, again, 2); x.Wait() < time.Minute {
		t.Errorf("it is told %+v", x)
	}
	close(g.open)
}
