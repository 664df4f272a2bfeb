package main

import (
	"context"
	"fmt"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
)

// drainPoll is how often drain --wait looks whether all builds have ended.
const drainPoll = time.Second

func newPauseCommand(a *app) *ffcli.Command {
	return a.steering("pause", "start no builds for now",
		"Builds that run go on. New ones are taken, but wait until: drv-thru resume.", false)
}

func newResumeCommand(a *app) *ffcli.Command {
	return a.steering("resume", "start and take builds again", "Undoes drv-thru pause and drv-thru drain.", false)
}

func newDrainCommand(a *app) *ffcli.Command {
	return a.steering("drain", "take no new builds",
		"New builds are refused; those that run or wait go on. Afterwards the builder can be\n"+
			"stopped without anybody losing work. Undone by: drv-thru resume.", true)
}

// steering makes a command that steers the queue.
func (a *app) steering(name, short, long string, canWait bool) *ffcli.Command {
	var wait bool
	fs := a.flags("drv-thru " + name)
	if canWait {
		fs.BoolVar(&wait, "wait", false, "return when no build runs or waits any more")
	}
	return a.asking(&ffcli.Command{
		Name:       name,
		ShortUsage: "drv-thru " + name + " [flags]",
		ShortHelp:  short,
		LongHelp:   long,
	}, fs, "", func(ctx context.Context, client *admin.Client, _ string, asJSON bool) error {
		st, err := client.Steer(ctx, name)
		if err == nil && name == "resume" {
			st, err = client.Steer(ctx, "undrain")
		}
		for err == nil && wait && len(st.Active) > 0 {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(drainPoll):
				st, err = client.Status(ctx)
			}
		}
		if err != nil {
			return err
		}
		if asJSON {
			return term.WriteJSON(a.stdout, struct {
				Paused   bool `json:"paused"`
				Draining bool `json:"draining"`
				Slots    int  `json:"slots"`
				Running  int  `json:"running"`
				Waiting  int  `json:"waiting"`
			}{st.Paused, st.Draining, st.Slots, st.Running, st.Waiting})
		}
		_, err = fmt.Fprintln(a.stdout, capacityText(st))
		return err
	})
}

// capacityText says how busy a builder is and whether it goes on.
func capacityText(st *admin.Status) string {
	text := fmt.Sprintf("%d of %d slots in use, %d waiting", st.Running, st.Slots, st.Waiting)
	if st.Draining {
		text += ", draining"
	}
	if st.Paused {
		text += ", paused"
	}
	return text
}
