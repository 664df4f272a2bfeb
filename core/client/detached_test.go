package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
)

// A detached build has everything when Start returns, and goes on without its
// client; another session follows it from the first event.
func TestStartThenAttach(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.request.Detach, r.request.KeepGoing = true, true
		r.builder.onComplete = func(b *builder) { b.emit(wire.Event{Type: wire.EventPhase, State: wire.StateBuilding}) }
		// The connection is lost once on the way.
		lost := false
		r.wire.cut = func(k string, _ int) *cut {
			if k == "PUT inputs" && !lost {
				lost = true
				return &cut{refuse: true}
			}
			return nil
		}
		b, err := r.Start(t.Context(), r.request)
		if !lost {
			t.Error("nothing was lost")
		}
		if err != nil || b.State != wire.StateBuilding || !b.KeepGoing || len(r.builder.wanted()) > 0 || !r.builder.request.Detach {
			t.Fatalf("%+v, %v", b, err)
		}
		if r.builder.cancels != 0 || len(r.seen.events) != 0 {
			t.Errorf("%d cancels, %d events", r.builder.cancels, len(r.seen.events))
		}
		if err := r.Past(t.Context(), testID); err != nil || len(r.seen.events) != 1 {
			t.Errorf("%d events, %v", len(r.seen.events), err)
		}
		go func() {
			<-time.After(time.Hour)
			r.builder.mu.Lock()
			defer r.builder.mu.Unlock()
			r.builder.finish(nil)
		}()
		result, err := r.Attach(t.Context(), testID)
		if err != nil || result == nil || len(result.Outputs) != 1 || r.builder.cancels != 0 {
			t.Errorf("%+v, %v", result, err)
		}
	})
}

// Whoever leaves while it sends takes the build along; whoever only follows
// does not.
func TestLeaving(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		why := errors.New("Ctrl-C")
		r.builder.onComplete = func(*builder) {} // never
		if _, err := r.Start(t.Context(), r.request); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-time.After(time.Hour)
			cancel(why)
		}()
		if _, err := r.Attach(ctx, testID); !errors.Is(err, why) || r.builder.cancels != 0 {
			t.Errorf("%v, %d cancels", err, r.builder.cancels)
		}
		r.wire.cut = func(string, int) *cut { return &cut{refuse: true} }
		ctx, cancel = context.WithCancelCause(t.Context())
		go func() {
			<-time.After(time.Second)
			r.wire.mu.Lock()
			r.wire.cut = nil
			r.wire.mu.Unlock()
			cancel(why)
		}()
		if _, err := r.Start(ctx, r.request); !errors.Is(err, ErrCancelled) || !errors.Is(err, why) || r.builder.cancels != 1 {
			t.Errorf("%v, %d cancels", err, r.builder.cancels)
		}
	})
}

// A builder that restarts while the inputs are sent is asked again.
func TestStartOverRestart(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		restarted := false
		r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
			if req.Method != http.MethodGet || restarted {
				return false
			}
			restarted = true
			answer(w, wire.Build{ID: testID, State: wire.StateInterrupted})
			return true
		}
		if _, err := r.Start(t.Context(), r.request); err != nil || !restarted || len(r.seen.notes) != 1 {
			t.Errorf("%v, notes %q", err, r.seen.notes)
		}
		r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
			_, _ = io.Copy(io.Discard, req.Body)
			wire.WriteError(w, wire.CodeTicketUsed.Err())
			return true
		}
		if _, err := r.Start(t.Context(), r.request); wire.CodeOf(err) != wire.CodeTicketUsed {
			t.Errorf("got %v", err)
		}
		if err := r.Past(t.Context(), testID); wire.CodeOf(err) != wire.CodeTicketUsed {
			t.Errorf("got %v", err)
		}
	})
}
