package link

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/link/linktest"
)

// circuitsOf are a listener's connections as if they came through a relay.
type circuitsOf struct{ net.Listener }

func (l circuitsOf) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &circuit{Conn: c, path: Path{Kind: PathRelay}}, nil
}

// A circuit of somebody whom the builder does not know takes up a place only for a
// while, whatever it asks for; those of a client stay, however little they do.
func TestStrangersOnCircuits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		srv, err := NewServer(secret(t, 2), http.NotFoundHandler(), nil)
		if err != nil {
			t.Fatal(err)
		}
		LimitStrangers(srv, func(r *http.Request) (string, error) {
			if r.Header.Get("Authorization") != "me" {
				return "", linktest.ErrRefused
			}
			return "", nil
		})
		l := network.Listen("b")
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = srv.ServeTLS(circuitsOf{l}, "", "")
		}()
		begin := time.Now()
		open := func(who byte, authorization string) *tls.Conn {
			c, err := attempt(t.Context(), secret(t, who), secret(t, 2).ID(), protoBulk, &wayTo{network: &network, address: "b"})
			if err != nil {
				t.Fatal(err)
			}
			req, err := http.NewRequest(http.MethodGet, BaseURL, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", authorization)
			if err := req.Write(c); err != nil {
				t.Fatal(err)
			}
			return c
		}
		// lasts is how long a connection stays, a minute at most.
		lasts := func(c *tls.Conn) time.Duration {
			_ = c.SetReadDeadline(begin.Add(time.Minute))
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
			return time.Since(begin)
		}
		stranger, client, again := open(9, "you"), open(1, "me"), open(1, "")
		if got := lasts(stranger); got != strangerTime {
			t.Errorf("a stranger's circuit lasts for %s", got)
		}
		if got := lasts(client); got != time.Minute {
			t.Errorf("a client's circuit lasts for %s", got)
		}
		if got := lasts(again); got != time.Minute {
			t.Errorf("a client's other circuit lasts for %s", got)
		}
		_ = srv.Close()
		<-served
	})
}

// A connection whose handshake does not end proves nothing.
func TestStrangerWithoutHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, begin, ended := new(acquaintances), time.Now(), time.Duration(0)
		k.await(&arrival{}, func() tls.ConnectionState { return tls.ConnectionState{} }, func() { ended = time.Since(begin) })
		time.Sleep(2 * strangerTime)
		synctest.Wait()
		if ended != strangerTime {
			t.Errorf("ended after %s", ended)
		}
	})
}
