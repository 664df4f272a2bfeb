package main

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
)

// A log that cannot be written is not one that was printed.
func TestLogIsNotWritten(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	a := &app{stdout: full}
	line := &wire.Event{Type: wire.EventLog, Log: &wire.Log{Text: "a line", Level: 2}}
	if err := a.printLog(t.Context(), func(_ context.Context, event func(*wire.Event)) error { event(line); return nil }); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	a.stdout = w
	err = a.printLog(t.Context(), func(ctx context.Context, event func(*wire.Event)) error {
		event(line)
		<-ctx.Done() // as who follows a build for hours
		return context.Cause(ctx)
	})
	if !errors.Is(err, syscall.EPIPE) {
		t.Errorf("got %v", err)
	}
}
