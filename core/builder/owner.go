package builder

import (
	"context"
	"errors"
	"io"

	"github.com/drv-thru/drv-thru/core/wire"
)

// Builds returns every build that is remembered: those that are not ended as
// they come in a [Status], then the ended ones, the newest first.
func (s *Service) Builds() []BuildStatus {
	return append(s.active(), s.ended(-1)...)
}

// errSoFar ends the reading of events where no more have come.
var errSoFar = errors.New("these are all events so far")

// Events writes the events of a build to w for the builder's owner: those that
// there are now or, with follow, all until its end. flush is called each time
// that w has everything so far.
func (s *Service) Events(ctx context.Context, id wire.BuildID, w io.Writer, follow bool, flush func() error) error {
	s.mu.Lock()
	b := s.builds.all[id]
	s.mu.Unlock()
	if b == nil {
		return errNoBuild
	}
	select {
	case <-b.admitted:
	case <-ctx.Done():
		return ctx.Err()
	}
	log, err := b.ownersEvents()
	if err != nil {
		return err
	}
	err = log.copyTo(ctx, w, 1, func() error {
		err := flush()
		if err == nil && !follow {
			err = errSoFar
		}
		return err
	})
	if errors.Is(err, errSoFar) {
		return nil
	}
	return err
}

// ownersEvents is events, also of a build that was interrupted: its client has
// to ask for it again, its owner wants to see how far it came.
func (b *build) ownersEvents() (*eventLog, error) {
	if b.record().State == wire.StateInterrupted {
		return readEventLog(b.eventsPath())
	}
	return b.events()
}
