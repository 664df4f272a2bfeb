package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// lasting tells whether the build goes on by itself after a restart: it needs
// neither its client nor anything that is not in the store. b.mu is held.
func (b *build) lasting() bool { return b.rec.Detach && b.rooted }

// resume makes a build of a record that an earlier process has left under way,
// or tells why its client has to ask for it again. Its use is spent, its policy
// was asked, and its limits are those of then.
func (s *Service) resume(ctx context.Context, rec BuildRecord) (*build, error) {
	if !rec.Detach {
		return nil, errors.New("it is not detached")
	}
	if rec.Limits == nil {
		return nil, errors.New("its limits were not recorded")
	}
	c, err := s.callerOf(ctx, &rec)
	if err != nil {
		return nil, err
	}
	b := &build{
		s: s, rec: rec, dir: filepath.Join(s.cfg.Dir, string(rec.ID)), limits: *rec.Limits,
		admitted: make(chan struct{}), complete: make(chan struct{}), done: make(chan struct{}), rooted: true,
	}
	if b.resumed, err = b.heldRoots(ctx); err != nil {
		return nil, err
	}
	if b.log, err = openEventLog(b.eventsPath(), s.cfg.Now, s.cfg.MaxLog); err != nil {
		return nil, err
	}
	b.ctx, b.cancel = context.WithCancelCause(s.ctx)
	b.rec.State, b.rec.Result, b.sent = wire.StateQueued, nil, rec.sent()
	b.place = newPlaceOf(c)
	b.followPlace(b.log)
	close(b.admitted)
	close(b.complete)
	return b, nil
}

// callerOf is who has asked for a recorded build, if they still may have it.
func (s *Service) callerOf(ctx context.Context, rec *BuildRecord) (*caller, error) {
	c := &caller{client: rec.Client}
	if rec.Ticket == (ticket.ID{}) {
		trusted, ok := s.clients[rec.Client]
		if !ok {
			return nil, errors.New("its client is not trusted any more")
		}
		c.trusted = &trusted
		return c, nil
	}
	t, err := s.cfg.Records.Ticket(ctx, rec.Ticket)
	if err != nil {
		return nil, err
	}
	c.ticket = &t
	return c, t.CheckHolder(rec.Client)
}

// heldLinks are the links to derivations in the build's directory, and heldDrvs
// what they lead to: there are none before all inputs have come.
func (b *build) heldLinks() ([]string, error) {
	return filepath.Glob(filepath.Join(b.dir, drvRoots+"*"))
}

func (b *build) heldDrvs() ([]nix.Path, error) {
	links, err := b.heldLinks()
	if err != nil {
		return nil, err
	}
	held := make([]nix.Path, len(links))
	for i, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			return nil, err
		}
		held[i] = nix.Path(target)
	}
	return held, nil
}

// heldRoots returns what the build is to build, if its directory still holds the
// derivations, and so the inputs, of all of that.
func (b *build) heldRoots(ctx context.Context) ([]daemon.DerivedPath, error) {
	links, err := b.heldLinks()
	if err != nil {
		return nil, err
	}
	held, err := b.heldDrvs()
	if err != nil {
		return nil, err
	}
	roots := make([]daemon.DerivedPath, len(b.rec.Roots))
	drvs := make([]nix.Path, len(b.rec.Roots))
	for i, r := range b.rec.Roots {
		drvs[i] = nix.Path(r.Drv)
		roots[i] = daemon.DerivedPath{Path: drvs[i], Outputs: slices.Clone(r.Outputs)}
		if !slices.Contains(held, drvs[i]) {
			return nil, fmt.Errorf("its inputs had not all come: nothing holds %s", drvs[i])
		}
	}
	drvs = nix.SortedPaths(drvs)
	valid, err := b.s.cfg.Store.ValidPaths(ctx, drvs, false)
	if err != nil {
		return nil, err
	}
	if len(valid) < len(drvs) {
		return nil, fmt.Errorf("of its %d derivations only %d are valid", len(drvs), len(valid))
	}
	// A crash may have come between making the links and registering them.
	session, err := b.s.cfg.Store.Session(ctx)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	return roots, session.AddRoots(ctx, links)
}

// goOn queues a build that resume has made.
func (b *build) goOn() {
	b.s.cfg.Log.Info("build goes on after a restart", "build", b.rec.ID)
	b.log.log(wire.Log{Level: int(daemon.LevelNotice)}, []byte("the builder was restarted; the build begins again"))
	b.s.queue.join(b.place)
	b.s.wg.Add(1)
	go b.live(true, false)
}
