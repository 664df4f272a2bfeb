package builder_test

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"testing"

	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
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
