package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

func newBuildsCommand(a *app) *ffcli.Command {
	return group(&ffcli.Command{
		Name:       "builds",
		ShortUsage: "drv-thru builds list|show|log|cancel",
		ShortHelp:  "show and cancel this builder's builds",
		LongHelp: "Asks the builder that runs on this machine. (For builds of one's own on another\n" +
			"machine: drv-thru attach, log and cancel.)",
		FlagSet: a.flags("drv-thru builds"),
		Subcommands: []*ffcli.Command{
			newBuildsListCommand(a), newBuildsShowCommand(a), newBuildsLogCommand(a), newBuildsCancelCommand(a),
		},
	})
}

func newBuildsListCommand(a *app) *ffcli.Command {
	return a.asking(&ffcli.Command{
		Name:       "list",
		ShortUsage: "drv-thru builds list [flags]",
		ShortHelp:  "list the builds that are remembered",
		LongHelp:   "Lists the builds under way, then the ended ones that are still remembered, the\nnewest first.",
	}, a.flags("drv-thru builds list"), "", func(ctx context.Context, client *admin.Client, _ string, asJSON bool) error {
		all, err := client.Builds(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			return term.WriteJSON(a.stdout, all)
		}
		now := time.Now()
		rows := [][]string{{"ID", "CLIENT", "STATE", "BEGUN", "TOOK", "WHAT"}}
		for _, b := range all {
			rows = append(rows, []string{
				string(b.ID), clientText(&b), phaseText(&b), when(b.Created, now), roughly(elapsed(&b, now)), strings.Join(b.Labels, " "),
			})
		}
		return table(a.stdout, rows...)
	})
}

// clientText names who builds.
func clientText(b *builder.BuildStatus) string { return cmp.Or(b.ClientName, b.Client.Short()) }

// phaseText says how far a build is, or how it ended.
func phaseText(b *builder.BuildStatus) string {
	phase := string(b.State)
	if b.Position > 0 {
		phase += fmt.Sprintf(" (%d.)", b.Position)
		if b.WaitSeconds > 0 {
			phase += ", " + term.Within(seconds(b.WaitSeconds))
		}
	}
	if b.Result != nil && b.Result.Error != nil && b.Result.Error.Code != "" {
		phase += " (" + string(b.Result.Error.Code) + ")"
	}
	return phase
}

// elapsed is how long a build has run, or waited if it has not run.
func elapsed(b *builder.BuildStatus, now time.Time) time.Duration {
	from, end := b.Created, now
	if !b.Started.IsZero() {
		from = b.Started
	}
	if !b.Ended.IsZero() {
		end = b.Ended
	}
	return max(0, end.Sub(from))
}

// oneBuild makes a command about one build.
func (a *app) oneBuild(name, short, long string, more func(*flag.FlagSet), do func(context.Context, *admin.Client, string, bool) error) *ffcli.Command {
	fs := a.flags("drv-thru builds " + name)
	if more != nil {
		more(fs)
	}
	return a.asking(&ffcli.Command{
		Name:       name,
		ShortUsage: "drv-thru builds " + name + " [flags] ID",
		ShortHelp:  short,
		LongHelp:   long + "\nID may be the first four or more characters of the build's ID.",
	}, fs, "one build ID", do)
}

func newBuildsShowCommand(a *app) *ffcli.Command {
	return a.oneBuild("show", "tell about a build", "Tells who has asked for a build, how it goes or went, and what came of it.", nil,
		func(ctx context.Context, client *admin.Client, id string, asJSON bool) error {
			b, err := client.Build(ctx, id)
			if err != nil {
				return err
			}
			if asJSON {
				return term.WriteJSON(a.stdout, b)
			}
			return a.showBuild(b, time.Now())
		})
}

func (a *app) showBuild(b *builder.BuildStatus, now time.Time) error {
	var rows [][]string
	row := func(name, text string) {
		if text != "" {
			rows = append(rows, []string{name, text})
		}
	}
	at := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.Local().Format(time.DateTime) + ", " + when(t, now)
	}
	row("build", string(b.ID))
	for _, l := range b.Labels {
		row("installable", l)
	}
	row("client", b.Client.String())
	row("client name", b.ClientName)
	row("ticket", b.Ticket)
	row("state", phaseText(b))
	switch {
	case b.State.Ended():
	case b.Connected:
		row("followed", "yes")
	case b.Detached:
		row("followed", "no: it is detached")
	default:
		row("followed", "no")
	}
	row("begun", at(b.Created))
	row("started", at(b.Started))
	row("ended", at(b.Ended))
	for _, d := range b.Building {
		row("building", strings.TrimPrefix(d.Drv, nix.StoreDir+"/")+onMachine(d.Machine)+", "+when(d.Since, now))
	}
	if res := b.Result; res != nil {
		row("queued for", term.Span(seconds(res.QueueTime)))
		row("built in", term.Span(seconds(res.BuildTime)))
		row("inputs sent", unpacked(res.UploadBytes))
		for _, name := range slices.Sorted(maps.Keys(res.Machines)) {
			row("built", term.Count(res.Machines[name], "derivation")+onMachine(name))
		}
		for _, o := range res.Outputs {
			row("output", o.Name+"  "+o.Path)
		}
		if res.Error != nil {
			row("error", strings.ReplaceAll(res.Error.Error(), "\n", "  "))
		}
	}
	return table(a.stdout, rows...)
}

// onMachine says where something is built, if that is not this machine.
func onMachine(name string) string {
	if name == wire.MachineSelf {
		return ""
	}
	return " on " + plain(name)
}

func newBuildsLogCommand(a *app) *ffcli.Command {
	var follow bool
	return a.oneBuild("log", "print a build's log", "Prints what a build and its dependencies have printed.",
		func(fs *flag.FlagSet) { fs.BoolVar(&follow, "f", false, "go on until the build has ended") },
		func(ctx context.Context, client *admin.Client, id string, _ bool) error {
			return a.printLog(ctx, func(ctx context.Context, event func(*wire.Event)) error { return client.Events(ctx, id, follow, event) })
		})
}

// printLog prints the log of a build whose events read hands on, for as long as that
// can be written.
func (a *app) printLog(ctx context.Context, read func(ctx context.Context, event func(*wire.Event)) error) error {
	p := term.New(a.stdout, a.env)
	defer p.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.OnError(cancel)
	v := term.NewProgress(p, term.Config{Logs: true})
	defer v.Close()
	err := read(ctx, v.Event)
	v.Close()
	// What the daemon called errors comes last: it says why.
	_, messages := v.Failed()
	for _, m := range messages {
		p.Line(plainMessage(m))
	}
	p.Close()
	return cmp.Or(p.Err(), err)
}

func newBuildsCancelCommand(a *app) *ffcli.Command {
	return a.oneBuild("cancel", "cancel a build", "Ends a build that is under way.", nil,
		func(ctx context.Context, client *admin.Client, id string, asJSON bool) error {
			b, err := client.Cancel(ctx, id)
			if err != nil {
				return err
			}
			if asJSON {
				return term.WriteJSON(a.stdout, b)
			}
			_, err = fmt.Fprintln(a.stdout, "cancelled", b.ID)
			return err
		})
}
