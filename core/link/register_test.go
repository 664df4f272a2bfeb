//go:build !js

package link

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/link/linktest"
	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Clients that come give their places in a relay's share of the backlog back, and so do
// those that are gone before the builder comes for them.
func TestPlacesInTheBacklogComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var memory linktest.Network
		h := new(hostileRelay)
		h.serve(t, &memory, "hostile.example:80")
		network := Network{DialContext: memory.DialContext}
		const backlog = 4
		l, err := Listen(ListenConfig{Identity: secret(t, 2), Relays: []string{hostileURL}, Network: network, Backlog: backlog})
		if err != nil {
			t.Fatal(err)
		}
		srv, err := NewServer(secret(t, 2), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "here") }), nil)
		if err != nil {
			t.Fatal(err)
		}
		go srv.ServeTLS(l, "", "")
		defer srv.Close()
		if err := l.Registered(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the relay knows it, too
		come := func() {
			s, err := Dial(t.Context(), hostileConfig(t, network, 1, hostileURL))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if text, err := get(s.Control(), ""); err != nil || text != "here" {
				t.Errorf("got %q, %v", text, err)
			}
		}
		for range backlog + 1 {
			come()
		}
		h.mu.Lock()
		ws := h.builders[secret(t, 2).ID()]
		h.mu.Unlock()
		for i := range backlog + 1 {
			id := wire.CircuitID(fmt.Sprintf("%032x", i))
			if err := send(t.Context(), ws, wire.RelayMessage{Type: wire.RelayIncoming, Circuit: id}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		come()
	})
}

// A relay that announces more than its share of circuits takes no place from the others.
func TestBacklogIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const backlog = 8
		var memory linktest.Network
		h := &hostileRelay{welcome: func(ws *wsconn.Socket) {
			for i := range 2 * backlog {
				id := wire.CircuitID(fmt.Sprintf("%032x", i))
				if err := send(context.Background(), ws, wire.RelayMessage{Type: wire.RelayIncoming, Circuit: id}); err != nil {
					t.Error(err)
				}
			}
		}}
		h.serve(t, &memory, "hostile.example:80")
		new(hostileRelay).serve(t, &memory, "honest.example:80")
		l, err := Listen(ListenConfig{
			Identity: secret(t, 2), Relays: []string{hostileURL, honestURL},
			Network: Network{DialContext: memory.DialContext}, Backlog: backlog,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		synctest.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		if n := l.relays[0].coming; n != backlog/2 {
			t.Errorf("%d places of %d are taken", n, backlog)
		}
	})
}

// A relay that says nothing is given up, before it has registered the builder and
// afterwards.
func TestRelayThatSaysNothing(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var memory linktest.Network
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ws, err := wsconn.Accept(w, r, wire.RelayProtocol)
				if err != nil {
					t.Error(err)
					return
				}
				go func() {
					for err == nil {
						_, _, err = ws.Read(context.Background())
					}
				}()
			})}
			go srv.Serve(memory.Listen("hostile.example:80"))
			defer srv.Close()
			l, err := Listen(ListenConfig{Identity: secret(t, 2), Relays: []string{hostileURL}, Network: Network{DialContext: memory.DialContext}})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			time.Sleep(wire.RelayHandshakeTimeout + pongTimeout + maxBackoff)
			if got := l.Status()[0]; got.Attempts == 0 || got.Err == nil || !strings.Contains(got.Err.Error(), "no answer in time") {
				t.Errorf("got %+v", got)
			}
		})
	})
	t.Run("afterwards", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var memory linktest.Network
			new(hostileRelay).serve(t, &memory, "hostile.example:80")
			l, err := Listen(ListenConfig{Identity: secret(t, 2), Relays: []string{hostileURL}, Network: Network{DialContext: memory.DialContext}})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if err := l.Registered(t.Context()); err != nil {
				t.Fatal(err)
			}
			first := l.Status()[0].Since
			time.Sleep(wire.RelayDeadAfter + maxBackoff)
			if got := l.Status()[0]; !got.Connected || got.Since == first {
				t.Errorf("got %+v, registered first at %s", got, first)
			}
		})
	})
}

// Of two builders with one key each pushes the other out: neither hurries back.
func TestReplacedBuilderWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var memory linktest.Network
		registered := 0
		h := &hostileRelay{welcome: func(ws *wsconn.Socket) {
			registered++
			_ = ws.Close(wire.RelayCloseReplaced, string(wire.CodeRelayReplaced))
		}}
		h.serve(t, &memory, "hostile.example:80")
		l, err := Listen(ListenConfig{
			Identity: secret(t, 2), Relays: []string{hostileURL},
			Network: Network{DialContext: memory.DialContext}, Jitter: func() float64 { return 1 },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		time.Sleep(maxBackoff - 1)
		synctest.Wait()
		if registered != 1 {
			t.Errorf("%d registrations in %s", registered, maxBackoff)
		}
	})
}

// What comes while a listener closes, and nobody accepts any more, is closed, too.
func TestListenerClosesWhatNobodyAccepts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var memory linktest.Network
		new(hostileRelay).serve(t, &memory, "honest.example:80")
		network := Network{DialContext: memory.DialContext}
		l, err := Listen(ListenConfig{Identity: secret(t, 2), Relays: []string{honestURL}, Network: network})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Registered(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the relay knows it, too
		d := &relayDialer{network: network, relay: honestURL, builder: secret(t, 2).ID()}
		c, err := d.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		synctest.Wait() // it waits for Accept
		begin := time.Now()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(begin.Add(time.Hour))
		if _, err := c.Read(make([]byte, 1)); err == nil || time.Since(begin) >= time.Hour {
			t.Errorf("read: %v, after %s", err, time.Since(begin))
		}
	})
}
