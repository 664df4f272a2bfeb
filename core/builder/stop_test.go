package builder_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// stalledUpload makes build 1 and begins to send its inputs. The rest of the
// body is the caller's; sent tells how the request ended.
func stalledUpload(t *testing.T, c *bt.Client, objects []bt.Object) (body *io.PipeWriter, sent <-chan error) {
	t.Helper()
	if _, err := c.Put(bt.ID(1), bt.Request(objects...)); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	ended := make(chan error, 1)
	go func() {
		_, err := c.Do(http.MethodPut, "/v1/builds/"+string(bt.ID(1))+"/inputs", r)
		ended <- err
	}()
	if _, err := w.Write(bt.Frame(0, objects[0].Nar)[:50]); err != nil {
		t.Fatal(err)
	}
	return w, ended
}

// A client takes whatever a builder answers for the last word, so one that
// stops, and may be back in a moment, answers nothing.
func TestStoppingBuilderAnswersNothing(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	objects := small("x")
	w, sent := stalledUpload(t, c, objects)
	e.svc.Close()
	w.Close()
	_, attached := c.Put(bt.ID(1), bt.Request(objects...))
	_, admitted := c.Put(bt.ID(2), bt.Request(objects...))
	_, followed := c.Events(bt.ID(1), 1)
	for name, err := range map[string]error{"upload": <-sent, "attach": attached, "admit": admitted, "follow": followed} {
		if err == nil || wire.CodeOf(err) != "" || !errors.As(err, new(*url.Error)) {
			t.Errorf("%s: %v, want the connection broken off", name, err)
		}
	}
}

// stoppedStore connects to nothing until whoever asks gives up.
type stoppedStore struct {
	*bt.Store
	asked chan struct{}
}

func (s stoppedStore) Session(ctx context.Context) (builder.Session, error) {
	close(s.asked)
	<-ctx.Done()
	return nil, fmt.Errorf("connect to the Nix daemon: %w", context.Cause(ctx))
}

// What a stop cuts off is not the Nix daemon's failure in the operator's log.
func TestStopIsNoFailure(t *testing.T) {
	var log bytes.Buffer
	asked := make(chan struct{})
	e := start(t, func(c *builder.Config) {
		c.Store = stoppedStore{c.Store.(*bt.Store), asked}
		c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	})
	c := e.holder(1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = c.Put(bt.ID(1), bt.Request(small("x")...)) // broken off
	}()
	<-asked
	e.svc.Close()
	<-done
	if log.Len() > 0 {
		t.Errorf("logged: %s", &log)
	}
}

// slowToLeave asks substituters for as long as it may, and then a little longer.
type slowToLeave struct{ fullDisk }

func (s *slowToLeave) ValidPaths(ctx context.Context, paths []nix.Path, substitute bool) ([]nix.Path, error) {
	valid, err := s.fullDisk.ValidPaths(ctx, paths, substitute)
	if substitute {
		time.Sleep(20 * time.Millisecond)
	}
	return valid, err
}

// A builder has not stopped before the builds that are being admitted have ended.
func TestStopWaitsForAdmissions(t *testing.T) {
	asked := make(chan struct{})
	e := start(t, func(c *builder.Config) { c.Store = &slowToLeave{fullDisk{c.Store.(*bt.Store), asked}} })
	c := e.holder(1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = c.Put(bt.ID(1), bt.Request(withSource(bt.Built(bt.Source("built", "x").Info.Path, "contents"))...)) // broken off
	}()
	<-asked
	e.svc.Close()
	if rec, err := e.records.Build(t.Context(), bt.ID(1)); err != nil || rec.State != wire.StateInterrupted {
		t.Errorf("it has stopped, and the build is %s, %v", rec.State, err)
	}
	<-done
}
