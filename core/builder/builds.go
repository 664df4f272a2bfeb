package builder

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// arrival is how long a client that has just sent something counts as being
// there without reading events.
const arrival = 10 * time.Second

const (
	// maxReaders bounds the event streams of one build.
	maxReaders = 64
	// maxAllReaders and readersShare bound those of all builds and of a ticket or
	// trusted client: one that takes nothing holds 128 KiB.
	maxAllReaders = 16 * readersShare
	readersShare  = 8 * maxLivePerClient
)

var errReaders = wire.Errorf(wire.CodeRate, "too many readers follow builds").WithHint("try again in a moment")

// build is a build of this process, or what is left of an earlier one.
type build struct {
	s      *Service
	limits ticket.Limits
	dir    string
	// ctx ends when the build is cancelled; the cause is a *wire.Error or
	// errShutdown.
	ctx    context.Context
	cancel context.CancelCauseFunc
	// admitted is closed when admission is over; admitErr says how.
	admitted chan struct{}
	admitErr error
	place    *place
	// complete is closed when no input is wanted any more.
	complete chan struct{}
	done     chan struct{} // closed at the end
	// clearing is closed when what was to be removed of the build is gone; nil while
	// nothing is. Under Service.mu.
	clearing chan struct{}

	reading sync.Mutex // held while the log of an earlier process is read, before mu

	mu  sync.Mutex
	rec BuildRecord
	// unrecorded tells that the end could not be recorded yet.
	unrecorded bool

	log     *eventLog // nil for one of an earlier process until somebody reads
	closure *closure  // nil once ended
	planned map[nix.Path]Planned
	wanted  map[int]bool
	toAdd   int    // inputs that are not in the store yet
	sent    uint64 // NAR bytes of inputs that were accepted
	upload  *upload
	senders int // requests under way that bring inputs
	// late runs while there are none and inputs are wanted, for lateAfter.
	late      *time.Timer
	lateAfter time.Duration
	// intakes are the large inputs that are on their way.
	intakes map[int]*intake
	inVain  uint64  // bytes of chunks that were sent but not needed
	session Session // holds temporary roots until the links do
	// policyRequest is kept for the second question.
	policyRequest *PolicyRequest
	// revived are the limits of a build that was admitted before the builder
	// restarted; nil for any other.
	revived *ticket.Limits
	// resumed are the roots of a build that is taken up again after a restart
	// without its client; nil for any other.
	resumed []daemon.DerivedPath
	// rooted tells that the build's directory holds all its inputs; held is closed
	// then.
	rooted bool
	held   chan struct{}

	building map[uint64]BuildingDrv // by activity
	machines map[string]int         // derivations whose build has begun

	readers int         // event streams, and requests that wait
	path    string      // that the newest of them goes by
	away    *time.Timer // runs while there are none
	arrived *time.Timer
}

// upload is a running request that adds inputs.
type upload struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
	// reads tells that it may hang on its client, so that a newer one ends it.
	reads bool
}

var errNoBuild = wire.Errorf(wire.CodeNotFound, "no such build")

// known returns the build if the caller may know of it, though it may not be admitted yet.
func (s *Service) known(id string, c *caller) (*build, error) {
	bid, err := wire.ParseBuildID(id)
	if err != nil {
		return nil, errNoBuild
	}
	s.mu.Lock()
	b := s.builds.all[bid]
	s.mu.Unlock()
	if b == nil {
		return nil, errNoBuild
	}
	if err := s.mayAccess(b, c); err != nil {
		return nil, err
	}
	return b, nil
}

// find is known, once the build is admitted.
func (s *Service) find(ctx context.Context, id string, c *caller) (*build, error) {
	b, err := s.known(id, c)
	if err != nil {
		return nil, err
	}
	if err := b.awaitAdmission(ctx); err != nil {
		return nil, err
	}
	if b.admitErr != nil {
		return nil, errNoBuild
	}
	return b, nil
}

// mayAccess reports a build that is not the caller's as missing.
func (s *Service) mayAccess(b *build, c *caller) error {
	rec := b.record()
	switch {
	case c.ticket != nil && rec.Ticket == c.ticket.ID:
		return nil
	case rec.Client != c.client:
		return errNoBuild
	case c.trusted != nil:
		return nil
	case rec.Ticket == ticket.ID{}:
		return errNoBuild // the client is not trusted any more
	}
	// The client's own, but paid with another ticket than it shows: that one
	// must not have been revoked.
	t, err := s.cfg.Records.Ticket(s.ctx, rec.Ticket)
	if err != nil {
		return errNoBuild
	}
	return t.CheckHolder(c.client)
}

func (b *build) record() BuildRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rec
}

// underWay is the record of a build that has not ended.
func (b *build) underWay() BuildRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	rec := b.rec
	rec.Result = b.sofar()
	return rec
}

// sofar is what a build under way has used, nil for nothing. b.mu is held.
func (b *build) sofar() *wire.Result {
	if b.sent == 0 {
		return nil
	}
	return &wire.Result{UploadBytes: b.sent}
}

// view is what the client is told.
func (b *build) view() *wire.Build {
	position := b.s.queue.positionOf(b.place)
	b.mu.Lock()
	defer b.mu.Unlock()
	v := &wire.Build{
		ID: b.rec.ID, State: b.rec.State, Created: b.rec.Created, Position: position,
		KeepGoing: b.rec.KeepGoing, Result: b.rec.Result,
	}
	if !v.State.Ended() {
		for i := range b.wanted {
			v.Wanted = append(v.Wanted, i)
		}
		slices.Sort(v.Wanted)
	}
	if b.log != nil {
		v.LastEvent = b.log.last()
	}
	return v
}

// setState tells a new state that is no end. It is not recorded: after a crash
// all that counts is that the build had not ended.
func (b *build) setState(state wire.State) {
	b.mu.Lock()
	b.rec.State = state
	if state == wire.StateBuilding {
		b.rec.Started = b.s.cfg.Now()
	}
	log := b.log
	b.mu.Unlock()
	log.add(&wire.Event{Type: wire.EventPhase, State: state})
}

func (b *build) eventsPath() string { return filepath.Join(b.dir, "events.ndjson") }

// attend notes that the client has begun (+1) or stopped (-1) to read events, or to
// wait.
// It refuses more readers than maxReaders.
func (b *build) attend(delta int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.readers+delta > maxReaders {
		return false
	}
	b.readers += delta
	b.presence()
	return true
}

func (b *build) setPath(path string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.path = path
}

// touch notes that the client was just there.
func (b *build) touch() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rec.State.Ended() {
		return
	}
	if b.arrived == nil {
		b.arrived = time.AfterFunc(arrival, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.presence()
		})
	} else {
		b.arrived.Reset(arrival)
	}
	b.s.queue.setPresent(b.place, true)
	b.startAway()
}

// presence tells the queue whether the client is there and starts or stops the
// grace period. b.mu is held.
func (b *build) presence() {
	if b.rec.State.Ended() {
		return
	}
	present := b.attended()
	b.s.queue.setPresent(b.place, present)
	if present {
		b.stopAway()
	} else {
		b.startAway()
	}
}

// attended tells whether the client is there, or need not be: a detached build
// whose inputs have come needs nobody. b.mu is held.
func (b *build) attended() bool {
	return b.readers > 0 || b.upload != nil || b.rec.Detach && b.toAdd == 0
}

func (b *build) startAway() {
	if b.attended() {
		return
	}
	grace := b.s.tuning().ReattachGrace
	if b.away == nil {
		b.away = time.AfterFunc(grace, func() {
			b.cancel(wire.Errorf(wire.CodeBuildAbandoned, "nobody read its events for %s", ticket.Duration(grace)))
		})
		return
	}
	b.away.Reset(grace)
}

func (b *build) stopAway() {
	if b.away != nil {
		b.away.Stop()
	}
	if b.arrived != nil {
		b.arrived.Stop()
	}
}

func (s *Service) getBuild(w http.ResponseWriter, r *http.Request, c *caller) error {
	b, err := s.find(r.Context(), r.PathValue("id"), c)
	if err != nil {
		return err
	}
	b.awaitRoots(r.Context())
	if b.record().State.Ended() {
		_, _ = b.events() // so that the view of an earlier process's build has its last event
	}
	return s.writeJSON(w, c, b.view())
}

// rootsWait bounds how long a client that wants to leave waits for awaitRoots.
const rootsWait = 10 * time.Second

// awaitRoots waits until a detached build whose inputs have come would also outlive
// a restart: its client asks once more before it leaves.
func (b *build) awaitRoots(ctx context.Context) {
	b.mu.Lock()
	wait := b.rec.Detach && b.toAdd == 0 && !b.rooted && !b.rec.State.Ended()
	b.mu.Unlock()
	if !wait {
		return
	}
	timer := time.NewTimer(rootsWait)
	defer timer.Stop()
	select {
	case <-b.held:
	case <-b.done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// cancelWait bounds how long DELETE waits for the build's end.
const cancelWait = 10 * time.Second

// deleteBuild does not wait for an admission, which may be a long one: it ends that.
func (s *Service) deleteBuild(w http.ResponseWriter, r *http.Request, c *caller) error {
	b, err := s.known(r.PathValue("id"), c)
	if err != nil {
		return err
	}
	s.cancelBuild(r.Context(), b, wire.Errorf(wire.CodeBuildCancelled, "by its client"))
	select {
	case <-b.admitted:
		if b.admitErr != nil {
			return errNoBuild
		}
	default:
	}
	return s.writeJSON(w, c, b.view())
}

// cancelBuild cancels and waits for the end, within reason.
func (s *Service) cancelBuild(ctx context.Context, b *build, cause *wire.Error) {
	b.cancel(cause)
	timer := time.NewTimer(cancelWait)
	defer timer.Stop()
	select {
	case <-b.done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Cancel ends a build for its owner's reasons.
func (s *Service) Cancel(ctx context.Context, id wire.BuildID, why string) error {
	s.mu.Lock()
	b := s.builds.all[id]
	s.mu.Unlock()
	if b == nil {
		return errNoBuild
	}
	s.cancelBuild(ctx, b, wire.Errorf(wire.CodeBuildCancelled, "%s", why))
	return nil
}

// CancelTicket cancels the live builds of a ticket and returns how many.
func (s *Service) CancelTicket(ctx context.Context, id ticket.ID) int {
	var own []*build
	for _, b := range s.live() {
		if b.record().Ticket == id {
			own = append(own, b)
			b.cancel(wire.CodeTicketRevoked.Err())
		}
	}
	for _, b := range own {
		s.cancelBuild(ctx, b, wire.CodeTicketRevoked.Err())
	}
	return len(own)
}

// live returns the builds that are not ended.
func (s *Service) live() []*build {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.builds.live))
}

// getEvents streams the build's events.
func (s *Service) getEvents(w http.ResponseWriter, r *http.Request, c *caller) error {
	b, err := s.find(r.Context(), r.PathValue("id"), c)
	if err != nil {
		return err
	}
	from, err := queryNumber(r, "from")
	if err != nil {
		return err
	}
	log, err := b.events()
	if err != nil {
		return err
	}
	if !s.readers.take(c.group(), 1) {
		return errReaders
	}
	defer s.readers.release(c.group(), 1)
	if !b.attend(1) {
		return wire.Errorf(wire.CodeRate, "%d readers follow this build already", maxReaders)
	}
	defer b.attend(-1)
	b.setPath(string(link.PathOf(r.Context()).Kind))
	w.Header().Set("Content-Type", wire.TypeEvents)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	if err := rc.Flush(); err != nil {
		return brokenOff(err)
	}
	err = log.copyTo(r.Context(), w, from, rc.Flush)
	if err == nil && b.record().State == wire.StateInterrupted {
		err = errShutdown // so that the reader does not take it for the end
	}
	return brokenOff(err)
}

// events opens the log of an earlier process when needed. Whoever asks for anything but
// that does not wait until all of it has been read.
func (b *build) events() (*eventLog, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	b.mu.Lock()
	state, log := b.rec.State, b.log
	b.mu.Unlock()
	if state == wire.StateInterrupted {
		return nil, errInterrupted
	}
	if log != nil {
		return log, nil
	}
	log, err := readEventLog(b.eventsPath())
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = log
	return log, nil
}

var errInterrupted = wire.CodeRestarted.Err().WithHint("ask for the build again: nothing is spent twice")

// isShutdown tells the end of the service from the end of a build.
func isShutdown(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errShutdown) }
