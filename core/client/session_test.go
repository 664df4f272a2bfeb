package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/wire"
)

// build runs the rig's build in a bubble of its own, where waiting costs nothing.
func (r *rig) build(t *testing.T) (*wire.Result, error) {
	t.Helper()
	return r.Build(t.Context(), r.request)
}

func inBubble(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	// What is made at the first use and kept must not belong to a bubble.
	packed, _ := chunk.Compress(nil, make([]byte, 1000))
	if _, err := chunk.Decompress(nil, packed, 1000); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { f(t, newRig(t)) })
}

// mustBuild expects success with everything sent exactly as the protocol says.
func (r *rig) mustBuild(t *testing.T) *wire.Result {
	t.Helper()
	res, err := r.build(t)
	if err != nil {
		t.Fatal(err)
	}
	if res.Error != nil || len(res.Outputs) != 1 {
		t.Fatalf("result %+v", res)
	}
	if got, want := len(r.builder.has)+len(r.builder.already), len(r.request.Inputs.Paths); got != want {
		t.Errorf("the builder has %d paths, want %d", got, want)
	}
	for i, e := range r.seen.events {
		if e.Seq != int64(i)+1 {
			t.Errorf("event %d seen as number %d", e.Seq, i+1)
		}
	}
	if r.builder.created != 1 {
		t.Errorf("created %d builds", r.builder.created)
	}
	if r.builder.cancels != 0 {
		t.Errorf("cancelled a build that succeeded")
	}
	return res
}

func TestBuild(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.mustBuild(t)
		// The large source in chunks, everything else in one compressed batch.
		for k, want := range map[string]int{"PUT inputs": 1, "PUT manifest": 1, "PUT chunks": 1, "POST input": 1} {
			if n := r.wire.count(k); n != want {
				t.Errorf("%d × %s, want %d", n, k, want)
			}
		}
		if r.seen.last.Done != r.seen.last.Total || r.seen.last.Total != int64(r.request.Inputs.Bytes) {
			t.Errorf("progress ended at %+v of %d", r.seen.last, r.request.Inputs.Bytes)
		}
		if len(r.seen.notes) != 0 {
			t.Errorf("notes: %q", r.seen.notes)
		}
	})
}

func TestBuildOfWhatIsThereSendsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		for _, p := range r.request.Inputs.Paths {
			r.builder.already[string(p)] = true
		}
		r.mustBuild(t)
		if n := r.wire.count("PUT inputs") + r.wire.count("PUT manifest"); n != 0 || r.Sent() != 0 {
			t.Errorf("%d uploads, %d bytes, want none", n, r.Sent())
		}
	})
}

// The questions before there is a build are repeated as those about one are.
func TestLostBeforeTheBuild(t *testing.T) {
	asks := map[string]func(context.Context, *rig) error{
		"info":            func(ctx context.Context, r *rig) error { _, err := r.Info(ctx, ""); return err },
		"info of a build": func(ctx context.Context, r *rig) error { _, err := r.Info(ctx, testID); return err },
		"plan":            func(ctx context.Context, r *rig) error { _, err := r.Plan(ctx, &wire.PlanRequest{}); return err },
	}
	for name, ask := range asks {
		for _, c := range []cut{{refuse: true}, {loseReply: true}, {readBytes: 1}} {
			t.Run(fmt.Sprintf("%s/%+v", name, c), func(t *testing.T) {
				inBubble(t, func(t *testing.T, r *rig) {
					r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
						if asked := req.URL.Query().Get("build"); (asked != "") != (name == "info of a build") {
							t.Errorf("asked about build %q", asked)
						}
						answer(w, struct{}{})
						return true
					}
					times := 0
					r.wire.cut = func(string, int) *cut {
						if times++; times <= 2 {
							return &c
						}
						return nil
					}
					if err := ask(t.Context(), r); err != nil || times != 3 {
						t.Errorf("asked %d times: %v", times, err)
					}
				})
			})
		}
	}
}

// Every request, lost at its worst moment, at its first and at its second time.
func TestLostConnections(t *testing.T) {
	cuts := map[string]cut{
		"refused":         {refuse: true},
		"reply lost":      {loseReply: true},
		"reply cut":       {readBytes: 20},
		"upload cut":      {sendBytes: 200},
		"upload cut late": {sendBytes: wire.ChunkedInput / 2},
	}
	for _, name := range sortedKeys(cuts) {
		for _, k := range []string{"PUT build", "PUT inputs", "PUT manifest", "PUT chunks", "POST input", "GET events"} {
			switch {
			case name == "upload cut" && !strings.HasPrefix(k, "PUT "), name == "upload cut late" && k != "PUT chunks",
				strings.HasPrefix(name, "upload") && k == "PUT build", name == "reply cut" && k == "PUT chunks":
				continue // it has no such body
			}
			for _, times := range []int{1, 2, 5} {
				t.Run(fmt.Sprintf("%s/%s/%d", k, name, times), func(t *testing.T) {
					inBubble(t, func(t *testing.T, r *rig) {
						r.wire.cut = func(kind string, n int) *cut {
							if kind == k && n <= times {
								c := cuts[name]
								return &c
							}
							return nil
						}
						r.mustBuild(t)
						// A reply that is lost after everything was sent
						// leaves nothing to send again.
						arrived := k == "PUT inputs" || k == "POST input" || k == "PUT chunks"
						arrived = arrived && strings.HasPrefix(name, "reply") || k == "PUT chunks"
						if r.builder.wasted > 0 {
							t.Errorf("%d chunks were sent again", r.builder.wasted)
						}
						if n := r.wire.count(k); n <= times && !arrived {
							t.Errorf("%s was sent %d times", k, n)
						}
					})
				})
			}
		}
	}
}

func TestEventsResume(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.builder.onComplete = func(b *builder) {
			for i := range 200 {
				b.emit(wire.Event{Type: wire.EventLog, Log: wire.NewLog(1, []byte(strings.Repeat("x", i)), false)})
			}
			b.finish(nil)
		}
		r.wire.cut = func(kind string, n int) *cut {
			if kind == "GET events" && n < 10 {
				return &cut{readBytes: int64(1000 * n)}
			}
			return nil
		}
		r.mustBuild(t)
		if len(r.seen.events) != 201 {
			t.Errorf("saw %d events", len(r.seen.events))
		}
	})
}

func TestLongOutageIsOneLine(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		start := time.Now()
		r.wire.cut = func(string, int) *cut {
			since := time.Since(start)
			return &cut{refuse: since < 4*time.Minute}
		}
		r.mustBuild(t)
		if want := []string{"lost the connection to the builder; trying to get it back", "connected again"}; !slices.Equal(r.seen.notes, want) {
			t.Errorf("notes %q", r.seen.notes)
		}
	})
}

func TestGivesUp(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		start := time.Now()
		r.wire.cut = func(string, int) *cut { return &cut{refuse: true} }
		_, err := r.build(t)
		if !errors.Is(err, ErrConnection) || !errors.Is(err, errWire) {
			t.Errorf("error %v", err)
		}
		if took := time.Since(start); took < r.Retry.GiveUp || took > r.Retry.GiveUp+time.Minute {
			t.Errorf("gave up after %s", took)
		}
	})
}

// A builder that was reached and does not speak the protocol will not do so later.
func TestVersionIsNoOutage(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		start := time.Now()
		r.wire.cut = func(kind string, _ int) *cut {
			return &cut{refuse: kind == "PUT inputs", why: wire.CodeVersion.Err()}
		}
		if _, err := r.build(t); wire.CodeOf(err) != wire.CodeVersion || errors.Is(err, ErrConnection) {
			t.Errorf("error %v", err)
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("gave up after %s", took)
		}
	})
}

// A path that is dead without saying so shows by the keep-alives that stay out.
func TestSilentEvents(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		silent := 0
		r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
			if kind(req) != "GET events" || silent == 2 {
				return false
			}
			silent++
			w.WriteHeader(http.StatusOK)
			<-req.Context().Done()
			return true
		}
		start := time.Now()
		r.mustBuild(t)
		if took := time.Since(start); took < 2*stallAfter || took > 3*stallAfter {
			t.Errorf("took %s", took)
		}
	})
}

func TestBuildOutlivesQuietHours(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.builder.onComplete = func(b *builder) {
			go func() {
				<-time.After(5 * time.Hour)
				b.mu.Lock()
				defer b.mu.Unlock()
				b.finish(nil)
			}()
		}
		r.mustBuild(t)
		if n := r.wire.count("GET events"); n != 1 {
			t.Errorf("events were asked for %d times", n)
		}
	})
}

// A restart shows as an event, or as the answer to whatever is asked next.
func TestBuilderRestart(t *testing.T) {
	again := func(b *builder, keep int) {
		b.completed = false
		b.onComplete = func(b *builder) {
			b.events = b.events[:min(keep, len(b.events))]
			b.emit(wire.Event{Type: wire.EventLog, Log: wire.NewLog(0, []byte("again"), false)})
			b.finish(nil)
		}
	}
	for name, prepare := range map[string]func(r *rig){
		"told by an event": func(r *rig) {
			r.builder.onComplete = func(b *builder) {
				b.emit(wire.Event{Type: wire.EventPhase, State: wire.StateBuilding})
				b.finish(wire.CodeRestarted.Err())
				again(b, 1000)
			}
		},
		"told by an event, later lost": func(r *rig) {
			r.builder.onComplete = func(b *builder) {
				b.emit(wire.Event{Type: wire.EventPhase, State: wire.StateBuilding})
				b.finish(wire.CodeRestarted.Err())
				again(b, 1)
			}
		},
		"told by an answer": func(r *rig) {
			told := false
			r.builder.onComplete = func(b *builder) {
				b.emit(wire.Event{Type: wire.EventPhase, State: wire.StateBuilding})
				again(b, 1000)
			}
			r.wire.cut = func(kind string, n int) *cut {
				if kind == "GET events" && n == 1 {
					return &cut{readBytes: 150}
				}
				return nil
			}
			r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
				if kind(req) != "GET events" || r.wire.count("GET events") < 2 || told {
					return false
				}
				told = true
				wire.WriteError(w, wire.CodeRestarted.Err())
				return true
			}
		},
		"in the middle of an upload": func(r *rig) {
			told := false
			r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
				if kind(req) != "PUT inputs" || told {
					return false
				}
				told = true
				wire.WriteError(w, wire.CodeRestarted.Err())
				return true
			}
		},
		"learnt after a lost upload": func(r *rig) {
			r.wire.cut = func(kind string, n int) *cut {
				if kind == "PUT inputs" && n == 1 {
					return &cut{sendBytes: 20}
				}
				return nil
			}
			told := false
			r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
				if kind(req) != "GET build" || told {
					return false
				}
				told = true
				answer(w, wire.Build{ID: r.builder.id, State: wire.StateInterrupted, Result: &wire.Result{Error: wire.CodeRestarted.Err()}})
				return true
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				prepare(r)
				res, err := r.build(t)
				if err != nil || res.Error != nil {
					t.Fatalf("%+v, %v", res, err)
				}
				// Only one of those who notice brings the build back.
				if n := r.wire.count("PUT build"); n != 2 {
					t.Errorf("the build was asked for %d times, want 2", n)
				}
				if len(r.seen.notes) != 1 || !strings.Contains(r.seen.notes[0], "restarted") {
					t.Errorf("notes %q", r.seen.notes)
				}
			})
		})
	}
}

func TestBuilderThatKeepsRestarting(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.builder.onComplete = func(b *builder) {
			b.completed = false
			b.finish(wire.CodeRestarted.Err())
		}
		if _, err := r.build(t); !errors.Is(err, wire.CodeRestarted.Err()) {
			t.Errorf("error %v", err)
		}
	})
}

func TestCancel(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		why := errors.New("Ctrl-C")
		ctx, cancel := context.WithCancelCause(t.Context())
		r.builder.onComplete = func(*builder) {} // never
		go func() {
			<-time.After(time.Hour)
			cancel(why)
		}()
		start := time.Now()
		_, err := r.Build(ctx, r.request)
		if !errors.Is(err, ErrCancelled) || !errors.Is(err, why) {
			t.Errorf("error %v", err)
		}
		if r.builder.cancels != 1 {
			t.Errorf("%d cancels", r.builder.cancels)
		}
		if took := time.Since(start) - time.Hour; took > cancelTime {
			t.Errorf("took %s to cancel", took)
		}
	})
}

func TestCancelWithoutConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r.wire.cut = func(string, int) *cut { return &cut{refuse: true} }
		start := time.Now()
		if _, err := r.Build(ctx, r.request); !errors.Is(err, ErrCancelled) {
			t.Errorf("error %v", err)
		}
		if took := time.Since(start) - time.Minute; took > cancelTime {
			t.Errorf("took %s to cancel", took)
		}
	})
}

// An upload that is refused ends the build on the builder too; the result says
// it better, and a client without it still knows.
func TestUploadRefused(t *testing.T) {
	for _, withResult := range []bool{true, false} {
		t.Run(fmt.Sprintf("result %v", withResult), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				limit := wire.Errorf(wire.CodeUploadLimit, "20G")
				r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
					if kind(req) != "PUT inputs" {
						return false
					}
					if withResult {
						r.builder.mu.Lock()
						r.builder.finish(limit)
						r.builder.mu.Unlock()
					}
					wire.WriteError(w, limit)
					return true
				}
				res, err := r.build(t)
				if err == nil {
					err = res.Error
				}
				if wire.CodeOf(err) != wire.CodeUploadLimit {
					t.Errorf("error %v", err)
				}
			})
		})
	}
}

func TestDamagedSource(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		for p := range r.store.files {
			if p.Name() == "large" {
				r.store.files[p] = []byte("not what it was")
			}
		}
		_, err := r.build(t)
		if err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("error %v", err)
		}
		if r.builder.cancels != 1 {
			t.Errorf("%d cancels", r.builder.cancels)
		}
	})
}

func TestRateLimitIsWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var n atomic.Int32
		r.builder.override = func(w http.ResponseWriter, _ *http.Request) bool {
			if n.Add(1) > 4 {
				return false
			}
			wire.WriteError(w, wire.Errorf(wire.CodeRate, "slow down"))
			return true
		}
		r.mustBuild(t)
		// It is told as what it is.
		if want := []string{"too many requests at once: slow down; trying again"}; !slices.Equal(r.seen.notes, want) {
			t.Errorf("notes %q", r.seen.notes)
		}
	})
}

// A connection that is lost while the builder is waited for is told, too.
func TestRateLimitThenOutage(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		start := time.Now()
		r.builder.override = func(w http.ResponseWriter, _ *http.Request) bool {
			limited := time.Since(start) < time.Minute
			if limited {
				wire.WriteError(w, wire.Errorf(wire.CodeRate, "slow down"))
			}
			return limited
		}
		r.wire.cut = func(string, int) *cut {
			since := time.Since(start)
			return &cut{refuse: since > 30*time.Second && since < 90*time.Second}
		}
		r.mustBuild(t)
		want := []string{"too many requests at once: slow down; trying again", "lost the connection to the builder; trying to get it back", "connected again"}
		if !slices.Equal(r.seen.notes, want) {
			t.Errorf("notes %q", r.seen.notes)
		}
	})
}

func TestDenied(t *testing.T) {
	for _, code := range []wire.Code{wire.CodeTicketExpired, wire.CodeTicketUsed, wire.CodePolicyDenied, wire.CodeDraining, wire.CodeConflict} {
		inBubble(t, func(t *testing.T, r *rig) {
			r.builder.override = func(w http.ResponseWriter, _ *http.Request) bool {
				wire.WriteError(w, wire.Errorf(code, "no"))
				return true
			}
			if _, err := r.build(t); wire.CodeOf(err) != code {
				t.Errorf("%s: error %v", code, err)
			}
			if n := r.wire.count("PUT build"); n != 1 {
				t.Errorf("%s: asked %d times", code, n)
			}
		})
	}
}
