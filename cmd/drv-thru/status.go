package main

import (
	"context"
	"io"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/cmd/internal/usage"
)

func newStatusCommand(a *app) *ffcli.Command {
	fs := a.flags("drv-thru status")
	watch := fs.Bool("watch", false, "go on showing it until interrupted")
	var interval time.Duration
	usage.DurationVar(fs, &interval, "interval", 2*time.Second, "`TIME` from one look of --watch to the next")
	return a.asking(&ffcli.Command{
		Name:       "status",
		ShortUsage: "drv-thru status [flags]",
		ShortHelp:  "show what this builder does",
		LongHelp:   "With --watch, a terminal is redrawn; elsewhere each look is printed after the last,\nwith --json as one line.",
	}, fs, "", func(ctx context.Context, client *admin.Client, _ string, asJSON bool) error {
		if interval < minInterval {
			return usagef("--interval is at least %s", minInterval)
		}
		if *watch {
			return a.watchStatus(ctx, client, interval, asJSON)
		}
		st, err := client.Status(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			return term.WriteJSON(a.stdout, st)
		}
		v := statusView{p: term.New(a.stdout, a.env), now: time.Now()}
		_, err = io.WriteString(a.stdout, v.text(st))
		return err
	})
}
