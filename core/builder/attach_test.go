package builder

import (
	"context"
	"testing"
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
	s := &Service{ctx: ctx, cfg: Config{Now: time.Now}, queue: newQueue(1), builds: make(map[wire.BuildID]*build)}
	who := &caller{client: key.ID{1}, trusted: &TrustedClient{}}
	req := new(wire.BuildRequest)
	const id = "aaaaaaaaaaaaaaaaaaaaaaaaaa"
	there := s.newBuild(who, id, req, [32]byte{})
	close(there.admitted)
	s.builds[id] = there
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
