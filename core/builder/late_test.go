package builder_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Inputs may come slowly, and a large one is read whole before any of it comes; but who
// follows a build and sends none of its inputs does not keep it for ever.
func TestInputsThatDoNotCome(t *testing.T) {
	const limit = 10 * time.Minute
	small, large := bt.Source("src", "small"), bt.Source("src", strings.Repeat("large!", 1<<20))
	for _, c := range []struct {
		name  string
		src   bt.Object
		limit time.Duration
		path  string
		sent  []byte // slowly
	}{
		{"small", small, limit, "/inputs", bt.Frame(0, small.Nar)},
		{"large", large, limit + time.Second, "/inputs/0/manifest", bt.Cut(large).Manifest},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := configured(t)
				svc, err := builder.New(t.Context(), e.cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer svc.Close()
				holder := e.holder(1)
				holder.Server, holder.HTTP = &httptest.Server{URL: "http://builder"}, &http.Client{Transport: inProcess{svc}}
				follow := func(id uint32, objects ...bt.Object) {
					t.Helper()
					if _, err := holder.Put(bt.ID(id), bt.Request(objects...)); err != nil {
						t.Fatal(err)
					}
					go func() {
						if events, err := holder.Events(bt.ID(id), 1); err == nil {
							events.Close()
						}
					}()
				}
				state := func(id uint32) (wire.State, wire.Code) {
					t.Helper()
					synctest.Wait()
					b, err := holder.Get(bt.ID(id))
					if err != nil {
						t.Fatal(err)
					}
					if b.Result == nil || b.Result.Error == nil {
						return b.State, ""
					}
					return b.State, b.Result.Error.Code
				}
				follow(1, withSource(c.src)...)
				follow(2, withSource(c.src)...) // of which nothing comes
				time.Sleep(c.limit - 1)
				if s, _ := state(1); s != wire.StateUploading {
					t.Fatalf("it is %s before its inputs are late", s)
				}
				// A line so slow that one request lasts for longer.
				body, line := io.Pipe()
				sent := make(chan error, 1)
				go func() {
					resp, err := holder.Do(http.MethodPut, "/v1/builds/"+string(bt.ID(1))+c.path, body)
					if err == nil {
						err = resp.Body.Close()
					}
					sent <- err
				}()
				for _, b := range c.sent[:30] {
					time.Sleep(c.limit / 10)
					if _, err := line.Write([]byte{b}); err != nil {
						t.Fatalf("a slow line is cut off: %v", err)
					}
				}
				line.CloseWithError(io.ErrUnexpectedEOF)
				<-sent
				time.Sleep(c.limit - 1)
				if s, _ := state(1); s != wire.StateUploading {
					t.Fatalf("it is %s so soon after something came", s)
				}
				time.Sleep(time.Nanosecond)
				for _, id := range []uint32{1, 2} {
					if s, code := state(id); s != wire.StateFailed || code != wire.CodeInputStalled {
						t.Errorf("build %d is %s, %q", id, s, code)
					}
				}
				// All that was asked for has come.
				gate := e.gate()
				objects := withSource(small)
				follow(3, objects...)
				if _, err := holder.Send(bt.ID(3), bt.Frame(0, objects[0].Nar), bt.Frame(1, objects[1].Nar)); err != nil {
					t.Fatal(err)
				}
				<-gate.begun
				time.Sleep(3 * c.limit)
				if s, _ := state(3); s != wire.StateBuilding {
					t.Errorf("it is %s although it has its inputs", s)
				}
				close(gate.open)
				if s, code := state(3); s != wire.StateBuilt {
					t.Errorf("it is %s, %q", s, code)
				}
			})
		})
	}
}
