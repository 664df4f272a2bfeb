package relay_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/link/linktest"
	"github.com/drv-thru/drv-thru/relay"
)

// Who asks a relay whether it works learns that it does, and where it answers
// STUN, although it leads to nobody.
func TestCheckRelay(t *testing.T) {
	inWorld(t, relay.Config{STUN: ":3478"}, func(t *testing.T, w *world) {
		// The second is how a person may have written it down.
		for _, url := range []string{relayURL, relayURL + "/"} {
			r := link.CheckRelay(t.Context(), w.net(), url, secret(9).ID())
			if r.Err != nil || r.STUN != "relay.example:3478" || !r.HasTime || r.Skew.Abs() > time.Second {
				t.Errorf("%s: got %+v", url, r)
			}
		}
		w.stop()
		if r := link.CheckRelay(t.Context(), w.net(), relayURL, secret(9).ID()); !errors.Is(r.Err, linktest.ErrRefused) {
			t.Errorf("a relay that is gone: %+v", r)
		}
	})
}

// A login page answers everything with itself, HEAD too, where no body may follow.
func TestCheckRelayOfALoginPage(t *testing.T) {
	inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
		l := w.network.Listen("cafe.example:80")
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n<html>Log in...")
				}
				_ = c.Close()
			}
		}()
		var said bytes.Buffer
		log.SetOutput(&said)
		defer log.SetOutput(os.Stderr)
		r := link.CheckRelay(t.Context(), w.net(), "http://cafe.example", secret(9).ID())
		synctest.Wait()
		if r.Err == nil || !strings.Contains(r.Err.Error(), "not a drv-thru relay") {
			t.Errorf("got %v", r.Err)
		}
		if said.Len() > 0 {
			t.Errorf("net/http says: %s", &said)
		}
	})
}
