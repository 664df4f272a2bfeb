package builder

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/wire"
)

// counted is a context that counts what waits for its end.
type counted struct {
	context.Context
	n int
}

func (c *counted) Done() <-chan struct{} { return make(chan struct{}) }

// AfterFunc is what package context calls for a context of another's making.
func (c *counted) AfterFunc(func()) (stop func() bool) {
	c.n++
	return func() bool { c.n--; return true }
}

// A client may attach to its build any number of times: nothing is left of it.
func TestAttachingLeavesNothing(t *testing.T) {
	ctx := &counted{Context: context.Background()}
	s := &Service{ctx: ctx, cfg: Config{Now: time.Now}, queue: newQueue(1), builds: newRegister()}
	who := &caller{client: key.ID{1}, trusted: &TrustedClient{}}
	req := new(wire.BuildRequest)
	const id = "aaaaaaaaaaaaaaaaaaaaaaaaaa"
	there := s.newBuild(who, id, req, [32]byte{})
	close(there.admitted)
	s.builds.put(there)
	before := ctx.n
	for range 10 {
		if b, err := s.attachOrAdmit(t.Context(), who, id, req, [32]byte{}); err != nil || b != there {
			t.Fatalf("got %v, %v", b, err)
		}
	}
	if ctx.n != before {
		t.Errorf("%d builds that never were wait for the service's end", ctx.n-before)
	}
}

// Who leaves has the grace period to come back in, each time anew; who is back has
// nothing to fear of the one before, and who only asks is there for a while.
func TestGracePeriod(t *testing.T) {
	const grace = time.Hour
	synctest.Test(t, func(t *testing.T) {
		s := &Service{queue: newQueue(1)}
		s.tuned.Store(&Tuning{ReattachGrace: grace})
		ctx, cancel := context.WithCancelCause(t.Context())
		b := &build{s: s, ctx: ctx, cancel: cancel, place: newPlace("ticket 1", "a"), toAdd: 1, rec: BuildRecord{Detach: true}}
		lives := func(d time.Duration) bool {
			time.Sleep(d)
			synctest.Wait()
			return ctx.Err() == nil
		}
		present := func() bool {
			s.queue.mu.Lock()
			defer s.queue.mu.Unlock()
			return b.place.present
		}
		for range 3 {
			b.attend(1)
			if !lives(3 * grace) {
				t.Fatal("it was given up while its client was there")
			}
			b.attend(-1)
			if !lives(grace - time.Second) {
				t.Fatal("it was given up before the time was over")
			}
		}
		b.touch()
		if !present() || !lives(arrival-1) || !present() || !lives(2) || present() {
			t.Error("a client counts as being there for another time")
		}
		b.mu.Lock()
		b.toAdd = 0 // its inputs are there, so nobody need be
		b.mu.Unlock()
		b.attend(0)
		if !lives(3*grace) || !present() {
			t.Fatal("a detached build was given up")
		}
		b.mu.Lock()
		b.rec.Detach = false
		b.mu.Unlock()
		b.attend(0)
		if !lives(grace-1) || lives(2) || wire.CodeOf(context.Cause(ctx)) != wire.CodeBuildAbandoned {
			t.Errorf("it ended for %v", context.Cause(ctx))
		}
	})
}

// Who asks again for a build that is still being admitted for a request of before, which
// was lost, counts as being there.
func TestAskingAgainDuringAdmission(t *testing.T) {
	const grace = time.Hour
	synctest.Test(t, func(t *testing.T) {
		s := &Service{
			ctx: t.Context(), cfg: Config{Now: time.Now}, queue: newQueue(1), builds: newRegister(),
			documents: budget{most: maxDocuments, share: documentShare},
		}
		s.tuned.Store(&Tuning{ReattachGrace: grace})
		who := &caller{client: key.ID{1}, trusted: &TrustedClient{}}
		const id = "aaaaaaaaaaaaaaaaaaaaaaaaaa"
		content, err := contentOf(new(wire.BuildRequest))
		if err != nil {
			t.Fatal(err)
		}
		b := s.newBuild(who, id, new(wire.BuildRequest), content)
		s.builds.put(b)
		ask := func(method string, h handler) <-chan error {
			r := httptest.NewRequest(method, "/", strings.NewReader("{}"))
			r.SetPathValue("id", id)
			asked := make(chan error, 1)
			go func() { asked <- h(httptest.NewRecorder(), r, who) }()
			synctest.Wait()
			return asked
		}
		lost := b.awaited(t.Context())
		asked := []<-chan error{ask("PUT", s.putBuild), ask("GET", s.getBuild)}
		lost()
		time.Sleep(3 * grace)
		if b.ctx.Err() != nil {
			t.Error("it was given up while its client was there")
		}
		close(b.admitted)
		for _, answer := range asked {
			if err := <-answer; err != nil {
				t.Error(err)
			}
		}
		b.cancel(nil)
	})
}
