package builder_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// gate makes builds of derivations named "wait" wait.
type gate struct {
	begun chan nix.Path
	open  chan struct{}
}

func (e *env) gate() *gate {
	g := &gate{begun: make(chan nix.Path, 100), open: make(chan struct{})}
	e.store.OnBuild = func(ctx context.Context, drv nix.Path, _ daemon.Sink) error {
		g.begun <- drv
		select {
		case <-g.open:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return g
}

// one is a derivation without inputs, already in the store.
func (e *env) one(text string) bt.Object {
	o, _ := bt.Derivation(bt.Drv{Name: "wait", Text: text})
	e.store.Add(o)
	return o
}

// put creates a build and follows it.
func (e *env) put(c *bt.Client, id uint32, objects ...bt.Object) *bt.Events {
	e.t.Helper()
	if _, err := c.Put(bt.ID(id), bt.Request(objects...)); err != nil {
		e.t.Fatal(err)
	}
	ev, err := c.Events(bt.ID(id), 1)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(ev.Close)
	return ev
}

// detach creates a build that goes on without its client, and sends its inputs.
func (e *env) detach(c *bt.Client, id uint32, objects ...bt.Object) {
	e.t.Helper()
	req := bt.Request(objects...)
	req.Detach = true
	b, err := c.Put(bt.ID(id), req)
	if err == nil {
		_, err = c.SendWanted(b, objects...)
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) state(c *bt.Client, id uint32) wire.State {
	e.t.Helper()
	b, err := c.Get(bt.ID(id))
	if err != nil {
		e.t.Fatal(err)
	}
	return b.State
}

func TestOneSlot(t *testing.T) {
	e := start(t)
	g := e.gate()
	a, b, c := e.holder(1), e.holder(2), e.holder(3)
	first := e.put(a, 1, e.one("1"))
	<-g.begun
	second := e.put(b, 2, e.one("2"))
	third := e.put(c, 3, e.one("3"))
	eventually(t, "positions", func() bool {
		x, err1 := b.Get(bt.ID(2))
		y, err2 := c.Get(bt.ID(3))
		return err1 == nil && err2 == nil && x.Position == 1 && y.Position == 2 &&
			x.State == wire.StateQueued && y.State == wire.StateQueued
	})
	if n := e.store.Sessions(); n != 1 {
		t.Errorf("%d daemon sessions for one build that runs and two that wait", n)
	}
	// The second leaves: the third moves up at once, and gets the slot.
	second.Close()
	eventually(t, "the third moves up", func() bool {
		x, err := c.Get(bt.ID(3))
		return err == nil && x.Position == 1
	})
	var order []string
	for _, b := range e.svc.Status().Active {
		order = append(order, fmt.Sprint(b.ID == bt.ID(1), b.ID == bt.ID(3), b.Position))
	}
	if want := []string{"true false 0", "false true 1", "false false 0"}; !slices.Equal(order, want) {
		t.Errorf("the owner sees %v, want %v", order, want)
	}
	close(g.open)
	for _, ev := range []*bt.Events{first, third} {
		if r, err := ev.Finish(); err != nil || r.Error != nil {
			t.Errorf("%+v, %v", r, err)
		}
	}
	if got := e.state(b, 2); got != wire.StateQueued {
		t.Errorf("who left is %s", got)
	}
	// It comes back and goes on where it was.
	if r := e.finish(b, 2); r.Error != nil {
		t.Error(r.Error)
	}
}

func TestUploadsWhileWaiting(t *testing.T) {
	e := start(t)
	g := e.gate()
	a, b, c := e.holder(1), e.holder(2), e.holder(3)
	running := e.put(a, 1, e.one("1"))
	<-g.begun
	objects := small("late")
	slow := e.put(b, 2, objects...)
	quick := e.put(c, 3, e.one("3"))
	close(g.open)
	// Who lacks inputs holds its place and no slot.
	for _, ev := range []*bt.Events{running, quick} {
		if r, err := ev.Finish(); err != nil || r.Error != nil {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	view, err := b.Get(bt.ID(2))
	if err != nil || view.State != wire.StateUploading {
		t.Fatalf("got %+v, %v", view, err)
	}
	if _, err := b.SendWanted(view, objects...); err != nil {
		t.Fatal(err)
	}
	if r, err := slow.Finish(); err != nil || r.Error != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestBuiltAlreadyNeedsNoSlot(t *testing.T) {
	e := start(t)
	a := e.holder(1)
	done := small("done")
	if r := e.build(a, 1, done...); r.Error != nil {
		t.Fatal(r.Error)
	}
	g := e.gate()
	defer close(g.open)
	e.put(a, 2, e.one("2"))
	<-g.begun
	if r := e.build(e.holder(2), 3, done...); r.Error != nil {
		t.Error(r.Error)
	}
	// What would have to be fetched needs one.
	fetched, out := bt.Derivation(bt.Drv{Name: "fetched"})
	e.store.Add(fetched)
	e.store.AddUpstream(bt.Built(out["out"], "from a cache"))
	if _, err := a.Put(bt.ID(4), bt.Request(fetched)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it waits", func() bool { return e.state(a, 4) == wire.StateQueued })
	if b, err := a.Get(bt.ID(4)); err != nil || b.State != wire.StateQueued {
		t.Errorf("%s, %v", b.State, err)
	}
}

func TestCancel(t *testing.T) {
	e := start(t)
	g := e.gate()
	c := e.holder(1)
	running := e.put(c, 1, e.one("1"))
	<-g.begun
	waiting := e.put(c, 2, e.one("2"))
	uploading := e.put(c, 3, small("x")...)
	for id, ev := range map[uint32]*bt.Events{3: uploading, 2: waiting, 1: running} {
		b, err := c.Cancel(bt.ID(id))
		if err != nil || b.State != wire.StateCancelled || b.Result.Error.Code != wire.CodeBuildCancelled {
			t.Errorf("%d: %+v, %v", id, b, err)
		}
		if r, err := ev.Finish(); err != nil || r.Error.Code != wire.CodeBuildCancelled {
			t.Errorf("%d: %+v, %v", id, r, err)
		}
	}
	if st := e.svc.Status(); st.Running != 0 || st.Waiting != 0 || len(st.Active) != 0 {
		t.Errorf("got %+v", st)
	}
	_, err := c.Send(bt.ID(3))
	wantCode(t, err, wire.CodeBuildCancelled)
}

func TestCancelDuringUpload(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	objects := small("x")
	w, sent := stalledUpload(t, c, objects)
	if b, err := c.Cancel(bt.ID(1)); err != nil || b.State != wire.StateCancelled {
		t.Errorf("%+v, %v", b, err)
	}
	w.Close()
	if err := <-sent; err == nil {
		t.Error("the upload went on")
	}
}

// An addition to the store that was broken off would leave half a path.
func TestCancelLetsAnAdditionEnd(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	objects := small("x")
	b, err := c.Put(bt.ID(1), bt.Request(objects...))
	if err != nil {
		t.Fatal(err)
	}
	adding, goOn := make(chan nix.Path, len(objects)), make(chan struct{})
	e.store.OnImport = func(info nix.PathInfo) error {
		adding <- info.Path
		<-goOn
		return nil
	}
	ended := make(chan error, 2)
	go func() {
		_, err := c.SendWanted(b, objects...)
		ended <- err
	}()
	path := <-adding
	go func() {
		_, err := c.Cancel(bt.ID(1))
		ended <- err
	}()
	for e.state(c, 1) != wire.StateCancelled {
		<-time.After(time.Millisecond)
	}
	close(goOn)
	<-ended
	<-ended
	if !e.store.Has(path) {
		t.Errorf("%s is not in the store", path)
	}
	for e.store.Sessions() > 0 {
		<-time.After(time.Millisecond)
	}
}

func TestNewerUploadEndsOlder(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	objects := small("x")
	b, err := c.Put(bt.ID(1), bt.Request(objects...))
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	defer w.Close()
	go func() {
		resp, err := c.Do(http.MethodPut, "/v1/builds/"+string(bt.ID(1))+"/inputs", r)
		if err == nil {
			resp.Body.Close()
		}
	}()
	if _, err := w.Write(bt.Frame(0, objects[0].Nar)[:50]); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SendWanted(b, objects...); err != nil {
		t.Fatal(err)
	}
	if r := e.finish(c, 1); r.Error != nil {
		t.Error(r.Error)
	}
}

func TestTimeLimit(t *testing.T) {
	e := start(t)
	g := e.gate()
	defer close(g.open)
	c := e.holder(1, func(r *builder.TicketRecord) { r.Limits.MaxBuildTime = ticket.Duration(30 * time.Millisecond) })
	r, err := e.put(c, 1, e.one("1")).Finish()
	if err != nil || r.Error == nil || r.Error.Code != wire.CodeBuildTimeLimit {
		t.Fatalf("%+v, %v", r, err)
	}
	if e.state(c, 1) != wire.StateFailed {
		t.Error("not failed")
	}
}

func TestAbandoned(t *testing.T) {
	e := start(t, func(c *builder.Config) { c.Slots = 10 })
	g := e.gate()
	c := e.holder(1)
	events := e.put(c, 1, e.one("1"))
	<-g.begun
	e.detach(c, 2, e.one("2"))
	<-g.begun
	e.svc.SetTuning(builder.Tuning{ReattachGrace: time.Millisecond, Slots: 10})
	events.Close()
	eventually(t, "abandoned", func() bool { return e.state(c, 1) == wire.StateCancelled })
	if b, err := c.Get(bt.ID(1)); err != nil || b.Result.Error.Code != wire.CodeBuildAbandoned {
		t.Errorf("%+v, %v", b, err)
	}
	close(g.open)
	if r := e.finish(c, 2); r.Error != nil {
		t.Errorf("detached: %v", r.Error)
	}
}

func TestFailures(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	e.store.OnBuild = func(_ context.Context, drv nix.Path, sink daemon.Sink) error {
		sink.LogLine(1, daemon.ResultBuildLogLine, []byte("the log"), false)
		return fmt.Errorf("builder for '%s' failed with exit code 7", drv)
	}
	objects := small("x")
	r := e.build(c, 1, objects...)
	if r.Error == nil || r.Error.Code != wire.CodeBuildFailed || !strings.Contains(r.Error.Detail, string(objects[1].Info.Path)) {
		t.Errorf("got %+v", r.Error)
	}
	if r.Derivations[0].Status != "PermanentFailure" || len(r.Outputs) != 0 {
		t.Errorf("got %+v", r)
	}
	_, err := c.Do(http.MethodGet, "/v1/cache/closure?build="+string(bt.ID(1)), nil)
	wantCode(t, err, wire.CodeNotFound)

	// Of several failures the first is told, all of them in a form that fits on a screen.
	e.store.OnBuild = func(_ context.Context, drv nix.Path, _ daemon.Sink) error {
		return fmt.Errorf("\x1b[31;1m%s\x1b[0m%s", drv.Base(), strings.Repeat("!", 8<<10))
	}
	one, two := e.one("one"), e.one("two")
	req := bt.Request(one, two)
	req.Roots = append(bt.Request(one).Roots, req.Roots...)
	if _, err := c.Put(bt.ID(9), req); err != nil {
		t.Fatal(err)
	}
	r = e.finish(c, 9)
	if len(r.Derivations) != 2 || r.Error == nil || r.Error.Detail != r.Derivations[0].Error || r.Error.Detail == r.Derivations[1].Error ||
		!strings.HasPrefix(r.Error.Detail, one.Info.Path.Base()) || len(r.Error.Detail) >= 8<<10 {
		t.Errorf("got %.500q", fmt.Sprintf("%+v", r))
	}

	// Some failures have no result.
	for i, tt := range []struct {
		said string
		code wire.Code
	}{
		{"a 'x86_64-linux' with features {kvm} is required to build '" + string(objects[1].Info.Path) + "'", wire.CodeBuildFailed},
		{"file '/nix/store/00000000000000000000000000000000-x/pipe' has an unsupported type", wire.CodeBuildFailed},
		{"opening lock file '/nix/var/nix/db/big-lock': Permission denied", wire.CodeStore},
	} {
		e.store.OnBuild = func(context.Context, nix.Path, daemon.Sink) error { return &daemon.Error{Msg: tt.said} }
		if r := e.build(c, uint32(2+i), objects...); r.Error == nil || r.Error.Code != tt.code || !strings.HasSuffix(r.Error.Detail, tt.said) {
			t.Errorf("%s: got %+v", tt.said, r.Error)
		}
	}
}

func TestLimitsOnWhatIsBuilt(t *testing.T) {
	object := func(d bt.Drv) bt.Object {
		o, _ := bt.Derivation(d)
		return o
	}
	fixed, out := bt.Derivation(bt.Drv{Name: "fixed", Fixed: true})
	for name, tt := range map[string]struct {
		objects []bt.Object
		limits  ticket.Limits
		valid   bool // the derivation's output is there
		upload  bool // the client sends it
		code    wire.Code
	}{
		"system allowed":          {[]bt.Object{object(bt.Drv{Name: "a"})}, ticket.Limits{Systems: []string{bt.System}}, false, true, ""},
		"system not allowed":      {[]bt.Object{object(bt.Drv{Name: "a"})}, ticket.Limits{Systems: []string{"i686-linux"}}, false, true, wire.CodeSystemDenied},
		"system not allowed here": {[]bt.Object{object(bt.Drv{Name: "a"})}, ticket.Limits{Systems: []string{"i686-linux"}}, false, false, wire.CodeSystemDenied},
		"system missing":          {[]bt.Object{object(bt.Drv{Name: "a", System: "riscv64-linux"})}, ticket.Limits{}, false, true, wire.CodeSystemMissing},
		"builtin":                 {[]bt.Object{object(bt.Drv{Name: "a", System: "builtin"})}, ticket.Limits{Systems: []string{bt.System}}, false, true, ""},
		"fixed-output":            {[]bt.Object{fixed}, ticket.Limits{NoFixedOutput: true}, false, true, wire.CodeFixedOutput},
		"fixed-output as input": {[]bt.Object{fixed, object(bt.Drv{Name: "a", Inputs: []nix.Path{fixed.Info.Path}})},
			ticket.Limits{NoFixedOutput: true}, false, true, wire.CodeFixedOutput},
		"fixed-output, built":   {[]bt.Object{fixed}, ticket.Limits{NoFixedOutput: true}, true, true, ""},
		"fixed-output, allowed": {[]bt.Object{fixed}, ticket.Limits{}, false, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t)
			c := e.holder(1, func(r *builder.TicketRecord) { r.Limits = tt.limits; r.MaxUses = 1 })
			if tt.valid {
				e.store.Add(bt.Built(out["out"], "there"))
			}
			if !tt.upload {
				e.store.Add(tt.objects...)
			}
			b, err := c.Put(bt.ID(1), bt.Request(tt.objects...))
			if err == nil {
				if _, err = c.SendWanted(b, tt.objects...); err == nil {
					if r := e.finish(c, 1); r.Error != nil {
						err = r.Error
					}
				}
			}
			if tt.code == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantCode(t, err, tt.code)
			if !tt.upload {
				if tk, err := e.records.Ticket(t.Context(), c.Secret.ID()); err != nil || tk.Used != 0 {
					t.Errorf("%d uses spent, %v", tk.Used, err)
				}
			}
		})
	}
}

func TestUnforeseenFixedOutputIsStopped(t *testing.T) {
	e := start(t)
	fixed, out := bt.Derivation(bt.Drv{Name: "fixed", Fixed: true})
	top, _ := bt.Derivation(bt.Drv{Name: "top", Inputs: []nix.Path{fixed.Info.Path}})
	e.store.Add(fixed, top, bt.Built(out["out"], "there"))
	e.store.OnBuild = func(ctx context.Context, drv nix.Path, _ daemon.Sink) error {
		if drv == fixed.Info.Path {
			<-ctx.Done()
		}
		return nil
	}
	// Between the check and the build the output is collected.
	e.svc.Pause(true)
	c := e.holder(1, func(r *builder.TicketRecord) { r.Limits.NoFixedOutput = true })
	ev := e.put(c, 1, fixed, top)
	eventually(t, "queued", func() bool { return e.state(c, 1) == wire.StateQueued })
	e.store.Delete(out["out"])
	e.svc.Pause(false)
	r, err := ev.Finish()
	if err != nil || r.Error == nil || r.Error.Code != wire.CodeFixedOutput {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestOutputLimit(t *testing.T) {
	e := start(t)
	c := e.holder(1, func(r *builder.TicketRecord) { r.Limits.MaxOutputBytes = 100 })
	for id := range uint32(2) { // the second time it is built already
		r := e.build(c, id, small("x")...)
		if r.Error == nil || r.Error.Code != wire.CodeOutputLimit || len(r.Outputs) != 0 {
			t.Errorf("got %+v", r)
		}
	}
	_, err := c.Do(http.MethodGet, "/v1/cache/closure?build="+string(bt.ID(0)), nil)
	wantCode(t, err, wire.CodeNotFound)
}

// infosUntilEnd does not answer the first question for a path before that is given up.
type infosUntilEnd struct {
	*bt.Store
	of    nix.Path
	asked chan struct{}
	once  sync.Once
}

func (s *infosUntilEnd) PathInfos(ctx context.Context, paths []nix.Path) (map[nix.Path]nix.PathInfo, error) {
	held := false
	if slices.Contains(paths, s.of) {
		s.once.Do(func() { held = true })
	}
	if !held {
		return s.Store.PathInfos(ctx, paths)
	}
	close(s.asked)
	<-ctx.Done()
	return nil, ctx.Err()
}

// A client that cancels while its outputs are held against the limit gets none.
func TestOutputLimitOfCancelled(t *testing.T) {
	object, outputs := bt.Derivation(bt.Drv{Name: "large"})
	held := &infosUntilEnd{of: outputs["out"], asked: make(chan struct{})}
	e := start(t, func(c *builder.Config) {
		held.Store = c.Store.(*bt.Store)
		c.Store = held
	})
	e.store.Add(object)
	c := e.holder(1, func(r *builder.TicketRecord) { r.Limits.MaxOutputBytes = 10 })
	ev := e.put(c, 1, object)
	<-held.asked
	if _, err := c.Cancel(bt.ID(1)); err != nil {
		t.Fatal(err)
	}
	if r, err := ev.Finish(); err != nil || r.Error == nil || r.Error.Code != wire.CodeBuildCancelled || len(r.Outputs) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, path := range []string{"/v1/cache/closure?build=" + string(bt.ID(1)), "/v1/cache/narinfo/" + outputs["out"].Hash()} {
		_, err := c.Do(http.MethodGet, path, nil)
		wantCode(t, err, wire.CodeNotFound)
	}
}

// The builder's own limit and the ticket's both hold, to the byte.
func TestSmallestOutputLimit(t *testing.T) {
	size := ticket.Size(bt.Built(bt.Source("x", "").Info.Path, "output").Info.NarSize)
	for _, tt := range []struct {
		own, ticket ticket.Size
		code        wire.Code
	}{
		{size, 0, ""}, {0, size, ""}, {size, size, ""}, {0, 0, ""},
		{size - 1, 0, wire.CodeOutputLimit}, {0, size - 1, wire.CodeOutputLimit},
		{size - 1, size, wire.CodeOutputLimit}, {size, size - 1, wire.CodeOutputLimit},
	} {
		e := start(t, func(c *builder.Config) { c.MaxOutputBytes = tt.own })
		e.store.Contents = func(string) string { return "output" }
		c := e.holder(1, func(r *builder.TicketRecord) { r.Limits.MaxOutputBytes = tt.ticket })
		var code wire.Code
		if r := e.build(c, 1, small("x")...); r.Error != nil {
			code = r.Error.Code
		}
		if code != tt.code {
			t.Errorf("%d of the builder, %d of the ticket: %q", tt.own, tt.ticket, code)
		}
	}
}

// What a machine of the daemon's has built is copied here, like what comes from a
// cache, but without a signature.
func TestOutputLimitOfMachines(t *testing.T) {
	secret, public, err := signature.GenerateKeypair("cache-1", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	e := start(t, func(c *builder.Config) { c.TrustedKeys = []nix.PublicKey{public} })
	object, outputs := bt.Derivation(bt.Drv{Name: "remote", Text: "remote"})
	out := bt.Built(outputs["out"], strings.Repeat("x", 1000))
	out.Info.Ultimate, out.Info.Deriver = false, object.Info.Path
	c := e.holder(1, func(r *builder.TicketRecord) { r.Limits.MaxOutputBytes = 1000 })
	e.store.Add(out)
	if r := e.build(c, 1, object); r.Error == nil || r.Error.Code != wire.CodeOutputLimit {
		t.Errorf("from a machine: %+v", r)
	}
	out.Info.Sigs = []string{out.Info.Sign(secret)}
	e.store.Add(out)
	if r := e.build(c, 2, object); r.Error != nil {
		t.Errorf("from a cache: %+v", r.Error)
	}
}

func TestDisk(t *testing.T) {
	e := start(t, func(c *builder.Config) { c.MinFree = 1 << 30 })
	c := e.holder(1)
	objects := withSource(bt.Source("src", strings.Repeat("x", 1<<20)))
	e.setFree(1<<30 - 1)
	_, err := c.Put(bt.ID(1), bt.Request(objects...))
	wantCode(t, err, wire.CodeDisk)
	e.setFree(1<<30 + 1<<19)
	b, err := c.Put(bt.ID(1), bt.Request(objects...))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.SendWanted(b, objects...)
	wantCode(t, err, wire.CodeDisk)
	e.setFree(1 << 40)
	if _, err = c.SendWanted(b, objects...); err != nil {
		t.Fatal(err)
	}
	if r := e.finish(c, 1); r.Error != nil {
		t.Error(r.Error)
	}
}

func TestDrainAndPause(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	e.svc.Pause(true)
	ev := e.put(c, 1, e.one("1"))
	e.svc.Drain(true)
	_, err := c.Put(bt.ID(2), bt.Request(e.one("2")))
	wantCode(t, err, wire.CodeDraining)
	if _, err := c.Put(bt.ID(1), bt.Request(e.one("1"))); err != nil {
		t.Errorf("attach while draining: %v", err)
	}
	e.svc.Pause(false)
	if r, err := ev.Finish(); err != nil || r.Error != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestTrustedClients(t *testing.T) {
	e := start(t, func(c *builder.Config) {
		c.Clients = map[key.ID]builder.TrustedClient{
			{70}: {Name: "builds", Cache: builder.CacheBuilds},
			{71}: {Name: "store", Cache: builder.CacheStore},
		}
	})
	mine := &bt.Client{Server: e.server, ID: key.ID{70}}
	if r := e.build(mine, 1, small("a")...); r.Error != nil {
		t.Fatal(r.Error)
	}
	other := bt.Source("other", "not of that build")
	e.store.Add(other)
	narInfo, hash := "/v1/cache/narinfo/"+other.Info.Path.Hash(), other.Info.NarHash.Nix32()
	nars := map[string]int64{hash: int64(other.Info.NarSize)}
	_, err := mine.Do(http.MethodGet, narInfo, nil)
	wantCode(t, err, wire.CodeNotFound)
	all := &bt.Client{Server: e.server, ID: key.ID{71}}
	fetch(t, all, http.MethodGet, narInfo, nil)
	if m := manifestsOf(t, all, nars)[hash]; m == nil || string(narOf(t, all, hash, m)) != string(other.Nar) {
		t.Error("another NAR")
	}
	if m := manifestsOf(t, mine, nars)[hash]; m != nil {
		t.Error("a client reads what is not of its builds")
	}
	e.svc.SetClients(nil)
	_, err = mine.Do(http.MethodGet, "/v1/info", nil)
	wantCode(t, err, wire.CodeNoCredentials)
	// Nor does a ticket open what was built without one.
	again := e.holder(1)
	again.ID = mine.ID
	_, err = again.Do(http.MethodGet, "/v1/cache/closure?build="+string(bt.ID(1)), nil)
	wantCode(t, err, wire.CodeNotFound)
}

func TestBuildLogOfDependency(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	objects := small("a")
	if r := e.build(c, 1, objects...); r.Error != nil {
		t.Fatal(r.Error)
	}
	dep := objects[1].Info.Path
	e.store.SetLog(dep, "it was built\n")
	if got := fetch(t, c, http.MethodGet, "/v1/cache/log/"+dep.Base(), nil); string(got) != "it was built\n" {
		t.Errorf("got %q", got)
	}
	_, err := e.holder(2).Do(http.MethodGet, "/v1/cache/log/"+dep.Base(), nil)
	wantCode(t, err, wire.CodeNotFound)
	_, err = c.Do(http.MethodGet, "/v1/cache/log/"+objects[2].Info.Path.Base(), nil)
	wantCode(t, err, wire.CodeNotFound)
}

// A derivation's name alone gives nobody its log: a build that asks for it and
// ends before its inputs are there has had none of them.
func TestBuildLogTakesMoreThanAName(t *testing.T) {
	e := start(t)
	secret := small("secret")
	if r := e.build(e.holder(1), 1, secret...); r.Error != nil {
		t.Fatal(r.Error)
	}
	dep, top := secret[1], secret[2]
	e.store.SetLog(top.Info.Path, "a secret\n")
	c := e.holder(2)
	claim := wire.Input{Path: string(top.Info.Path), NarHash: dep.Info.NarHash.Nix32(), NarSize: top.Info.NarSize}
	roots := []wire.Root{{Drv: claim.Path, Outputs: []string{"out"}}}
	_, err := c.Put(bt.ID(2), wire.BuildRequest{Roots: roots, Closure: []wire.Input{claim}})
	wantCode(t, err, wire.CodeInputUnsigned)
	_, err = c.Do(http.MethodGet, "/v1/cache/log/"+top.Info.Path.Base(), nil)
	wantCode(t, err, wire.CodeNotFound)
}

func TestCancelTicket(t *testing.T) {
	e := start(t)
	g := e.gate()
	c := e.holder(1)
	ev := e.put(c, 1, e.one("1"))
	<-g.begun
	if n := e.svc.CancelTicket(t.Context(), c.Secret.ID()); n != 1 {
		t.Errorf("%d cancelled", n)
	}
	if r, err := ev.Finish(); err != nil || r.Error.Code != wire.CodeTicketRevoked {
		t.Errorf("%+v, %v", r, err)
	}
}
