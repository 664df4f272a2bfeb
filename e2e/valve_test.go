//go:build e2e

package e2e

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/time/rate"

	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// A direction is a way through a valve.
type direction int

const (
	up   direction = iota // to the relay
	down                  // to the client
)

// A valve stands between clients and a relay, carries their connections, counts
// what passes and stops it where a scenario wants a transfer to stand still.
type valve struct {
	url   string
	relay string // host:port

	mu      sync.Mutex
	limit   [2]int64         // bytes that all connections may carry; -1: any number
	carried [2]int64         // bytes of all connections since the limit was set
	moved   [2]int64         // bytes of the connections since count
	epoch   int              // how often count was called
	line    [2]*rate.Limiter // of all connections; nil: any rate
	stuck   int              // connections that stand still
	changed chan struct{}
}

const (
	valveChunk = 32 << 10
	// valveSmall is what a connection may carry whatever the others do, unless
	// the valve is shut: small requests go on while a transfer stands still.
	valveSmall = 256 << 10
)

func newValve(t testing.TB, relay *lab.Relay) *valve {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{url: "http://" + l.Addr().String(), relay: strings.TrimPrefix(relay.URL, "http://"), changed: make(chan struct{})}
	v.open()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { v.carry(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		v.open()
		wg.Wait()
	})
	return v
}

// ticket is a ticket whose holder comes through the valve.
func (v *valve) ticket(t testing.TB, text string) string {
	t.Helper()
	tk, err := ticket.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	tk.Relays = []string{v.url}
	return tk.String()
}

// stopAt lets all connections together carry so many bytes in a direction, and
// after that only small requests.
func (v *valve) stopAt(d direction, bytes int64) {
	v.set(func() { v.limit[d], v.carried[d] = bytes, 0 })
}

// shut lets nothing more through.
func (v *valve) shut() { v.set(func() { v.limit = [2]int64{} }) }

// slow makes the way as slow as so many bytes a second, for benchmarks; 0 is any rate.
func (v *valve) slow(bytesPerSecond float64) {
	v.set(func() {
		for d := range v.line {
			v.line[d] = nil
			if bytesPerSecond > 0 {
				v.line[d] = rate.NewLimiter(rate.Limit(bytesPerSecond), valveChunk)
			}
		}
	})
}

// open lets everything through.
func (v *valve) open() { v.set(func() { v.limit = [2]int64{-1, -1} }) }

func (v *valve) set(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
	close(v.changed)
	v.changed = make(chan struct{})
}

// stands says whether a connection has reached its limit.
func (v *valve) stands() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.stuck > 0
}

// count begins to count anew, only the bytes of connections that are yet to
// come. (In one that is cut, much may be under way that nobody reads any more.)
func (v *valve) count() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.moved = [2]int64{}
	v.epoch++
}

// passed is how many of the bytes that count have gone in a direction.
func (v *valve) passed(d direction) int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.moved[d]
}

// carry joins a client's connection to one to the relay until either ends.
func (v *valve) carry(client net.Conn) {
	defer client.Close()
	relay, err := net.Dial("tcp", v.relay)
	if err != nil {
		return // it is being restarted
	}
	defer relay.Close()
	v.mu.Lock()
	epoch := v.epoch
	v.mu.Unlock()
	ended := make(chan struct{})
	var once sync.Once
	end := func() {
		once.Do(func() {
			close(ended)
			client.Close()
			relay.Close()
		})
	}
	var wg sync.WaitGroup
	wg.Go(func() { defer end(); v.copy(relay, client, up, epoch, ended) })
	wg.Go(func() { defer end(); v.copy(client, relay, down, epoch, ended) })
	wg.Wait()
}

func (v *valve) copy(to io.Writer, from io.Reader, d direction, epoch int, ended <-chan struct{}) {
	buf := make([]byte, valveChunk)
	var carried int64
	for {
		n, err := from.Read(buf)
		if !v.admit(d, carried, n, ended) {
			return
		}
		v.delay(d, n)
		v.note(d, epoch, n)
		carried += int64(n)
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// admit waits until a connection that has carried some bytes may carry n more;
// false when it has ended meanwhile.
func (v *valve) admit(d direction, carried int64, n int, ended <-chan struct{}) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for n > 0 && v.limit[d] >= 0 && v.carried[d]+int64(n) > v.limit[d] && (v.limit[d] == 0 || carried >= valveSmall) {
		changed := v.changed
		v.stuck++
		v.mu.Unlock()
		alive := true
		select {
		case <-changed:
		case <-ended:
			alive = false
		}
		v.mu.Lock()
		v.stuck--
		if !alive {
			return false
		}
	}
	v.carried[d] += int64(n)
	return true
}

// delay waits until the line takes n bytes more.
func (v *valve) delay(d direction, n int) {
	v.mu.Lock()
	line := v.line[d]
	v.mu.Unlock()
	if line != nil {
		_ = line.WaitN(context.Background(), n) // a chunk is never more than it takes
	}
}

func (v *valve) note(d direction, epoch, n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if epoch == v.epoch {
		v.moved[d] += int64(n)
	}
}
