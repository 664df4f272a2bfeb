package client

import (
	"context"

	"github.com/drv-thru/drv-thru/core/wire"
)

// Start creates the build, sends what the builder lacks and returns once the
// builder has all of it: the rest of a request with Detach needs no client. When
// it returns an error, the build has been cancelled, as far as the builder could
// be told.
func (s *Session) Start(ctx context.Context, r *Request) (wire.Build, error) {
	doc, err := r.document()
	if err != nil {
		return wire.Build{}, err
	}
	for attempt := 0; ; attempt++ {
		build, err := s.startOnce(ctx, r, doc)
		switch {
		case err == nil:
			return build, nil
		case wire.CodeOf(err) != wire.CodeRestarted || attempt == maxRestarts:
			return build, s.giveUp(ctx, r.ID, err)
		}
		s.Observer.Note("the builder was restarted; asking for the build again")
	}
}

func (s *Session) startOnce(ctx context.Context, r *Request, doc []byte) (build wire.Build, err error) {
	build, err = repeat(ctx, s, func(ctx context.Context) (wire.Build, error) {
		return s.API.PutBuild(ctx, r.ID, doc, len(r.Inputs.Paths))
	})
	if err == nil {
		err = s.upload(ctx, r, build)
	}
	if err == nil {
		build, err = s.State(ctx, r.ID)
	}
	if err == nil && build.State == wire.StateInterrupted {
		err = wire.CodeRestarted.Err()
	}
	return build, err
}

// State asks how a build is.
func (s *Session) State(ctx context.Context, id wire.BuildID) (wire.Build, error) {
	return repeat(ctx, s, func(ctx context.Context) (wire.Build, error) {
		return s.API.GetBuild(ctx, id, wire.MaxClosurePaths)
	})
}

// Attach follows a build that was started before, by whomever, from its first
// event on, and returns the result once there is one. The build goes on when ctx
// ends.
func (s *Session) Attach(ctx context.Context, id wire.BuildID) (*wire.Result, error) {
	_, result, err := s.followOn(ctx, id, 0, 0)
	return result, err
}

// Past hands the events that a build has by now to the Observer.
func (s *Session) Past(ctx context.Context, id wire.BuildID) error {
	build, err := s.State(ctx, id)
	if err != nil {
		return err
	}
	until := build.LastEvent
	switch {
	case build.State.Ended():
		until = 0 // all, or word of why there are none
	case until == 0:
		return nil
	}
	_, _, err = s.followOn(ctx, id, 0, until)
	return err
}
