package relay_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/relay"
)

// narrow is a line of so many bytes a second each way, with room for all that waits,
// which the connections of a client share.
func (w *world) narrow(bytesPerSecond int) link.Network {
	const near = "near.example:80"
	l := w.network.Listen(near)
	w.t.Cleanup(func() { _ = l.Close() })
	up, down := newLine(w.t, bytesPerSecond), newLine(w.t, bytesPerSecond)
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			relay, err := w.network.DialContext(context.Background(), "memory", relayAddress)
			if err != nil {
				_ = client.Close()
				continue
			}
			go up.carry(relay, client)
			go down.carry(client, relay)
		}
	}()
	return link.Network{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return w.network.DialContext(ctx, network, near)
	}}
}

// line is one direction of a line.
type line struct {
	rate   int
	mu     sync.Mutex
	queue  []packet
	arrive chan struct{}
}

// packet is what is to be written; at the end of a connection there is no data.
type packet struct {
	data []byte
	to   net.Conn
}

func newLine(t *testing.T, bytesPerSecond int) *line {
	l := &line{rate: bytesPerSecond, arrive: make(chan struct{}, 1)}
	ctx := t.Context()
	go func() {
		for {
			l.mu.Lock()
			var p packet
			if len(l.queue) > 0 {
				p, l.queue = l.queue[0], l.queue[1:]
			}
			l.mu.Unlock()
			switch {
			case p.to == nil:
				select {
				case <-l.arrive:
				case <-ctx.Done():
					return
				}
			case p.data == nil:
				_ = p.to.Close()
			default:
				time.Sleep(time.Duration(len(p.data)) * time.Second / time.Duration(l.rate))
				_, _ = p.to.Write(p.data)
			}
		}
	}()
	return l
}

func (l *line) carry(to, from net.Conn) {
	for {
		buf := make([]byte, 1400)
		n, err := from.Read(buf)
		l.mu.Lock()
		if n > 0 {
			l.queue = append(l.queue, packet{buf[:n], to})
		}
		if err != nil {
			l.queue = append(l.queue, packet{nil, to})
		}
		l.mu.Unlock()
		select {
		case l.arrive <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// A line of 64 kbit/s is slow, not dead: what it takes a minute to carry is carried once.
func TestSlowLine(t *testing.T) {
	const rate, size = 8000, 400_000
	for name, test := range map[string]struct {
		method   string
		up, down []byte
	}{
		"a large document": {http.MethodPut, make([]byte, size), nil},
		"a long log":       {http.MethodGet, nil, make([]byte, size)},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, relay.Config{}, func(t *testing.T, w *world) {
				var requests, read atomic.Int64
				w.builder(secret(2), func(rw http.ResponseWriter, r *http.Request) {
					requests.Add(1)
					n, _ := io.Copy(io.Discard, r.Body)
					read.Add(n)
					_, _ = rw.Write(test.down)
				})
				s, err := link.Dial(t.Context(), link.Config{Identity: secret(1), Peer: secret(2).ID(), Relays: []string{relayURL}, Network: w.narrow(rate)})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				begin := time.Now()
				text, err := do(s.Control(), test.method, "", bytes.NewReader(test.up))
				took := time.Since(begin)
				if err != nil || len(text) != len(test.down) || read.Load() != int64(len(test.up)) || requests.Load() != 1 {
					t.Errorf("%d bytes there and %d back by %d requests: %v", read.Load(), len(text), requests.Load(), err)
				}
				if most := size / rate * time.Second * 11 / 10; took > most {
					t.Errorf("it took %v, the line %v", took, most)
				}
			})
		})
	}
}
