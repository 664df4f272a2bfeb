package builder_test

import (
	"testing"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Limits change under builds that run and wait.
func TestTuning(t *testing.T) {
	e := start(t)
	g := e.gate()
	c := e.holder(1)
	first := e.put(c, 1, e.one("1"))
	<-g.begun
	second := e.put(c, 2, e.one("2"))
	eventually(t, "the second waits", func() bool { return e.state(c, 2) == wire.StateQueued })
	tuning := builder.Tuning{Slots: 2, MinFree: 1 << 41, RecentBuilds: 1}
	e.svc.SetTuning(tuning)
	<-g.begun
	// The disk counts as full now, for new builds.
	_, err := c.Put(bt.ID(3), bt.Request(e.one("3")))
	wantCode(t, err, wire.CodeDisk)
	tuning.Slots, tuning.MinFree = 1, 0
	e.svc.SetTuning(tuning)
	third := e.put(c, 3, e.one("3"))
	if st := e.svc.Status(); st.Slots != 1 || st.Running != 2 {
		t.Errorf("got %+v", st)
	}
	close(g.open)
	for _, ev := range []*bt.Events{first, second, third} {
		if r, err := ev.Finish(); err != nil || r.Error != nil {
			t.Errorf("%+v, %v", r, err)
		}
	}
	eventually(t, "one is shown", func() bool { st := e.svc.Status(); return len(st.Active) == 0 && len(st.Recent) == 1 })
}
