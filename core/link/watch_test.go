package link

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/link/linktest"
	"github.com/drv-thru/drv-thru/core/wire"
)

// lateWay is a path whose answers take their time.
type lateWay struct {
	*wayTo
	late time.Duration
}

func (w lateWay) dial(ctx context.Context) (*circuit, error) {
	c, err := w.wayTo.dial(ctx)
	if err != nil {
		return nil, err
	}
	r, late := io.Pipe()
	come := make(chan func(), 1<<16)
	go func() {
		for f := range come {
			f()
		}
	}()
	inner := c.Conn
	go func() {
		defer close(come)
		for {
			buf := make([]byte, 16<<10)
			n, err := inner.Read(buf)
			at := time.Now().Add(w.late)
			come <- func() {
				time.Sleep(time.Until(at))
				_, _ = late.Write(buf[:n])
				if err != nil {
					_ = late.CloseWithError(err)
				}
			}
			if err != nil {
				return
			}
		}
	}()
	c.Conn = &lateConn{inner, r}
	return c, nil
}

type lateConn struct {
	net.Conn
	r *io.PipeReader
}

func (c *lateConn) Read(p []byte) (int, error) { return c.r.Read(p) }
func (c *lateConn) Close() error {
	_ = c.r.Close()
	return c.Conn.Close()
}

// A line that is full of what this end sends brings answers late. While it moves it is
// not dead.
func TestFullLineIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		var requests, uploads atomic.Int32
		serve(t, &network, "b", secret(t, 2), func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				uploads.Add(1)
				_, _ = io.Copy(io.Discard, r.Body)
				return
			}
			if r.URL.Path == wire.RoutePath {
				return // a ping
			}
			requests.Add(1)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Minute)
			fmt.Fprint(w, "end")
		})
		s := session(t, lateWay{&wayTo{network: &network, address: "b"}, pingTimeout + time.Second})
		defer func() {
			_ = s.Close()
			time.Sleep(time.Minute) // in the bubble: for what is still on its way
		}()
		uploaded := make(chan error, 1)
		go func() {
			n := 0
			_, err := do(s.Bulk(), http.MethodPut, "", readerFunc(func(p []byte) (int, error) {
				if n++; n > 240 {
					return 0, io.EOF
				}
				time.Sleep(time.Second / 4)
				return 1000, nil
			}))
			uploaded <- err
		}()
		checked := make(chan struct{})
		go func() {
			time.Sleep(30 * time.Second)
			s.control.check(t.Context()) // the network has changed
			close(checked)
		}()
		text, err := get(s.Control(), "")
		<-checked
		if text != "end" || err != nil || requests.Load() != 1 {
			t.Errorf("%q by %d requests: %v", text, requests.Load(), err)
		}
		if err := <-uploaded; err != nil || uploads.Load() != 1 {
			t.Errorf("uploaded by %d requests: %v", uploads.Load(), err)
		}
	})
}
