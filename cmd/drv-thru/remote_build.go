package main

import (
	"context"
	"fmt"
	"log/slog"
	"os/signal"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/wire"
)

// checkRemote checks the flags of a command about a build on another machine,
// and reads the build's ID.
func (f *buildFlags) checkRemote(a *app, text string) (wire.BuildID, error) {
	if err := f.routeFlags.check(a); err != nil {
		return "", err
	}
	if f.named() == 0 {
		return "", &usageError{
			text: "the command line does not say which builder has the build",
			hint: "give what it was started with: --ticket TICKET, --builder NAME, or --server ID with --relay-url URL",
		}
	}
	id, err := wire.ParseBuildID(text)
	if err != nil {
		return "", &usageError{text: fmt.Sprintf("%q is not the ID of a build", text), hint: "build --detach prints it"}
	}
	return id, nil
}

// ofBuild says what a builder means that knows no such build.
func ofBuild(err error) error {
	switch wire.CodeOf(err) {
	case wire.CodeNotFound:
		return &hintError{err, "a build is known to the ticket or key that started it alone, and for as long as its builder remembers it"}
	case wire.CodeRestarted:
		return &hintError{err, "build it again: nothing is spent twice that was built"}
	}
	return err
}

// remoteCommand makes a command about a build on another machine.
func (a *app) remoteCommand(name, short, long string, withJSON bool, do func(context.Context, *buildFlags, *client.Session, wire.BuildID) error) *ffcli.Command {
	var f buildFlags
	fs := a.flags("drv-thru " + name)
	f.routeFlags.register(fs)
	if withJSON {
		fs.BoolVar(&f.json, "json", false, "print JSON")
	}
	return &ffcli.Command{
		Name:       name,
		ShortUsage: "drv-thru " + name + " [--ticket TICKET | --builder NAME | --server ID] [flags] BUILD",
		ShortHelp:  short,
		LongHelp:   long,
		FlagSet:    fs,
		Options:    fromEnvironment,
		Exec: func(ctx context.Context, args []string) error {
			text, err := a.oneOperand(fs, args, "one build ID")
			if err != nil {
				return err
			}
			id, err := f.checkRemote(a, text)
			if err != nil {
				return err
			}
			r, err := a.route(&f.routeFlags, a.note)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(ctx, interrupts()...)
			defer stop()
			b, err := r.dial(ctx, slog.New(slog.DiscardHandler))
			if err == nil {
				defer b.link.Close()
				err = ofBuild(do(ctx, &f, b.session(&eventsOnly{note: a.note}), id))
			}
			if err != nil && ctx.Err() != nil {
				return errInterrupted
			}
			return err
		},
	}
}

// eventsOnly is an observer of a session that moves nothing.
type eventsOnly struct {
	event func(*wire.Event)
	note  func(string)
}

func (o *eventsOnly) Event(e *wire.Event)    { o.event(e) }
func (*eventsOnly) Transfer(client.Transfer) {}
func (o *eventsOnly) Note(text string)       { o.note(text) }

func newLogCommand(a *app) *ffcli.Command {
	return a.remoteCommand("log", "print the log of a build on another machine",
		"Prints what a build and its dependencies have printed by now, also after its end.\n"+
			"(On the builder itself: drv-thru builds log.)", false,
		func(ctx context.Context, _ *buildFlags, s *client.Session, id wire.BuildID) error {
			return a.printLog(ctx, func(ctx context.Context, event func(*wire.Event)) error {
				s.Observer.(*eventsOnly).event = event
				return s.Past(ctx, id)
			})
		})
}

func newCancelCommand(a *app) *ffcli.Command {
	return a.remoteCommand("cancel", "cancel a build on another machine",
		"Ends a build that was started with build --detach or in another terminal.\n"+
			"(On the builder itself: drv-thru builds cancel.)", true,
		func(ctx context.Context, f *buildFlags, s *client.Session, id wire.BuildID) error {
			b, err := cancelRemote(ctx, s, id)
			if err != nil {
				return err
			}
			if f.json {
				return term.WriteJSON(a.stdout, detachedBuild{id, b.State})
			}
			_, err = fmt.Fprintln(a.stdout, "cancelled", id)
			return err
		})
}

// cancelRemote ends a build that is under way.
func cancelRemote(ctx context.Context, s *client.Session, id wire.BuildID) (wire.Build, error) {
	b, err := s.State(ctx, id)
	if err != nil {
		return b, err
	}
	if !b.State.Ended() {
		// It may end by itself before the request arrives.
		if b, err = s.API.Cancel(ctx, id); err != nil || !b.State.Ended() || b.State == wire.StateCancelled {
			return b, err
		}
	}
	return b, fmt.Errorf("the build has ended already: %s", b.State)
}
