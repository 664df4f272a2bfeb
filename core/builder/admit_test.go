package builder_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// rootedStore notes what gets temporary roots, and just before the first of them
// something is collected.
type rootedStore struct {
	*bt.Store
	collect nix.Path
	rooted  [][]nix.Path
}

func (s *rootedStore) Session(ctx context.Context) (builder.Session, error) {
	session, err := s.Store.Session(ctx)
	return &rootedSession{session, s}, err
}

type rootedSession struct {
	builder.Session
	s *rootedStore
}

func (r *rootedSession) AddTempRoots(ctx context.Context, paths []nix.Path) error {
	if r.s.rooted = append(r.s.rooted, paths); len(r.s.rooted) == 1 {
		r.s.Delete(r.s.collect)
	}
	return r.Session.AddTempRoots(ctx, paths)
}

// What is there is rooted, with what is still to come, before it is relied on.
func TestInputsAreRootedFirst(t *testing.T) {
	objects := small("a")
	src, dep, top := objects[0], objects[1], objects[2]
	for name, tt := range map[string]struct {
		there   []bt.Object
		collect nix.Path
		wanted  []int
		rooted  []nix.Path
	}{
		"some":            {objects[:2], "", []int{2}, nix.SortedPaths([]nix.Path{src.Info.Path, dep.Info.Path, top.Info.Path})},
		"all":             {objects, "", nil, []nix.Path{top.Info.Path}},
		"collected first": {objects[:2], src.Info.Path, []int{0, 2}, nix.SortedPaths([]nix.Path{src.Info.Path, dep.Info.Path, top.Info.Path})},
	} {
		t.Run(name, func(t *testing.T) {
			store := &rootedStore{collect: tt.collect}
			e := start(t, func(c *builder.Config) {
				store.Store = c.Store.(*bt.Store)
				c.Store = store
			})
			e.store.Add(tt.there...)
			b, err := e.holder(1).Put(bt.ID(1), bt.Request(objects...))
			if err != nil || !slices.Equal(b.Wanted, tt.wanted) {
				t.Errorf("%v are wanted, %v", b.Wanted, err)
			}
			if len(store.rooted) == 0 || !slices.Equal(nix.SortedPaths(store.rooted[0]), tt.rooted) {
				t.Errorf("rooted %s", store.rooted)
			}
		})
	}
}

// Of a disk that is too full the owner reads in the log, and not of what is the
// client's own matter.
func TestOwnerHearsOfFullDisk(t *testing.T) {
	var log bytes.Buffer
	e := start(t, func(c *builder.Config) {
		c.MinFree = 1 << 30
		c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	})
	c := e.holder(1, func(r *builder.TicketRecord) { r.Revoked = r.Created.Add(1) })
	_, err := c.Put(bt.ID(1), bt.Request(small("a")...))
	wantCode(t, err, wire.CodeTicketRevoked)
	if why := e.svc.Status().Refusing; why != "" {
		t.Errorf("status says %q with room", why)
	}
	e.setFree(0)
	if why := e.svc.Status().Refusing; !strings.Contains(why, "0 MiB are free, 1024 MiB are kept") {
		t.Errorf("status says %q", why)
	}
	for range 3 {
		_, err = e.holder(2).Put(bt.ID(2), bt.Request(small("a")...))
		wantCode(t, err, wire.CodeDisk)
	}
	e.stop()
	for text, want := range map[string]int{"0 MiB are free, 1024 MiB are kept": 1, "revoked": 0} {
		if n := strings.Count(log.String(), text); n != want {
			t.Errorf("%q is in the log %d times, want %d\n%s", text, n, want, &log)
		}
	}
}

// A build that was interrupted is still the client's when it is asked for again and
// there is no room for it just then.
func TestInterruptedStaysWhenRefused(t *testing.T) {
	e := start(t, func(c *builder.Config) { c.MinFree = 1 << 30 })
	c := e.holder(1, func(r *builder.TicketRecord) { r.MaxUses = 1 })
	objects := small("a")
	if _, err := c.Put(bt.ID(1), bt.Request(objects...)); err != nil {
		t.Fatal(err)
	}
	e.stop()
	e.run()
	c.Server = e.server
	e.setFree(0)
	_, err := c.Put(bt.ID(1), bt.Request(objects...))
	wantCode(t, err, wire.CodeDisk)
	e.setFree(1 << 40)
	_, err = c.Put(bt.ID(1), bt.Request(objects[:2]...))
	wantCode(t, err, wire.CodeConflict)
	if r := e.build(c, 1, objects...); r.Error != nil || e.used(c) != 1 {
		t.Errorf("%v, %d uses", r.Error, e.used(c))
	}
}

// A build that only the records know is somebody's all the same.
func TestRecordedBuildIsNotMadeAgain(t *testing.T) {
	e := start(t)
	if err := e.records.Admit(t.Context(), builder.BuildRecord{ID: bt.ID(1), Client: key.ID{99}, State: wire.StateBuilt}); err != nil {
		t.Fatal(err)
	}
	_, err := e.holder(1).Put(bt.ID(1), bt.Request(small("a")...))
	wantCode(t, err, wire.CodeNotFound)
}

// What nobody's substituters have counts against the limit at once, the rest once they
// were asked.
func TestUploadLimitOfWhatSubstitutersMayHave(t *testing.T) {
	large := withSource(bt.Source("large", strings.Repeat("x", 1<<20)))
	for _, there := range []bool{true, false} {
		e := start(t)
		c := e.holder(1, func(r *builder.TicketRecord) { r.Limits.MaxUploadBytes = 1 << 19 })
		if there {
			e.store.AddUpstream(large[0])
			if r := e.build(c, 1, large...); r.Error != nil {
				t.Error(r.Error)
			}
			continue
		}
		_, err := c.Put(bt.ID(1), bt.Request(large...))
		wantCode(t, err, wire.CodeUploadLimit)
	}
	// A policy is not even asked about what is too much.
	e, p := startAsked(t, func(r *builder.PolicyRequest) (ticket.Limits, error) { return r.Limits, nil })
	c := e.holder(1, func(r *builder.TicketRecord) { r.Limits.MaxUploadBytes = 10 })
	_, err := c.Put(bt.ID(1), bt.Request(small("a")...))
	wantCode(t, err, wire.CodeUploadLimit)
	if len(p.events()) > 0 {
		t.Errorf("asked %v", p.events())
	}
}

// To build something again is to build it, whatever there is of it.
func TestRebuildIsLimited(t *testing.T) {
	fixed, out := bt.Derivation(bt.Drv{Name: "fixed", Fixed: true})
	e := start(t)
	e.store.Add(fixed, bt.Built(out["out"], "there"))
	c := e.holder(1, func(r *builder.TicketRecord) { r.Limits.NoFixedOutput = true })
	req := bt.Request(fixed)
	req.Mode = wire.ModeCheck
	_, err := c.Put(bt.ID(1), req)
	wantCode(t, err, wire.CodeFixedOutput)
	if e.used(c) != 0 {
		t.Error("a use was spent")
	}
}

// Of those who add to one counter, a policy is asked about one after another, and about
// others meanwhile.
func TestPolicyIsAskedInTurn(t *testing.T) {
	for name, tt := range map[string]struct {
		ticket, client byte
		named          string
		want           int // asked at once
	}{
		"same ticket":       {1, 2, "shared", 1},
		"same name":         {2, 2, "shared", 1},
		"same client":       {2, 1, "other", 1},
		"nothing in common": {2, 2, "other", 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				goOn := make(chan struct{})
				p := &asked{decide: func(r *builder.PolicyRequest) (ticket.Limits, error) {
					<-goOn
					return r.Limits, nil
				}}
				e := configured(t, func(c *builder.Config) { c.Policy = p })
				svc, err := builder.New(t.Context(), e.cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer svc.Close()
				svc.Pause(true)
				object := e.one("1")
				e.server = &httptest.Server{URL: "https://builder.example"}
				put := func(id uint32, n, client byte, named string) {
					c := e.holder(n, func(r *builder.TicketRecord) { r.Name = named })
					c.ID, c.HTTP = key.ID{client}, &http.Client{Transport: inProcess{svc}}
					go func() {
						if _, err := c.Put(bt.ID(id), bt.Request(object)); err != nil {
							t.Error(err)
						}
					}()
					synctest.Wait()
				}
				put(1, 1, 1, "shared")
				put(2, tt.ticket, tt.client, tt.named)
				if got := len(p.events()); got != tt.want {
					t.Errorf("%d are decided at once", got)
				}
				close(goOn)
				synctest.Wait()
			})
		})
	}
}
