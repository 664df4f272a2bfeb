package builder

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// maxInputSessions bounds the daemon connections of builds whose inputs are
	// not complete, in all and for each ticket or trusted client: the daemon
	// runs a process of some 15 MiB for each. Builds that wait have none, builds
	// that run have their slot's.
	maxInputSessions   = 128
	inputSessionsShare = 32
)

var errCrowded = wire.Errorf(wire.CodeRate, "the builder is taking the inputs of too many builds").WithHint("try again in a moment")

// sessionWait is how long a build waits for one.
const sessionWait = 10 * time.Second

// turnstile is a budget that can be waited for. What becomes free goes to the waiting
// group that has least, and to who came first among those: who asks for much at once
// waits behind who asks for little.
type turnstile struct {
	budget
	mu      sync.Mutex
	waiting []*waiter // in order of arrival
}

type waiter struct {
	group string
	in    chan struct{} // closed when it has entered
}

// enter takes one, waiting for it until ctx ends.
func (t *turnstile) enter(ctx context.Context, group string) bool {
	t.mu.Lock()
	if t.take(group, 1) {
		t.mu.Unlock()
		return true
	}
	w := &waiter{group, make(chan struct{})}
	t.waiting = append(t.waiting, w)
	t.mu.Unlock()
	select {
	case <-w.in:
		return true
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.waiting, w)
	if i < 0 {
		return true // it has entered just now
	}
	t.waiting = slices.Delete(t.waiting, i, i+1)
	return false
}

func (t *turnstile) leave(group string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.release(group, 1)
	next, least := -1, int64(0)
	for i, w := range t.waiting {
		if has, room := t.of(w.group); room > 0 && (next < 0 || has < least) {
			next, least = i, has
		}
	}
	if next < 0 {
		return // nobody waits, or only who has to leave this to others
	}
	w := t.waiting[next]
	t.waiting = slices.Delete(t.waiting, next, next+1)
	t.take(w.group, 1)
	close(w.in)
}

// inputSession opens a connection to the daemon for inputs and their roots.
func (s *Service) inputSession(ctx context.Context, group string) (Session, error) {
	ctx, cancel := context.WithTimeout(ctx, sessionWait)
	defer cancel()
	if !s.sessions.enter(ctx, group) {
		return nil, errCrowded
	}
	session, err := s.cfg.Store.Session(s.ctx)
	if err != nil {
		s.sessions.leave(group)
		return nil, storeError(err)
	}
	return &countedSession{Session: session, release: sync.OnceFunc(func() { s.sessions.leave(group) })}, nil
}

const (
	// maxQuestions bounds the questions of what is missing, which the daemon asks
	// its substituters, in all and for each ticket or trusted client.
	maxQuestions   = 8
	questionsShare = 4
)

// missing asks what building the targets would take, once it is the group's turn.
func (s *Service) missing(ctx context.Context, group string, targets []daemon.DerivedPath) (daemon.Missing, error) {
	if !s.questions.enter(ctx, group) {
		return daemon.Missing{}, context.Cause(ctx)
	}
	defer s.questions.leave(group)
	m, err := s.cfg.Store.Missing(ctx, targets)
	return m, storeError(err)
}

// countedSession is a Session that is counted until it is closed.
type countedSession struct {
	Session
	release func()
}

func (c *countedSession) Close() error {
	defer c.release()
	return c.Session.Close()
}

// reserved is disk space that was promised and may not be written yet.
type reserved struct {
	mu    sync.Mutex
	bytes uint64
}

// enoughDisk fails when the free space is below the reserve.
func (s *Service) enoughDisk() error {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	return s.checkDisk(0)
}

// promise is disk space for what is to be written.
type promise struct {
	of   *reserved
	left uint64 // under of.mu
}

// written notes that so much of it is not free any more, but keeps at least so much.
func (p *promise) written(bytes, keep uint64) {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	if p.left > keep {
		p.giveBack(min(bytes, p.left-keep))
	}
}

func (p *promise) end() {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.giveBack(p.left)
}

// giveBack ends a part of the promise. of.mu is held.
func (p *promise) giveBack(bytes uint64) {
	p.left -= bytes
	p.of.bytes -= bytes
}

// reserveDisk promises space for more bytes, or fails when that and what was
// promised before would take from the reserve.
func (s *Service) reserveDisk(more uint64) (*promise, error) {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	if err := s.checkDisk(s.disk.bytes + min(more, math.MaxInt64)); err != nil {
		return nil, err
	}
	s.disk.bytes += more
	return &promise{&s.disk, more}, nil
}

func (s *Service) checkDisk(more uint64) error {
	free, err := s.cfg.FreeDisk()
	if err != nil {
		return fmt.Errorf("ask for free disk space: %w", err)
	}
	reserve := s.tuning().MinFree
	if free < reserve || free-reserve < more {
		return wire.Errorf(wire.CodeDisk, "%d MiB are free, %d MiB are kept in reserve", free>>20, reserve>>20)
	}
	return nil
}
