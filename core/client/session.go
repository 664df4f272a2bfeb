package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drv-thru/drv-thru/core/wire"
)

// Observer is told how a session goes. Its methods are called from several
// goroutines at once and must return quickly.
type Observer interface {
	// Event is called for every event of the build, once each and in order.
	Event(*wire.Event)
	// Transfer is called while NAR bytes move.
	Transfer(Transfer)
	// Note is one line for the user: a connection lost or had again.
	Note(text string)
}

// Transfer is how far the bytes of one direction are.
type Transfer struct {
	Upload      bool
	Done, Total int64
	// Wire is how many bytes went over the wire for Done; 0 means as many.
	Wire int64
	// Paths is how many store paths Total stands for.
	Paths int
}

// cancelTime bounds the request that cancels a build: whoever pressed Ctrl-C waits.
const cancelTime = 3 * time.Second

// ErrCancelled is wrapped when the caller's context ended the build.
var ErrCancelled = errors.New("build cancelled")

// Session builds on one builder. Requests that fail because a connection was
// lost are repeated: a build belongs to an ID that the client chose, events are
// numbered, and the builder says which inputs it still lacks, so nothing is
// done twice.
type Session struct {
	API      *API
	Files    Files
	Observer Observer
	Retry    Retry
	// Now is the clock.
	Now func() time.Time

	outage outage
	cuts   cuts
	pace   pace
	sent   int64 // of uploads that have ended
}

// Sent is how many bytes of inputs have gone over the wire, in all attempts. It is known
// when the build has ended.
func (s *Session) Sent() int64 { return s.sent }

// Request is what to build.
type Request struct {
	// ID names the build; the caller drew it at random.
	ID        wire.BuildID
	Roots     []wire.Root
	Inputs    *Inputs
	Mode      wire.Mode
	KeepGoing bool
	Detach    bool
}

// document encodes the request.
func (r *Request) document() ([]byte, error) {
	doc, err := json.Marshal(&wire.BuildRequest{
		Roots: r.Roots, Closure: r.Inputs.Wire, Mode: r.Mode, KeepGoing: r.KeepGoing, Detach: r.Detach,
	})
	if err == nil && len(doc) > wire.MaxClosureDocument {
		err = errors.New("the build's closure is larger than a builder takes")
	}
	return doc, err
}

// Build creates the build, sends what the builder lacks, follows the events and
// returns the result once there is one, whatever it says: look at its Error.
// When it returns an error instead, the build has been cancelled, as far as the
// builder could be told.
func (s *Session) Build(ctx context.Context, r *Request) (*wire.Result, error) {
	result, err := s.run(ctx, r)
	if err == nil {
		return result, nil
	}
	return nil, s.giveUp(ctx, r.ID, err)
}

// giveUp cancels the build that err has ended here.
func (s *Session) giveUp(ctx context.Context, id wire.BuildID, err error) error {
	if cerr := context.Cause(ctx); cerr != nil {
		err = fmt.Errorf("%w: %w", ErrCancelled, cerr)
	}
	// The builder would find out by itself after its grace period.
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTime)
	defer cancel()
	_, _ = s.API.Cancel(cctx, id)
	return err
}

// run goes on until the build has a result that is not a restart of the builder.
func (s *Session) run(ctx context.Context, r *Request) (*wire.Result, error) {
	doc, err := r.document()
	if err != nil {
		return nil, err
	}
	var last int64
	for attempt := 0; ; attempt++ {
		build, err := repeat(ctx, s, func(ctx context.Context) (wire.Build, error) {
			return s.API.PutBuild(ctx, r.ID, doc, len(r.Inputs.Paths))
		})
		if err != nil {
			return nil, err
		}
		// A builder whose machine went down may have lost its last events, and
		// gives their numbers to others.
		last = min(last, build.LastEvent)
		result, seen, err := s.attend(ctx, r, build, last)
		last = seen
		if err == nil && result.Error != nil && result.Error.Code == wire.CodeRestarted {
			err = result.Error
		}
		if wire.CodeOf(err) != wire.CodeRestarted {
			return result, err
		}
		if attempt == maxRestarts {
			return nil, err
		}
		s.Observer.Note("the builder was restarted; asking for the build again")
	}
}

// maxRestarts bounds how often a build that a builder's restart interrupted is
// asked for again: a build that brings its builder down must not do so for ever.
const maxRestarts = 5

// attend uploads and follows at the same time.
func (s *Session) attend(ctx context.Context, r *Request, build wire.Build, last int64) (*wire.Result, int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g, ctx := errgroup.WithContext(ctx)
	var result *wire.Result
	g.Go(func() (err error) {
		last, result, err = s.followOn(ctx, r.ID, last, 0)
		if err == nil {
			cancel(errFinished) // an upload that is still under way is of no use
		}
		return err
	})
	g.Go(func() error {
		err := s.upload(ctx, r, build)
		if errors.Is(err, errFinished) {
			return nil
		}
		return err
	})
	err := g.Wait()
	if result != nil {
		// The builder refuses an upload and ends the build for the same
		// reason; the result is the better text.
		return result, last, nil
	}
	return nil, last, err
}

var errFinished = errors.New("the build has ended")

// upload sends what the builder wants until it wants nothing more.
func (s *Session) upload(ctx context.Context, r *Request, build wire.Build) error {
	if len(build.Wanted) == 0 {
		return nil
	}
	in := r.Inputs
	t := tally{observer: s.Observer, total: in.size(build.Wanted), paths: len(build.Wanted)}
	defer func() { s.sent += t.carried() }()
	p := patience{s: s}
	stuck := 0 // rounds without a failure that brought the end no closer
	for len(build.Wanted) > 0 && !build.State.Ended() {
		before, moved := len(build.Wanted), t.moved()
		t.set(t.total - in.size(build.Wanted))
		answer, err := s.send(ctx, r.ID, in, build, &t)
		switch {
		case err == nil:
			if build = answer; len(build.Wanted) < before {
				stuck = 0
			} else if stuck++; stuck == maxStuck {
				return protocolErrorf("it wants again and again what was sent")
			}
			p.over()
			continue
		case wire.CodeOf(err) == wire.CodeInputUnasked && stuck+1 < maxStuck:
			stuck++ // what a connection that was lost had carried has been taken since
		case !mayPass(err):
			return err
		default:
			if t.moved()-moved > someProgress {
				p.over()
			}
			if err := p.wait(ctx, err); err != nil {
				return err
			}
		}
		if build, err = s.lacking(ctx, r); err != nil {
			return err
		}
	}
	t.set(t.total)
	return nil
}

// lacking asks what the builder still wants, after a connection that was lost. What that
// had carried may still be being added, and is wanted again if that fails, which nobody
// else is told: while all has come and the build does not go on, it is asked again.
func (s *Session) lacking(ctx context.Context, r *Request) (build wire.Build, err error) {
	for {
		// Not PutBuild: that would bring a build back that a restart of the
		// builder interrupted, and whoever follows the events, who hears of the
		// restart too, would end this upload and begin another.
		build, err = repeat(ctx, s, func(ctx context.Context) (wire.Build, error) {
			return s.API.GetBuild(ctx, r.ID, len(r.Inputs.Paths))
		})
		switch {
		case err != nil:
			return build, err
		case build.State == wire.StateInterrupted:
			return build, wire.CodeRestarted.Err()
		case build.State != wire.StateUploading || len(build.Wanted) > 0:
			return build, nil
		}
		select {
		case <-time.After(addingPause):
		case <-ctx.Done():
			return build, context.Cause(ctx)
		}
	}
}

const (
	// addingPause is how long a builder that has got everything may take to add it
	// until it is asked again.
	addingPause = time.Second
	// maxStuck is how often a builder may want again what it has taken. A
	// garbage collection may cause it, more than once is odd.
	maxStuck = 3
	// someProgress is how much an attempt must have sent to count as one that
	// worked for a while, rather than into the transport's buffers.
	someProgress = 4 << 20
)

// send sends what is wanted once.
func (s *Session) send(ctx context.Context, id wire.BuildID, in *Inputs, build wire.Build, t *tally) (wire.Build, error) {
	large := chunkSender{s: s, id: id, in: in, t: t, slot: make(chan struct{}, requestsAtOnce)}
	for _, b := range in.batches(build.Wanted) {
		var err error
		if b.large {
			build, err = large.sendPaths(ctx, b.indexes)
		} else {
			build, err = s.sendFrames(ctx, id, in, b.indexes, t)
		}
		if err != nil {
			return build, err
		}
	}
	return build, nil
}

// tally adds up what is sent, for the observer.
type tally struct {
	observer Observer
	mu       sync.Mutex
	done     int64 // sent, or there already
	sent     int64 // in all attempts
	wire     int64 // bytes of bodies, in all attempts
	total    int64
	paths    int
}

func (t *tally) add(n int64) {
	t.mu.Lock()
	t.done += n
	t.sent += n
	t.report()
}

// onWire notes bytes that the transport has taken.
func (t *tally) onWire(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wire += int64(n)
}

// carried is what onWire was told.
func (t *tally) carried() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wire
}

// skip notes what is there already and needs no sending.
func (t *tally) skip(n int64) {
	t.mu.Lock()
	t.done += n
	t.report()
}

func (t *tally) set(done int64) {
	t.mu.Lock()
	t.done = done
	t.report()
}

func (t *tally) moved() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent
}

// report unlocks.
func (t *tally) report() {
	now := Transfer{Upload: true, Done: min(t.done, t.total), Total: t.total, Paths: t.paths, Wire: t.wire}
	t.mu.Unlock()
	t.observer.Transfer(now)
}

// Info is [API.Info], over lost connections.
func (s *Session) Info(ctx context.Context, build wire.BuildID) (wire.Info, error) {
	return repeat(ctx, s, func(ctx context.Context) (wire.Info, error) { return s.API.Info(ctx, build) })
}

// Plan is [API.Plan], over lost connections.
func (s *Session) Plan(ctx context.Context, plan *wire.PlanRequest) (wire.Plan, error) {
	return repeat(ctx, s, func(ctx context.Context) (wire.Plan, error) { return s.API.Plan(ctx, plan) })
}

// Closure asks for the closure of the build's outputs.
func (s *Session) Closure(ctx context.Context, id wire.BuildID) (wire.Closure, error) {
	return repeat(ctx, s, func(ctx context.Context) (wire.Closure, error) { return s.API.Closure(ctx, id) })
}
