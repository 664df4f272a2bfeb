package main

import (
	"context"
	"io"
	"os/signal"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
)

// minInterval keeps a watcher from being a load.
const minInterval = 10 * time.Millisecond

// watchStatus shows the status again and again until it is interrupted or the
// builder is gone.
func (a *app) watchStatus(ctx context.Context, client *admin.Client, interval time.Duration, asJSON bool) error {
	ctx, stop := signal.NotifyContext(ctx, interrupts()...)
	defer stop()
	w := a.newStatusWatch(asJSON)
	defer w.screen.Close()
	resized, end := w.screen.Resized()
	defer end()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		st, err := client.Status(ctx)
		if err == nil {
			err = w.show(st, time.Now())
		}
		for waiting := true; waiting && err == nil; {
			select {
			case <-ctx.Done():
				return nil
			case <-resized:
				err = w.show(st, time.Now())
			case <-tick.C:
				waiting = false
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
	}
}

// statusWatch shows one look at the builder after the other.
type statusWatch struct {
	app    *app
	asJSON bool
	p      *term.Printer
	screen *term.Screen // nil: they are printed below each other
	looked bool
}

func (a *app) newStatusWatch(asJSON bool) *statusWatch {
	w := &statusWatch{app: a, asJSON: asJSON, p: term.New(a.stdout, a.env)}
	if !asJSON {
		w.screen = term.NewScreen(a.stdout, a.env)
	}
	return w
}

func (w *statusWatch) show(st *admin.Status, now time.Time) error {
	if w.asJSON {
		return term.WriteJSON(w.app.stdout, st)
	}
	v := statusView{p: w.p, now: now}
	text := now.Format(time.DateTime) + "\n"
	if w.screen != nil {
		v.columns, v.rows = w.screen.Size()
		v.rows = max(v.rows-1, 1) // the time has one
		return w.screen.Draw(w.p.Paint(term.Bold, text[:len(text)-1]) + "\n" + v.text(st))
	}
	if w.looked {
		text = "\n" + text
	}
	w.looked = true
	_, err := io.WriteString(w.app.stdout, text+v.text(st))
	return err
}
