package builder_test

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// asked is a policy in Go that remembers what it was asked.
type asked struct {
	decide func(r *builder.PolicyRequest) (ticket.Limits, error)

	mu       sync.Mutex
	requests []builder.PolicyRequest
}

func (a *asked) Decide(_ context.Context, r *builder.PolicyRequest) (ticket.Limits, error) {
	a.mu.Lock()
	a.requests = append(a.requests, *r)
	a.mu.Unlock()
	return a.decide(r)
}

func (a *asked) events() (all []builder.PolicyEvent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.requests {
		all = append(all, r.Event)
	}
	return all
}

func startAsked(t *testing.T, decide func(r *builder.PolicyRequest) (ticket.Limits, error)) (*env, *asked) {
	t.Helper()
	p := &asked{decide: decide}
	return start(t, func(c *builder.Config) { c.Policy = p }), p
}

var errNo = wire.Errorf(wire.CodePolicyDenied, `"test": no`)

func (e *env) used(c *bt.Client) int64 {
	e.t.Helper()
	tk, err := e.records.Ticket(e.t.Context(), c.Secret.ID())
	if err != nil {
		e.t.Fatal(err)
	}
	return tk.Used
}

// What a policy was asked of a build, which lists its sources, is not held for as long as
// the build is remembered, whatever became of it.
func TestEndedBuildHoldsNoQuestion(t *testing.T) {
	var question weak.Pointer[builder.PolicyRequest]
	e := start(t, func(c *builder.Config) {
		c.Policy = policyFunc(func(r *builder.PolicyRequest) (ticket.Limits, error) {
			question = weak.Make(r)
			return r.Limits, nil
		})
	})
	c := e.holder(1)
	for id, end := range []func(objects []bt.Object, b wire.Build) error{
		func(_ []bt.Object, b wire.Build) error { _, err := c.Cancel(b.ID); return err },
		func(objects []bt.Object, b wire.Build) error { _, err := c.SendWanted(b, objects...); return err },
	} {
		objects := small(string('a' + rune(id)))
		b, err := c.Put(bt.ID(uint32(id)), bt.Request(objects...))
		if err != nil {
			t.Fatal(err)
		}
		if err := end(objects, b); err != nil {
			t.Fatal(err)
		}
		e.finish(c, uint32(id))
		eventually(t, "what was asked is gone", func() bool {
			runtime.GC()
			return question.Value() == nil
		})
		if _, err := c.Get(bt.ID(uint32(id))); err != nil {
			t.Error(err)
		}
	}
}

// policyFunc is a policy in Go.
type policyFunc func(r *builder.PolicyRequest) (ticket.Limits, error)

func (f policyFunc) Decide(_ context.Context, r *builder.PolicyRequest) (ticket.Limits, error) {
	return f(r)
}

// TestPolicyIsTold: what a policy is asked before a use is spent, and when it is
// known what would be built.
func TestPolicyIsTold(t *testing.T) {
	e, p := startAsked(t, func(r *builder.PolicyRequest) (ticket.Limits, error) { return r.Limits, nil })
	c := e.holder(1)
	objects := small("a")
	if r := e.build(c, 1, objects...); r.Error != nil {
		t.Fatalf("%+v", r)
	}
	if len(p.requests) != 2 {
		t.Fatalf("asked %v", p.events())
	}
	first, second := p.requests[0], p.requests[1]
	if first.Event != builder.PolicyBuild || len(first.ToBuild) != 0 || first.Usage != (builder.Usages{}) || first.UploadBytes == 0 ||
		first.ClosurePaths != 3 || len(first.Sources) != 1 || first.Sources[0].Path != objects[0].Info.Path ||
		len(first.Roots) != 1 || first.Roots[0].Drv != objects[2].Info.Path || first.Ticket.ID != c.Secret.ID() {
		t.Errorf("first asked %+v", first)
	}
	if second.Event != builder.PolicyStart || len(second.ToBuild) != 2 || second.Roots[0].System != bt.System || second.Usage != (builder.Usages{}) {
		t.Errorf("then asked %+v", second)
	}
	// The same again is there, so all is known at once; now something was used.
	if r := e.build(c, 2, objects...); r.Error != nil {
		t.Fatalf("%+v", r)
	}
	third := p.requests[2]
	if third.Event != builder.PolicyBuild || third.Roots[0].System != bt.System || third.Usage.Ticket.Builds != 1 ||
		third.Usage.Name != third.Usage.Ticket || third.Usage.Ticket.UploadBytes == 0 || third.Usage.Ticket.OutputBytes == 0 ||
		third.Usage.Ticket.Active != 0 || third.Usage.Client != third.Usage.Ticket {
		t.Errorf("asked again %+v", third.Usage)
	}
}

func TestPolicyDeniesBeforeAUseIsSpent(t *testing.T) {
	for _, event := range []builder.PolicyEvent{builder.PolicyBuild, builder.PolicyStart} {
		for _, upload := range []bool{true, false} {
			e, _ := startAsked(t, func(r *builder.PolicyRequest) (ticket.Limits, error) {
				if r.Event == event {
					return ticket.Limits{}, errNo
				}
				return r.Limits, nil
			})
			c := e.holder(1)
			objects := small("a")
			if !upload {
				e.store.Add(objects...)
			}
			b, err := c.Put(bt.ID(1), bt.Request(objects...))
			if event == builder.PolicyStart && upload {
				// The use is spent before it is known what would be built.
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.SendWanted(b, objects...); err != nil {
					t.Fatal(err)
				}
				if r := e.finish(c, 1); r.Error == nil || r.Error.Code != wire.CodePolicyDenied || r.Error.Detail != errNo.Detail {
					t.Errorf("got %+v", r)
				}
				continue
			}
			wantCode(t, err, wire.CodePolicyDenied)
			if got := err.Error(); got != `denied by policy "test": no` {
				t.Errorf("told %q", got)
			}
			if e.used(c) != 0 {
				t.Errorf("%s, upload %t: a use was spent", event, upload)
			}
		}
	}
}

// TestNarrowedLimitsBite: each limit that a policy makes tighter holds, whether
// it does so at first or when it knows what would be built.
func TestNarrowedLimitsBite(t *testing.T) {
	fixed, _ := bt.Derivation(bt.Drv{Name: "fixed", Fixed: true})
	for name, tt := range map[string]struct {
		narrow  func(*ticket.Limits)
		objects []bt.Object
		code    wire.Code
		atFirst bool // can only be narrowed before the upload
	}{
		"upload":       {func(l *ticket.Limits) { l.MaxUploadBytes = 10 }, small("a"), wire.CodeUploadLimit, true},
		"output":       {func(l *ticket.Limits) { l.MaxOutputBytes = 10 }, small("a"), wire.CodeOutputLimit, false},
		"systems":      {func(l *ticket.Limits) { l.Systems = []string{"i686-linux"} }, small("a"), wire.CodeSystemDenied, false},
		"fixed output": {func(l *ticket.Limits) { l.NoFixedOutput = true }, []bt.Object{fixed}, wire.CodeFixedOutput, false},
		"build time":   {func(l *ticket.Limits) { l.MaxBuildTime = 1 }, small("a"), wire.CodeBuildTimeLimit, false},
	} {
		for _, event := range []builder.PolicyEvent{builder.PolicyBuild, builder.PolicyStart} {
			if tt.atFirst && event == builder.PolicyStart {
				continue
			}
			for _, upload := range []bool{true, false} {
				if tt.atFirst && !upload {
					continue
				}
				t.Run(name+" at "+string(event), func(t *testing.T) {
					e, _ := startAsked(t, func(r *builder.PolicyRequest) (ticket.Limits, error) {
						limits := r.Limits
						if r.Event == event {
							tt.narrow(&limits)
						}
						return limits, nil
					})
					c := e.holder(1)
					if !upload {
						e.store.Add(tt.objects...)
					}
					b, err := c.Put(bt.ID(1), bt.Request(tt.objects...))
					if err == nil {
						if len(b.Wanted) > 0 {
							_, err = c.SendWanted(b, tt.objects...)
						}
						if err == nil {
							if r := e.finish(c, 1); r.Error != nil {
								err = r.Error
							}
						}
					}
					wantCode(t, err, tt.code)
					// What is known before the use is spent is said before.
					early := tt.code == wire.CodeUploadLimit || !upload && (tt.code == wire.CodeSystemDenied || tt.code == wire.CodeFixedOutput)
					if early != (e.used(c) == 0) {
						t.Errorf("%d uses are spent", e.used(c))
					}
				})
			}
		}
	}
}

// TestPolicyOfRevivedBuild: a build that was admitted before the builder
// restarted is not asked about again, and keeps its limits.
func TestPolicyOfRevivedBuild(t *testing.T) {
	deny := false
	e, p := startAsked(t, func(r *builder.PolicyRequest) (ticket.Limits, error) {
		if deny && r.Event == builder.PolicyBuild {
			return ticket.Limits{}, errNo
		}
		limits := r.Limits
		if r.Event == builder.PolicyBuild {
			limits.MaxOutputBytes = 10
		}
		return limits, nil
	})
	c := e.holder(1)
	objects := small("a")
	if _, err := c.Put(bt.ID(1), bt.Request(objects...)); err != nil {
		t.Fatal(err)
	}
	e.stop()
	deny = true
	e.run()
	r := e.build(c, 1, objects...)
	if r.Error == nil || r.Error.Code != wire.CodeOutputLimit {
		t.Errorf("got %+v", r)
	}
	for _, event := range p.events()[1:] {
		if event == builder.PolicyBuild {
			t.Errorf("asked %v", p.events())
		}
	}
	if e.used(c) != 1 {
		t.Errorf("%d uses", e.used(c))
	}
	// Attaching to it asks nobody.
	before := len(p.events())
	if _, err := c.Put(bt.ID(1), bt.Request(objects...)); err != nil || len(p.events()) != before {
		t.Errorf("%v, asked %v", err, p.events())
	}
	_, err := c.Put(bt.ID(2), bt.Request(objects...))
	wantCode(t, err, wire.CodePolicyDenied)
}

// TestAdmissionsThatShareACounter: a policy sees what others were admitted to,
// however many ask at once, and those that share nothing do not wait.
func TestAdmissionsThatShareACounter(t *testing.T) {
	const most = 3
	gate := make(chan struct{})
	e, _ := startAsked(t, func(r *builder.PolicyRequest) (ticket.Limits, error) {
		if r.Ticket.Name == "slow" && r.Event == builder.PolicyBuild {
			<-gate
		}
		if r.Event == builder.PolicyBuild && (r.Usage.Name.Builds >= most || r.Usage.Client.Builds >= most) {
			return ticket.Limits{}, errNo
		}
		return r.Limits, nil
	})
	object, _ := bt.Derivation(bt.Drv{Name: "a"})
	e.store.Add(object)
	named := func(n byte, name string, client byte) *bt.Client {
		c := e.holder(n, func(r *builder.TicketRecord) { r.Name = name })
		c.ID = key.ID{client}
		return c
	}
	race := func(clients ...*bt.Client) (admitted int) {
		t.Helper()
		var wg sync.WaitGroup
		var mu sync.Mutex
		for i := range uint32(20) {
			c := clients[int(i)%len(clients)]
			wg.Go(func() {
				_, err := c.Put(wire.BuildID(bt.ID(1000*uint32(c.ID[0])+100*uint32(c.Secret[0])+i)), bt.Request(object))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					admitted++
				} else if wire.CodeOf(err) != wire.CodePolicyDenied {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		return admitted
	}
	slow := make(chan error)
	go func() {
		_, err := named(9, "slow", 9).Put(bt.ID(9), bt.Request(object))
		slow <- err
	}()
	if n := race(named(1, "shared", 1), named(2, "shared", 2)); n != most {
		t.Errorf("two tickets of one name: %d admitted", n)
	}
	if n := race(named(3, "x", 3), named(4, "y", 3)); n != most {
		t.Errorf("one client with two tickets: %d admitted", n)
	}
	close(gate)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	// A day later the hour and the day are over, but not the count.
	e.advance(25 * time.Hour)
	u, err := e.records.Usage(t.Context(), builder.UsageQuery{Client: key.ID{3}, Now: e.now()})
	if err != nil || u.Client.Builds != most || u.Client.BuildsDay != 0 {
		t.Errorf("%+v, %v", u, err)
	}
}

// TestSubstitutesOpenNoDoor: what the client does not send, as the substituters have
// all that was missing, is checked like what it sends and like what was there.
func TestSubstitutesOpenNoDoor(t *testing.T) {
	large := bt.Source("large", strings.Repeat("x", 1<<20))
	fixed, _ := bt.Derivation(bt.Drv{Name: "fixed", Fixed: true, Sources: []nix.Path{large.Info.Path}})
	plain := withSource(large)
	for name, tt := range map[string]struct {
		limits  ticket.Limits
		start   func(ticket.Limits) (ticket.Limits, error) // of the policy
		objects []bt.Object
		outputs []string
		code    wire.Code
	}{
		"denied":       {start: func(ticket.Limits) (ticket.Limits, error) { return ticket.Limits{}, errNo }, objects: plain, code: wire.CodePolicyDenied},
		"narrowed":     {start: func(ticket.Limits) (ticket.Limits, error) { return ticket.Limits{MaxOutputBytes: 10}, nil }, objects: plain, code: wire.CodeOutputLimit},
		"system":       {limits: ticket.Limits{Systems: []string{"i686-linux"}}, objects: plain, code: wire.CodeSystemDenied},
		"fixed output": {limits: ticket.Limits{NoFixedOutput: true}, objects: []bt.Object{large, fixed}, code: wire.CodeFixedOutput},
		"no output":    {objects: plain, outputs: []string{"doc"}, code: wire.CodeBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			e, _ := startAsked(t, func(r *builder.PolicyRequest) (ticket.Limits, error) {
				if r.Event == builder.PolicyStart && tt.start != nil {
					return tt.start(r.Limits)
				}
				return r.Limits, nil
			})
			e.store.OnBuild = func(_ context.Context, drv nix.Path, _ daemon.Sink) error {
				if tt.code != wire.CodeOutputLimit {
					t.Errorf("%s was begun", drv)
				}
				return nil
			}
			e.store.AddUpstream(tt.objects[0])
			e.store.Add(tt.objects[1])
			c := e.holder(1, func(r *builder.TicketRecord) { r.Limits = tt.limits })
			req := bt.Request(tt.objects...)
			if tt.outputs != nil {
				req.Roots[0].Outputs = tt.outputs
			}
			if b, err := c.Put(bt.ID(1), req); err != nil || len(b.Wanted) > 0 {
				t.Fatalf("%+v, %v", b, err)
			}
			if r := e.finish(c, 1); r.Error == nil || r.Error.Code != tt.code {
				t.Errorf("got %+v", r)
			}
		})
	}
}
