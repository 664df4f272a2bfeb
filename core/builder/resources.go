package builder

import (
	"context"
	"fmt"
	"math"
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

// turnstile is a budget that can be waited for.
type turnstile struct {
	budget
	mu    sync.Mutex
	freed chan struct{} // closed at the next release
}

// enter takes one, waiting for it until ctx ends.
func (t *turnstile) enter(ctx context.Context, group string) bool {
	for {
		t.mu.Lock()
		if t.take(group, 1) {
			t.mu.Unlock()
			return true
		}
		if t.freed == nil {
			t.freed = make(chan struct{})
		}
		freed := t.freed
		t.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return false
		}
	}
}

func (t *turnstile) leave(group string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.release(group, 1)
	if t.freed != nil {
		close(t.freed)
		t.freed = nil
	}
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

// reserveDisk promises space for more bytes, or fails when that and what was
// promised before would take from the reserve. What is written meanwhile counts
// twice for a moment; that errs on the right side.
func (s *Service) reserveDisk(more uint64) (giveBack func(), err error) {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	if err := s.checkDisk(s.disk.bytes + min(more, math.MaxInt64)); err != nil {
		return nil, err
	}
	s.disk.bytes += more
	return sync.OnceFunc(func() {
		s.disk.mu.Lock()
		defer s.disk.mu.Unlock()
		s.disk.bytes -= more
	}), nil
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
