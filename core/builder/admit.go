package builder

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// putBuild creates a build or attaches to it.
func (s *Service) putBuild(w http.ResponseWriter, r *http.Request, c *caller) error {
	id, err := wire.ParseBuildID(r.PathValue("id"))
	if err != nil {
		return badRequest("%s", err)
	}
	// An attached build needs no usable ticket, a new one does: say so before
	// the client sends its document in vain.
	if b, _ := s.known(string(id), c); b == nil || b.record().State == wire.StateInterrupted {
		if err := s.mayStart(c, b != nil); err != nil {
			return err
		}
	}
	var req wire.BuildRequest
	done, err := s.readJSON(w, r, c, &req, wire.MaxClosureDocument)
	if err != nil {
		return err
	}
	defer done()
	if req.Mode != wire.ModeNormal && req.Mode != wire.ModeCheck {
		return badRequest("unknown mode %.40q", req.Mode)
	}
	content, err := contentOf(&req)
	if err != nil {
		return err
	}
	b, err := s.attachOrAdmit(r.Context(), c, id, &req, content)
	if err != nil {
		return err
	}
	b.touch()
	return s.writeJSON(w, c, b.view())
}

func (s *Service) mayStart(c *caller, reuse bool) error {
	s.mu.Lock()
	draining := s.draining
	s.mu.Unlock()
	if draining {
		return errDraining
	}
	if c.ticket != nil {
		return c.ticket.Check(c.client, s.cfg.Now(), reuse)
	}
	return nil
}

var errDraining = wire.CodeDraining.Err().WithHint("try again later, or use another builder")

// stillMayStart is c by the configuration of now, unless that lets it start nothing any
// more: its document may have taken minutes to come. A ticket is looked at when its use
// is spent. s.mu is held.
func (s *Service) stillMayStart(c *caller) (*caller, error) {
	if s.draining || s.ctx.Err() != nil {
		return nil, errDraining
	}
	if c.trusted == nil {
		return c, nil
	}
	trusted, ok := s.clients[c.client]
	if !ok {
		return nil, errUntrusted(c.client)
	}
	now := *c
	now.trusted = &trusted
	return &now, nil
}

// attachOrAdmit finds the build of this ID or makes it. Of several requests with
// one ID the first admits; the others wait for it.
func (s *Service) attachOrAdmit(ctx context.Context, c *caller, id wire.BuildID, req *wire.BuildRequest, content [32]byte) (*build, error) {
	for {
		s.mu.Lock()
		b := s.builds.all[id]
		if b != nil && b.clearing != nil && b.revivable(c, content) {
			cleared := b.clearing
			s.mu.Unlock()
			select {
			case <-cleared:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			continue // it may be gone
		}
		if b == nil || b.revivable(c, content) {
			c, err := s.stillMayStart(c)
			if err == nil {
				err = s.roomFor(c)
			}
			if err != nil {
				s.mu.Unlock()
				return nil, err
			}
			fresh := s.newBuild(c, id, req, content)
			s.builds.put(fresh)
			s.wg.Add(1)
			s.mu.Unlock()
			return s.admitOrForget(ctx, c, fresh, b, req)
		}
		s.mu.Unlock()
		if err := b.awaitAdmission(ctx); err != nil {
			return nil, err
		}
		if b.admitErr != nil {
			continue // it is gone; this request may try itself
		}
		if err := s.mayAccess(b, c); err != nil {
			return nil, err
		}
		if b.record().Content != content {
			return nil, wire.CodeConflict.Err()
		}
		return b, nil
	}
}

// awaited counts the client of an admission as being there until done, or until its
// request ends, as ctx does. It then has as long to come back as at any other time.
func (b *build) awaited(ctx context.Context) (done func()) {
	if !b.attend(1) {
		return func() {}
	}
	stop := context.AfterFunc(ctx, func() { b.attend(-1) })
	return func() {
		if stop() {
			b.attend(-1)
		} else {
			b.attend(0) // a detached build may have got all its inputs since
		}
	}
}

// awaitAdmission waits until the request that admits the build has done so. That one's
// client may have left, so whoever waits counts as being there.
func (b *build) awaitAdmission(ctx context.Context) error {
	select {
	case <-b.admitted:
		return nil
	default:
	}
	if b.attend(1) {
		defer b.attend(-1)
	}
	select {
	case <-b.admitted:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// revivable tells whether the build was interrupted and c asks for it again.
func (b *build) revivable(c *caller, content [32]byte) bool {
	select {
	case <-b.admitted:
	default:
		return false
	}
	rec := b.record()
	return rec.State == wire.StateInterrupted && rec.Content == content && rec.Client == c.client && rec.Ticket == c.ticketID()
}

func (c *caller) ticketID() ticket.ID {
	if c.ticket == nil {
		return ticket.ID{}
	}
	return c.ticket.ID
}

// roomFor bounds the builds that are under way. s.mu is held.
func (s *Service) roomFor(c *caller) error {
	all, own := len(s.builds.live), 0
	for _, b := range s.builds.live {
		// Read without its lock: neither changes after the build is made.
		if b.rec.Client == c.client || c.ticket != nil && b.rec.Ticket == c.ticket.ID {
			own++
		}
	}
	if all >= maxLive || own >= maxLivePerClient {
		return wire.Errorf(wire.CodeRate, "%d builds of yours are under way here, %d in all", own, all).
			WithHint("wait until some have ended")
	}
	return nil
}

func (s *Service) newBuild(c *caller, id wire.BuildID, req *wire.BuildRequest, content [32]byte) *build {
	b := &build{
		s: s, dir: filepath.Join(s.cfg.Dir, string(id)),
		admitted: make(chan struct{}), complete: make(chan struct{}), held: make(chan struct{}), done: make(chan struct{}),
		limits: c.limits(),
		rec: BuildRecord{
			ID: id, Client: c.client, Ticket: c.ticketID(), Content: content, Roots: req.Roots,
			Mode: req.Mode, KeepGoing: req.KeepGoing, Detach: req.Detach, State: wire.StateUploading, Created: s.cfg.Now(),
		},
		planned: make(map[nix.Path]Planned),
	}
	b.ctx, b.cancel = context.WithCancelCause(s.ctx)
	b.place = newPlaceOf(c)
	if c.trusted != nil {
		b.rec.ClientName = c.trusted.Name
	}
	return b
}

func newPlaceOf(c *caller) *place {
	return &place{group: c.group(), client: c.client.String(), granted: make(chan struct{}), present: true}
}

// admitOrForget admits the build, which is registered already, or puts back
// what was there. The end of the service ends it.
func (s *Service) admitOrForget(ctx context.Context, c *caller, b, old *build, req *wire.BuildRequest) (*build, error) {
	defer s.wg.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(errShutdown) })()
	if old != nil {
		b.revived = old.record().Limits
	}
	err := s.admit(ctx, c, b, req)
	if err == nil || b.record().State.Ended() {
		// An error that struck after the use was spent is the build's result.
		close(b.admitted)
		return b, err
	}
	b.dropSession()
	s.mu.Lock()
	if old != nil {
		s.builds.put(old)
	} else {
		s.builds.drop(b)
	}
	s.mu.Unlock()
	b.admitErr = err
	b.cancel(err)
	close(b.admitted) // before it is done, so that who has cancelled it knows
	close(b.done)
	return nil, err
}

// admit checks limits, asks the policy, spends a use and starts the build.
func (s *Service) admit(ctx context.Context, c *caller, b *build, req *wire.BuildRequest) error {
	if err := s.enoughDisk(); err != nil {
		return err
	}
	cl, err := newClosure(req.Roots, req.Closure)
	if err != nil {
		return err
	}
	have, err := s.rootPresent(ctx, b, cl)
	if err != nil {
		return err
	}
	wanted, bytes := wantedOf(cl, have)
	if most := b.limits.MaxUploadBytes; most > 0 && uploadsAtLeast(cl, wanted) > uint64(most) {
		return uploadLimit(uploadsAtLeast(cl, wanted), most)
	}
	var planned []Planned
	var idle bool
	if len(wanted) == 0 {
		if planned, idle, err = s.checkBuild(ctx, b, cl, req.Mode); err != nil {
			return err
		}
	}
	b.policyRequest = newPolicyRequest(c, b, cl, bytes, req)
	if err := s.decideAndRecord(ctx, b, cl, wanted, planned); err != nil {
		return err
	}
	// From here on the use is spent, so nothing that can be retried may fail.
	if err := s.begin(b, cl, len(wanted)); err != nil {
		b.fail(err)
		return err
	}
	checked := len(wanted) == 0
	if !checked {
		defer b.awaited(ctx)()
		if wanted, err = s.stillWanted(b.ctx, b, cl, have); err != nil {
			b.fail(err)
			return err
		}
	}
	b.start(wanted, checked, idle, c.trace)
	return nil
}

// rootPresent makes temporary roots of the closure, then tells what of it is
// present. A closure that is there whole is held by its roots alone.
func (s *Service) rootPresent(ctx context.Context, b *build, cl *closure) ([]bool, error) {
	session, err := s.inputSession(ctx, b.place.group)
	if err != nil {
		return nil, err
	}
	b.session = session
	have, err := s.present(ctx, cl)
	if err != nil {
		return nil, err
	}
	wanted, _ := wantedOf(cl, have)
	paths := cl.paths()
	if len(wanted) == 0 {
		paths = cl.rootDrvs()
	}
	if err := session.AddTempRoots(ctx, paths); err != nil {
		return nil, storeError(err)
	}
	// What was collected before its root was seen is missing now.
	return s.present(ctx, cl)
}

func (b *build) dropSession() {
	b.mu.Lock()
	session := b.session
	b.session = nil
	b.mu.Unlock()
	if session != nil {
		_ = session.Close() // closing is all that is wanted of it
	}
}

// uploadsAtLeast is what the client has to send even if the substituters have
// everything that they are asked for.
func uploadsAtLeast(cl *closure, wanted []int) (bytes uint64) {
	for _, i := range wanted {
		if !asksSubstituters(cl, i) {
			bytes += cl.infos[i].NarSize
		}
	}
	return bytes
}

func uploadLimit(bytes uint64, most ticket.Size) error {
	return wire.Errorf(wire.CodeUploadLimit, "%d bytes would be sent, %s are allowed", bytes, most)
}

func (s *Service) record(ctx context.Context, b *build) error {
	limits := b.limits
	b.mu.Lock()
	b.rec.Limits = &limits
	rec := b.rec
	b.mu.Unlock()
	// A lost client must not decide whether the transaction is known to have
	// been committed.
	err := s.cfg.Records.Admit(context.WithoutCancel(ctx), rec)
	if errors.Is(err, ErrBuildExists) {
		return errNoBuild // forgotten here, but recorded: somebody else's
	}
	return err
}

// begin makes the build's directory and event log.
func (s *Service) begin(b *build, cl *closure, wanted int) error {
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return fmt.Errorf("make build directory: %w", err)
	}
	log, err := openEventLog(b.eventsPath(), s.cfg.Now, s.cfg.MaxLog)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log, b.closure, b.toAdd = log, cl, wanted
	b.followPlace(log)
	return nil
}

// followPlace has log told where the build is in the queue, and the estimate when it
// has a slot.
func (b *build) followPlace(log *eventLog) {
	s := b.s
	b.place.got = func() { s.estimate.begin(b.place, s.cfg.Now()) }
	b.place.moved = func(position int) {
		wait := s.estimate.wait(position, s.tuning().Slots, s.cfg.Now())
		log.add(&wire.Event{Type: wire.EventQueued, Position: position, WaitSeconds: wait.Seconds()})
	}
}

// stillWanted asks the substituters and returns what the client has to send.
func (s *Service) stillWanted(ctx context.Context, b *build, cl *closure, have []bool) ([]int, error) {
	// The sizes that a holder states bound nothing of what that fetches.
	stop := b.watchDisk(ctx)
	err := s.substitute(ctx, cl, have)
	stop()
	if err != nil {
		return nil, preferCause(ctx, err)
	}
	wanted, bytes := wantedOf(cl, have)
	if most := b.limits.MaxUploadBytes; most > 0 && bytes > uint64(most) {
		return nil, uploadLimit(bytes, most)
	}
	return wanted, s.acceptable(cl, wanted)
}

// start queues the build and lets it live. checked says that it is known already
// that it may run, and idle that nothing would be built.
func (b *build) start(wanted []int, checked, idle bool, trace []any) {
	b.mu.Lock()
	b.wanted, b.toAdd = make(map[int]bool, len(wanted)), len(wanted)
	for _, i := range wanted {
		b.wanted[i] = true
	}
	if len(wanted) == 0 {
		close(b.complete)
	}
	b.lateAfter = lateAfter(b.closure, wanted)
	b.sending(0)
	paths := len(b.closure.infos)
	b.mu.Unlock()
	b.s.cfg.Log.Info("build admitted", append([]any{"build", b.rec.ID, "client", b.rec.Client, "ticket", b.rec.Ticket,
		"paths", paths, "wanted", len(wanted)}, trace...)...)
	b.log.add(&wire.Event{Type: wire.EventPhase, State: wire.StateUploading})
	if !idle {
		b.s.queue.join(b.place)
	}
	b.s.wg.Add(1)
	go b.live(checked, idle)
}

// fail ends a build that was recorded but never started.
func (b *build) fail(err error) {
	b.s.wg.Add(1)
	b.end(&wire.Result{Error: wireError(err)})
}

// wireError finds the error that the client is told.
func wireError(err error) *wire.Error {
	if err == nil {
		return nil
	}
	var e *wire.Error
	if errors.As(err, &e) {
		c := *e
		c.Status, c.Title = c.Code.Status(), c.Code.Title()
		return &c
	}
	return wire.Errorf(wire.CodeInternal, "see the builder's log")
}
