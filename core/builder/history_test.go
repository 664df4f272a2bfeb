package builder

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Of builds that are replaced, have ended and are forgotten, nothing is left.
func TestRegisterForgets(t *testing.T) {
	s := &Service{builds: newRegister()}
	made := func(id wire.BuildID) *build {
		return &build{rec: BuildRecord{ID: id, Client: key.ID{1}, Ticket: ticket.ID{1}}, done: make(chan struct{})}
	}
	old, fresh, other := s.pastBuild(BuildRecord{ID: "a", Client: key.ID{1}, Ticket: ticket.ID{1}}), made("a"), made("b")
	for _, step := range []struct {
		do        func(*build)
		b         *build
		all, live int
	}{
		{s.builds.put, old, 1, 0}, {s.builds.put, fresh, 1, 1}, {s.builds.drop, old, 1, 1}, {s.builds.ended, old, 1, 1},
		{s.builds.put, other, 2, 2}, {s.builds.ended, other, 2, 1}, {s.builds.put, old, 2, 0}, {s.builds.drop, other, 1, 0},
		{s.builds.drop, old, 0, 0},
	} {
		step.do(step.b)
		r := &s.builds
		if len(r.all) != step.all || len(r.live) != step.live || len(r.clients[key.ID{1}]) != step.all || len(r.tickets[ticket.ID{1}]) != step.all {
			t.Errorf("%d builds, %d of them live, %d of the client, %d of the ticket; want %d and %d",
				len(r.all), len(r.live), len(r.clients[key.ID{1}]), len(r.tickets[ticket.ID{1}]), step.all, step.live)
		}
	}
	if len(s.builds.clients) != 0 || len(s.builds.tickets) != 0 {
		t.Errorf("%d clients and %d tickets are left", len(s.builds.clients), len(s.builds.tickets))
	}
}

// BenchmarkHistory is what requests and the owner wait for where 20,000 builds are
// remembered, of which ten are the caller's: to find its builds for each path or piece of
// a NAR, to count what is under way for a new build, and the newest for drv-thru status.
func BenchmarkHistory(b *testing.B) {
	const n, each = 20_000, 10
	s := &Service{builds: newRegister(), queue: newQueue(1), cfg: Config{Now: time.Now}}
	s.tuned.Store(&Tuning{RecentBuilds: defaultRecentBuilds})
	c := &caller{ticket: &TicketRecord{ID: ticket.ID{1}}}
	for i := range n {
		rec := BuildRecord{ID: wire.BuildID(fmt.Sprint(i)), State: wire.StateBuilt, Ended: time.Unix(int64(i), 0), Ticket: ticket.ID{1}}
		binary.BigEndian.PutUint32(rec.Client[:], uint32(i/each))
		binary.BigEndian.PutUint32(rec.Ticket[1:], uint32(i/each))
		s.builds.put(s.pastBuild(rec))
	}
	for name, f := range map[string]func(){
		"own": func() {
			if own := s.own(c); len(own) != each {
				b.Fatal(len(own))
			}
		},
		"admission": func() {
			if err := s.roomFor(c); err != nil {
				b.Fatal(err)
			}
		},
		"status": func() {
			if st := s.ended(s.tuning().RecentBuilds); len(st) != defaultRecentBuilds {
				b.Fatal(len(st))
			}
		},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f()
			}
		})
	}
}
