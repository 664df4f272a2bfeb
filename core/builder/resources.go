package builder

import (
	"fmt"
	"math"
	"sync"

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

// inputSession opens a connection to the daemon for inputs and their roots.
func (s *Service) inputSession(group string) (Session, error) {
	if !s.sessions.take(group, 1) {
		return nil, errCrowded
	}
	session, err := s.cfg.Store.Session(s.ctx)
	if err != nil {
		s.sessions.release(group, 1)
		return nil, storeError(err)
	}
	return &countedSession{Session: session, release: sync.OnceFunc(func() { s.sessions.release(group, 1) })}, nil
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
	if free < s.cfg.MinFree || free-s.cfg.MinFree < more {
		return wire.Errorf(wire.CodeDisk, "%d MiB are free, %d MiB are kept in reserve", free>>20, s.cfg.MinFree>>20)
	}
	return nil
}
