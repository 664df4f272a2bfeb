package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os/signal"
	"syscall"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
)

// minInterval keeps a watcher from being a load.
const minInterval = 10 * time.Millisecond

// watchStatus shows the status again and again until it is interrupted or the
// builder is gone.
func (a *app) watchStatus(ctx context.Context, client *admin.Client, interval time.Duration, asJSON bool) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var screen *term.Screen
	if !asJSON {
		screen = term.NewScreen(a.stdout, a.env)
		defer screen.Close()
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for first := true; ; first = false {
		st, err := client.Status(ctx)
		if err == nil {
			err = a.showStatus(st, screen, asJSON, first)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// showStatus shows one look at the builder.
func (a *app) showStatus(st *admin.Status, screen *term.Screen, asJSON, first bool) error {
	if asJSON {
		return json.NewEncoder(a.stdout).Encode(st)
	}
	var text bytes.Buffer
	into := *a
	into.stdout = &text
	now := time.Now()
	if screen == nil && !first {
		text.WriteByte('\n')
	}
	text.WriteString(now.Local().Format(time.DateTime) + "\n")
	if err := into.printStatus(st, now); err != nil {
		return err
	}
	if screen != nil {
		return screen.Draw(text.String())
	}
	_, err := a.stdout.Write(text.Bytes())
	return err
}
