package builder_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

func TestRestart(t *testing.T) {
	e := start(t)
	g := e.gate()
	c := e.holder(1, func(r *builder.TicketRecord) { r.MaxUses = 1 })
	object := e.one("1")
	ev := e.put(c, 1, object)
	<-g.begun
	var last int64
	for last == 0 { // up to the start of the build
		x, err := ev.Next()
		if err != nil {
			t.Fatal(err)
		}
		if x.Type == wire.EventPhase && x.State == wire.StateBuilding {
			last = x.Seq
		}
	}
	if err := os.MkdirAll(filepath.Join(e.cfg.Dir, "left-over"), 0o755); err != nil {
		t.Fatal(err)
	}
	e.stop()
	if _, err := ev.Finish(); err == nil {
		t.Error("the stream ended as if the build had")
	}
	e.run()
	if _, err := os.Stat(filepath.Join(e.cfg.Dir, "left-over")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left over: %v", err)
	}
	if got := e.state(c, 1); got != wire.StateInterrupted {
		t.Fatalf("state %s", got)
	}
	_, err := c.Events(bt.ID(1), last+1)
	wantCode(t, err, wire.CodeRestarted)
	other := e.holder(2)
	_, err = other.Put(bt.ID(1), bt.Request(object))
	wantCode(t, err, wire.CodeNotFound)
	// The use was spent before.
	close(g.open)
	if _, err := c.Put(bt.ID(1), bt.Request(object)); err != nil {
		t.Fatal(err)
	}
	ev, err = c.Events(bt.ID(1), last+1)
	if err != nil {
		t.Fatal(err)
	}
	defer ev.Close()
	for {
		x, err := ev.Next()
		if err != nil {
			t.Fatal(err)
		}
		if last++; x.Seq <= 0 || x.Seq < last {
			t.Errorf("event %d after %d", x.Seq, last)
		}
		if x.Type == wire.EventFinished {
			if x.Result.Error != nil {
				t.Error(x.Result.Error)
			}
			break
		}
	}
	// What is built is still there after another restart.
	e.stop()
	e.run()
	if r := e.finish(c, 1); r.Error != nil {
		t.Error(r.Error)
	}
	if _, err := c.Do(http.MethodGet, "/v1/cache/closure?build="+string(bt.ID(1)), nil); err != nil {
		t.Error(err)
	}
}

// A build that was admitted in time is asked for again after a restart, and its ticket
// has expired meanwhile.
func TestRestartAfterExpiry(t *testing.T) {
	e := start(t)
	g := e.gate()
	c := e.holder(1)
	object := e.one("1")
	ev := e.put(c, 1, object)
	<-g.begun
	ev.Close()
	e.stop()
	e.advance(2 * time.Hour)
	e.run()
	c.Server = e.server
	close(g.open)
	if _, err := c.Put(bt.ID(1), bt.Request(object)); err != nil {
		t.Fatal(err)
	}
	if r := e.finish(c, 1); r.Error != nil {
		t.Error(r.Error)
	}
	_, err := c.Put(bt.ID(2), bt.Request(object))
	wantCode(t, err, wire.CodeTicketExpired)
}

// awaitPhase reads events until the build has come so far.
func awaitPhase(t *testing.T, ev *bt.Events, state wire.State) {
	t.Helper()
	for {
		x, err := ev.Next()
		if err != nil {
			t.Fatal(err)
		}
		if x.Type == wire.EventPhase && x.State == state {
			return
		}
	}
}

// A detached build has nobody who would ask for it again.
func TestDetachedGoesOnAfterRestart(t *testing.T) {
	stops := map[string]func(e *env, rec builder.BuildRecord){
		"stopped": func(e *env, _ builder.BuildRecord) {
			e.stop()
			if rec, err := e.records.Build(t.Context(), bt.ID(1)); err != nil || rec.State.Ended() {
				t.Fatalf("recorded as %s, %v", rec.State, err)
			}
		},
		// A process that was killed records nothing.
		"killed": func(e *env, rec builder.BuildRecord) {
			e.stop()
			if err := e.records.UpdateBuild(t.Context(), rec); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, stop := range stops {
		t.Run(name, func(t *testing.T) {
			e := start(t)
			g := e.gate()
			c := e.holder(1, func(r *builder.TicketRecord) { r.MaxUses = 2; r.Limits.MaxOutputBytes = 1 << 30 })
			begin := func(id uint32, detach bool) {
				req := bt.Request(e.one(fmt.Sprint(id)))
				req.Detach, req.KeepGoing = detach, true
				if b, err := c.Put(bt.ID(id), req); err != nil || !b.KeepGoing {
					t.Fatalf("%+v, %v", b, err)
				}
			}
			begin(1, true)
			<-g.begun
			begin(2, true)
			ev, err := c.Events(bt.ID(2), 1)
			if err != nil {
				t.Fatal(err)
			}
			defer ev.Close()
			awaitPhase(t, ev, wire.StateQueued) // its inputs are there
			rec, err := e.records.Build(t.Context(), bt.ID(1))
			if err != nil {
				t.Fatal(err)
			}
			stop(e, rec)
			e.run()
			<-g.begun
			close(g.open)
			for id := range uint32(2) {
				if r := e.finish(c, id+1); r.Error != nil || len(r.Outputs) != 1 {
					t.Errorf("build %d: %+v", id+1, r)
				}
				if rec, err := e.records.Build(t.Context(), bt.ID(id+1)); err != nil || rec.State != wire.StateBuilt || !rec.KeepGoing {
					t.Errorf("build %d is recorded as %+v, %v", id+1, rec, err)
				}
			}
			if tk, err := e.records.Ticket(t.Context(), c.Secret.ID()); err != nil || tk.Used != 2 {
				t.Errorf("%d uses were spent, %v", tk.Used, err)
			}
		})
	}
}

// A detached build that goes on after a crash is not decided on again: what was
// decided when it began still holds.
func TestDetachedKeepsItsLimits(t *testing.T) {
	for _, substituted := range []bool{false, true} {
		t.Run(fmt.Sprintf("substituted %t", substituted), func(t *testing.T) {
			e, _ := startAsked(t, func(r *builder.PolicyRequest) (ticket.Limits, error) {
				limits := r.Limits
				if r.Event == builder.PolicyStart {
					limits.MaxOutputBytes = 1
				}
				return limits, nil
			})
			g := e.gate()
			c := e.holder(1)
			objects := withSource(bt.Source("large", strings.Repeat("x", 1<<20)))
			if substituted { // and nothing was sent
				e.store.AddUpstream(objects[0])
				e.store.Add(objects[1])
			}
			e.detach(c, 1, objects...)
			<-g.begun
			rec, err := e.records.Build(t.Context(), bt.ID(1))
			if err != nil {
				t.Fatal(err)
			}
			e.stop()
			// A process that was killed records nothing.
			if err := e.records.UpdateBuild(t.Context(), rec); err != nil {
				t.Fatal(err)
			}
			e.run()
			close(g.open)
			if r := e.finish(c, 1); r.Error == nil || r.Error.Code != wire.CodeOutputLimit {
				t.Errorf("got %+v", r.Error)
			}
		})
	}
}

// What the builder does not offer any more it does not build after a restart either.
func TestDetachedForAnotherSystem(t *testing.T) {
	e := start(t)
	g := e.gate()
	c := e.holder(1)
	e.detach(c, 1, e.one("1"))
	<-g.begun
	e.stop()
	e.cfg.Systems = []string{"another"}
	e.run()
	close(g.open)
	if r := e.finish(c, 1); r.Error == nil || r.Error.Code != wire.CodeSystemMissing {
		t.Errorf("got %+v", r)
	}
}

// What is left of an earlier time where a build's roots go is no root of what it has.
func TestRootsReplaceOthers(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	dir := filepath.Join(e.cfg.Dir, string(bt.ID(1)))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	roots := []string{filepath.Join(dir, "drv-0"), filepath.Join(dir, "out-0")}
	for _, link := range roots {
		if err := os.Symlink("/nix/store/another", link); err != nil {
			t.Fatal(err)
		}
	}
	object := e.one("1")
	r := e.build(c, 1, object)
	if r.Error != nil || len(r.Outputs) != 1 {
		t.Fatalf("got %+v", r)
	}
	for i, want := range []string{string(object.Info.Path), r.Outputs[0].Path} {
		if got, err := os.Readlink(roots[i]); err != nil || got != want {
			t.Errorf("%s leads to %s, %v", roots[i], got, err)
		}
	}
}

// Nor does a detached build end with the second restart.
func TestDetachedOutlivesRestarts(t *testing.T) {
	e := start(t)
	g := e.gate()
	c := e.holder(1)
	e.detach(c, 1, e.one("1"))
	<-g.begun
	for i := range 2 {
		e.stop()
		e.run()
		if got := e.state(c, 1); got == wire.StateInterrupted {
			t.Fatalf("it is %s after restart %d", got, i+1)
		}
		<-g.begun
	}
	close(g.open)
	if r := e.finish(c, 1); r.Error != nil {
		t.Error(r.Error)
	}
}

// What a detached build needs to go on by itself may be gone.
func TestDetachedIsInterrupted(t *testing.T) {
	for name, tt := range map[string]struct {
		trusted bool
		spoil   func(e *env, c *bt.Client, drv nix.Path)
	}{
		"revoked": {false, func(e *env, c *bt.Client, _ nix.Path) {
			tk, err := e.records.Ticket(t.Context(), c.Secret.ID())
			if err != nil {
				t.Fatal(err)
			}
			tk.Revoked = now
			e.records.SetTicket(tk)
		}},
		"not trusted": {true, func(e *env, _ *bt.Client, _ nix.Path) { e.cfg.Clients = nil }},
		"collected":   {false, func(e *env, _ *bt.Client, drv nix.Path) { e.store.Delete(drv) }},
		"no roots": {false, func(e *env, _ *bt.Client, _ nix.Path) {
			links, err := filepath.Glob(filepath.Join(e.cfg.Dir, string(bt.ID(1)), "drv-*"))
			if err != nil || len(links) != 1 {
				t.Fatal(links, err)
			}
			if err := os.Remove(links[0]); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t, func(c *builder.Config) { c.Clients = map[key.ID]builder.TrustedClient{{70}: {Name: "trusted"}} })
			g := e.gate()
			c := &bt.Client{Server: e.server, ID: key.ID{70}}
			if !tt.trusted {
				c = e.holder(1)
			}
			object := e.one("1")
			e.detach(c, 1, object)
			<-g.begun
			e.stop()
			tt.spoil(e, c, object.Info.Path)
			e.run()
			if rec, err := e.records.Build(t.Context(), bt.ID(1)); err != nil || rec.State != wire.StateInterrupted {
				t.Errorf("recorded as %s, %v", rec.State, err)
			}
			close(g.open)
		})
	}
}

// Settle lets end what runs, and leaves what waits.
func TestSettle(t *testing.T) {
	e := start(t)
	g := e.gate()
	c := e.holder(1)
	first := e.put(c, 1, e.one("1"))
	<-g.begun
	awaitPhase(t, e.put(c, 2, e.one("2")), wire.StateQueued)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e.svc.Settle(ctx) // no time at all
	if got := e.state(c, 1); got != wire.StateBuilding {
		t.Errorf("state %s", got)
	}
	_, err := c.Put(bt.ID(3), bt.Request(e.one("3")))
	wantCode(t, err, wire.CodeDraining)
	close(g.open)
	e.svc.Settle(t.Context())
	if r, err := first.Finish(); err != nil || r.Error != nil {
		t.Errorf("%+v, %v", r, err)
	}
	if got := e.state(c, 2); got != wire.StateQueued {
		t.Errorf("the second is %s", got)
	}
}

// Once a client has asked for its detached build and was told that nothing is
// wanted, it may leave: a restart right after that loses nothing.
func TestDetachedIsSafeOnceAsked(t *testing.T) {
	e := start(t)
	g := e.gate()
	c := e.holder(1)
	e.detach(c, 1, small("asked")...)
	if b, err := c.Get(bt.ID(1)); err != nil || len(b.Wanted) > 0 {
		t.Fatalf("%+v, %v", b, err)
	}
	e.stop()
	e.run()
	close(g.open)
	if r := e.finish(c, 1); r.Error != nil {
		t.Error(r.Error)
	}
}

// What a client has sent counts, however the builder ends.
func TestSentCountsAfterRestart(t *testing.T) {
	for _, detach := range []bool{true, false} {
		for _, killed := range []bool{true, false} {
			t.Run(fmt.Sprintf("detached %t, killed %t", detach, killed), func(t *testing.T) {
				e := start(t)
				g := e.gate()
				c := e.holder(1)
				objects := small("sent")
				req := bt.Request(objects...)
				req.Detach = detach
				b, err := c.Put(bt.ID(1), req)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.SendWanted(b, objects...); err != nil {
					t.Fatal(err)
				}
				<-g.begun
				rec, err := e.records.Build(t.Context(), bt.ID(1))
				if err != nil {
					t.Fatal(err)
				}
				e.stop()
				if killed { // and has recorded nothing
					if err := e.records.UpdateBuild(t.Context(), rec); err != nil {
						t.Fatal(err)
					}
				}
				e.run()
				c.Server = e.server
				close(g.open)
				if detach {
					if r := e.finish(c, 1); r.Error != nil {
						t.Fatal(r.Error)
					}
				}
				var sent uint64
				for _, o := range objects {
					sent += o.Info.NarSize
				}
				used, err := e.records.Usage(t.Context(), builder.UsageQuery{Ticket: c.Secret.ID(), Now: now})
				if err != nil || used.Ticket.UploadBytes != sent {
					t.Errorf("%d bytes count, %v; %d were sent", used.Ticket.UploadBytes, err, sent)
				}
			})
		}
	}
}
