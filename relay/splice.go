package relay

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// bigBuffers is how many buffers for whole messages may be in use at once:
	// 268 MiB. Beyond, circuits move what a small one holds: slower, but nobody
	// waits for peers that hold theirs.
	bigBuffers = 1024
	// farewell is how long telling an end that the relay goes may take.
	farewell = 2 * time.Second
)

var errText = errors.New("text message on a circuit")

var smallBuffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// newSpeed limits bytes per second; nil is no limit. A piece of a message
// always fits the burst.
func newSpeed(perSecond int64) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), wsconn.MessageSize)
}

// spliced is a circuit whose two ends are joined.
type spliced struct {
	s               *Server
	client, builder *wsconn.Socket
	speed           *rate.Limiter // both directions; nil is no limit
	last            atomic.Int64  // when something moved, by [clock]
	up, down        flow
	why             atomic.Pointer[ending]
	gone            context.Context
	open            atomic.Int32 // flows that go on
	done            func()       // called after both
}

// ending is why a circuit ends, and how an end that is still there is told.
type ending struct {
	why    string
	code   websocket.StatusCode
	reason string
}

// flow is one direction of a circuit.
type flow struct {
	src, dst *wsconn.Socket
	bytes    prometheus.Counter
	// busy is since when a piece is under way, 0 while there is none.
	busy   atomic.Int64
	pieces wsconn.Pieces
	// held means that a limit on bytes per second holds the flow up.
	held atomic.Bool
}

// splice joins two ends. When both are closed it calls done with the reason.
func (s *Server) splice(client, builder *wsconn.Socket, done func(why string)) *spliced {
	c := &spliced{s: s, client: client, builder: builder, speed: newSpeed(s.limits.CircuitBytesPerSecond), gone: s.aborted}
	c.up = flow{src: client, dst: builder, bytes: s.metrics.toBuilder}
	c.down = flow{src: builder, dst: client, bytes: s.metrics.toClient}
	c.last.Store(clock(time.Now()))
	goOn := context.AfterFunc(s.aborted, c.dismiss)
	stop := c.watch()
	c.done = func() {
		goOn()
		stop()
		done(c.why.Load().why)
	}
	c.open.Store(2)
	go c.pump(&c.up)
	go c.pump(&c.down)
	return c
}

// because notes how the circuit ends, unless that is known, and returns it.
func (c *spliced) because(e ending) *ending {
	c.why.CompareAndSwap(nil, &e)
	return c.why.Load()
}

// closeBoth ends a circuit whose ends are both there.
func (c *spliced) closeBoth(e ending) {
	end := c.because(e)
	for _, ws := range []*wsconn.Socket{c.client, c.builder} {
		go ws.CloseWithin(farewell, end.code, end.reason)
	}
}

// dismiss tells both ends that the relay goes.
func (c *spliced) dismiss() {
	c.closeBoth(ending{endClosing, websocket.StatusGoingAway, string(wire.CodeRelayClosing)})
}

// watch cuts the circuit when nothing moves or one end stalls, until stopped.
// It is a timer and no goroutine, as idle circuits have to be cheap.
func (c *spliced) watch() (stop func()) {
	var timer *time.Timer
	ready := make(chan struct{})
	timer = time.AfterFunc(c.s.limits.Idle, func() {
		<-ready
		left, why := c.patience(time.Now())
		if left > 0 {
			timer.Reset(left)
			return
		}
		c.closeBoth(ending{why, wire.RelayCloseTimeout, ""})
	})
	close(ready)
	return func() { timer.Stop() }
}

// patience is how long a circuit may go on like this, and why it ends then.
func (c *spliced) patience(now time.Time) (left time.Duration, why string) {
	idle, at, held := c.s.limits.Idle, clock(now), false
	left, why = idle-time.Duration(at-c.last.Load()), endIdle
	for _, f := range []*flow{&c.up, &c.down} {
		held = held || f.held.Load()
		if since := f.busy.Load(); since != 0 {
			if l := idle - time.Duration(at-since); l <= left {
				left, why = l, endStalled
			}
		}
	}
	if left <= 0 && held && why == endIdle {
		left = idle
	}
	return left, why
}

// pump moves messages one way until an end fails. Nearly all of an idle
// circuit's memory is the stacks of its two pumps, so they wait up here.
func (c *spliced) pump(f *flow) {
	for {
		f.src.Wait()
		if !c.message(f) {
			break
		}
	}
	if c.open.Add(-1) == 0 {
		c.done()
	}
}

// message moves one message, or ends the other end when one has failed.
//
//go:noinline
func (c *spliced) message(f *flow) bool {
	typ, r, err := f.src.Reader(context.Background())
	if err == nil && typ != websocket.MessageBinary {
		_ = f.src.Close(websocket.StatusUnsupportedData, "")
		err = errText
	}
	for err == nil {
		var writeErr error
		err, writeErr = c.move(f, r)
		if writeErr != nil {
			c.ended(f.src, f.dst, writeErr)
			return false
		}
	}
	if err != io.EOF {
		c.ended(f.dst, f.src, err)
		return false
	}
	return true
}

// ended closes what is left of a circuit of which one end failed with err.
func (c *spliced) ended(left, failed *wsconn.Socket, err error) {
	end := ending{endLost, wire.RelayCloseBroken, ""}
	switch {
	case errors.Is(err, errText):
		end.why = endText
	case errors.Is(err, websocket.ErrMessageTooBig):
		end.why = endLarge
	case websocket.CloseStatus(err) == websocket.StatusNormalClosure:
		end = ending{endClean, websocket.StatusNormalClosure, ""}
	}
	told := c.because(end)
	_ = left.Close(told.code, told.reason)
	_ = failed.CloseNow()
}

// move passes on a piece of a message. It holds a buffer only until the piece
// is written, and then lets others have their turn: with many circuits that
// all have something to move, each moves as much as the others.
func (c *spliced) move(f *flow, r io.Reader) (readErr, writeErr error) {
	f.busy.Store(clock(time.Now()))
	n, readErr, writeErr := c.s.piece(f, r)
	f.busy.Store(0)
	if n == 0 || writeErr != nil {
		return readErr, writeErr
	}
	c.last.Store(clock(time.Now()))
	f.bytes.Add(float64(n))
	if c.speed != nil || c.s.speed != nil {
		f.held.Store(true)
		for _, l := range []*rate.Limiter{c.speed, c.s.speed} {
			if l != nil && !l.AllowN(time.Now(), n) {
				c.s.metrics.throttled.Inc()
				_ = l.WaitN(c.gone, n) // fails only when the relay goes
			}
		}
		c.last.Store(clock(time.Now()))
		f.held.Store(false)
	}
	runtime.Gosched()
	return readErr, nil
}

func (s *Server) piece(f *flow, r io.Reader) (n int, readErr, writeErr error) {
	var buf []byte
	if s.buffers.Add(1) <= bigBuffers {
		b := wsconn.GetBuffer()
		defer wsconn.PutBuffer(b)
		buf = b[:wsconn.Headroom+wsconn.MessageSize]
	} else {
		b := smallBuffers.Get().(*[16 << 10]byte)
		defer smallBuffers.Put(b)
		buf = b[:]
	}
	defer s.buffers.Add(-1)
	begin := time.Now()
	n, readErr = r.Read(buf[wsconn.Headroom:][:f.pieces.Next(len(buf)-wsconn.Headroom)])
	f.pieces.Took(n, time.Since(begin))
	if readErr != nil && readErr != io.EOF {
		n = 0 // what has come of a frame that breaks off is still masked
	}
	if n > 0 {
		writeErr = f.dst.Pass(buf[:wsconn.Headroom+n])
	}
	return n, readErr, writeErr
}
