//go:build !js && !wasip1

package link

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/link/linktest"
	"github.com/drv-thru/drv-thru/relay"
)

// After a change of the network a registration that answers stays, and one that does
// not is made anew, sooner than silence would tell.
func TestRegistrationsAreChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		s := relay.New(relay.Config{})
		at := network.Listen("relay.example:80")
		go s.Serve(at)
		defer s.Shutdown(t.Context())
		l, err := Listen(ListenConfig{
			Identity: secret(t, 2), Relays: []string{"http://relay.example"},
			Network: Network{DialContext: network.DialContext}, Jitter: func() float64 { return 1 },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := l.Registered(t.Context()); err != nil {
			t.Fatal(err)
		}
		first := l.Status()[0].Since
		time.Sleep(time.Second)
		l.check()
		time.Sleep(2 * pingTimeout)
		if got := l.Status()[0]; !got.Connected || got.Since != first {
			t.Errorf("one that answers: %+v", got)
		}
		at.Silence()
		l.check()
		time.Sleep(2 * pingTimeout)
		if got := l.Status()[0]; !got.Connected || got.Since == first {
			t.Errorf("one that does not: %+v", got)
		}
	})
}
