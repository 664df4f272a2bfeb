package relay

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/coder/websocket"

	"github.com/drv-thru/drv-thru/core/link/linktest"
	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
)

// A builder may be replaced while a message is on its way to it.
func TestReplacedInTheMiddleOfAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		accepted := make(chan *wsconn.Socket, 1)
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := upgrade(w, r, wire.RelayMaxControl)
			if err != nil {
				t.Error(err)
			}
			accepted <- ws
		})}
		go srv.Serve(network.Listen("relay.example:80"))
		defer srv.Close()
		peer, _, err := wsconn.Dial(t.Context(), "http://relay.example", wsconn.DialOptions{
			Protocols: []string{wire.RelayProtocol}, DialContext: network.DialContext,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer peer.CloseNow()
		reg := &registration{ws: <-accepted, turn: make(chan struct{}, 1)}
		reg.gone, reg.leave = context.WithCancel(context.Background())
		reg.turn <- struct{}{}
		message := strings.Repeat("x", 256<<10) // more than the network holds
		go reg.write([]byte(message))
		synctest.Wait()
		reg.leave()
		go reg.ws.Close(wire.RelayCloseReplaced, string(wire.CodeRelayReplaced))
		synctest.Wait()
		peer.SetReadLimit(int64(len(message)))
		if _, got, err := peer.Read(t.Context()); err != nil || string(got) != message {
			t.Errorf("%d bytes of %d came, %v", len(got), len(message), err)
		}
		if _, _, err := peer.Read(t.Context()); websocket.CloseStatus(err) != wire.RelayCloseReplaced {
			t.Errorf("it is told %v", err)
		}
	})
}
