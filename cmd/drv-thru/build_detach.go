package main

import (
	"context"
	"fmt"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/wire"
)

// detachedBuild is what build --detach --json prints.
type detachedBuild struct {
	Build wire.BuildID `json:"build,omitempty"` // absent when everything is here already
	State wire.State   `json:"state,omitempty"`
}

// leave starts a build that goes on without this client.
func (r *buildRun) leave(ctx context.Context, s *client.Session, request *client.Request) error {
	build, err := s.Start(ctx, request)
	if err != nil {
		return err
	}
	r.view.Close()
	if build.Result != nil && build.Result.Error != nil {
		return r.buildFailed(request.ID, build.Result)
	}
	r.printer.Line("the builder has all it needs; see how it goes with: drv-thru attach " + string(request.ID))
	r.printer.Flush()
	return r.printDetached(detachedBuild{request.ID, build.State})
}

// nothingToDetach ends build --detach of what is here.
func (r *buildRun) nothingToDetach() error {
	r.view.Close()
	r.printer.Line("everything is here already; nothing was started")
	r.printer.Flush()
	return r.printDetached(detachedBuild{})
}

func (r *buildRun) printDetached(d detachedBuild) error {
	if r.flags.json {
		return term.WriteJSON(r.app.stdout, d)
	}
	if d.Build == "" {
		return nil
	}
	_, err := fmt.Fprintln(r.app.stdout, d.Build)
	return err
}
