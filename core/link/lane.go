package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// lane is the HTTP/2 connection of a session's small requests, reopened on demand.
type lane struct {
	s *Session

	mu      sync.Mutex
	cc      *http.ClientConn // nil before the first and after a lost one
	path    Path
	circuit *circuit // below cc
	opened  time.Time
	lost    map[Path]time.Time // when a connection of that path ended last
	opening *opening
	closed  bool
}

// opening is an attempt that everybody who needs the lane waits for.
type opening struct {
	done chan struct{}
	err  error
}

// RoundTrip sends a request; see [Session.Control].
func (l *lane) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	for repeated := false; ; repeated = true {
		cc, path, err := l.conn(ctx)
		if err != nil {
			closeBody(req)
			return nil, err
		}
		resp, err := cc.RoundTrip(req)
		if err == nil {
			resp.Body = &answerBody{resp.Body, path}
			return resp, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		if usable(cc) {
			return nil, fmt.Errorf("request by %s: %w", path, err)
		}
		l.drop(cc)
		if repeated {
			return nil, lost(path, err)
		}
		again, ok := repeat(req)
		if !ok {
			return nil, lost(path, err)
		}
		req = again
		l.s.log.Debug("request is repeated", slog.String("lane", "control"), slog.String("path", path.String()), slog.Any("error", err))
	}
}

// answerBody names the path by which an answer comes when it breaks off.
type answerBody struct {
	io.ReadCloser
	path Path
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("answer by %s: %w", b.path, err)
	}
	return n, err
}

// initialStreams is how many requests net/http has under way before it knows
// the server's limit, which is above that.
const initialStreams = 100

// usable reports whether the connection takes further requests, now or once
// others have ended. One that the builder is closing (GOAWAY) has no error,
// but no room either, however little it does.
func usable(cc *http.ClientConn) bool {
	return cc.Err() == nil && (cc.Available() > 0 || cc.InFlight() >= initialStreams)
}

// repeat makes the request anew, if its body can be had again.
func repeat(req *http.Request) (*http.Request, bool) {
	if req.Body == nil || req.Body == http.NoBody {
		return req, true
	}
	if req.GetBody == nil {
		return nil, false
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, false
	}
	again := req.Clone(req.Context())
	again.Body = body
	return again, true
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// conn returns the connection, which it opens if there is none.
func (l *lane) conn(ctx context.Context) (*http.ClientConn, Path, error) {
	for {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return nil, Path{}, ErrClosed
		}
		if l.cc != nil && usable(l.cc) {
			defer l.mu.Unlock()
			return l.cc, l.path, nil
		}
		o := l.openLocked()
		l.mu.Unlock()
		if o == nil {
			return nil, Path{}, ErrClosed
		}
		select {
		case <-o.done:
			if o.err != nil {
				return nil, Path{}, o.err
			}
		case <-ctx.Done():
			return nil, Path{}, context.Cause(ctx)
		}
	}
}

// isOpen reports whether there is a connection that takes requests.
func (l *lane) isOpen() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cc != nil && usable(l.cc)
}

// alive tells whether a path has worked since a time when something stood still on
// it: it does if the lane's connection is older than that and answers, and does not
// if that one was lost meanwhile. A connection that came later knows nothing of it.
func (l *lane) alive(ctx context.Context, path Path, since time.Time) (known bool, err error) {
	l.mu.Lock()
	cc, by, opened, lost := l.cc, l.path, l.opened, l.lost[path]
	l.mu.Unlock()
	switch {
	case lost.After(since):
		return true, errCircuitLost
	case cc == nil || by != path || opened.After(since) || !usable(cc):
		l.warm()
		return false, nil
	}
	// If no answer comes, the connection is lost long before that.
	ctx, cancel := context.WithTimeout(ctx, stallAfter)
	defer cancel()
	return true, ping(ctx, cc, l.s.cfg.Header)
}

var errCircuitLost = errors.New("the circuit of small requests was lost")

// check finds out whether the lane's connection, if there is one, has survived a change
// of the network or the machine's sleep, and drops it otherwise: that is known sooner
// than by the connection's own pings.
func (l *lane) check(ctx context.Context) {
	l.mu.Lock()
	cc, path, circuit := l.cc, l.path, l.circuit
	l.mu.Unlock()
	if cc == nil || l.s.answers(ctx, cc, func() func() bool { return l.s.moving(circuit) }) {
		return
	}
	l.s.log.Debug("a circuit does not answer", slog.String("lane", "control"))
	l.noteLost(path)
	l.drop(cc)
	_ = cc.Close() // what waits on it fails now and is repeated
}

// answers reports whether the builder answers soon when it is asked for nothing. While
// something moves by the same path, the answer may only wait behind that.
func (s *Session) answers(ctx context.Context, rt http.RoundTripper, moving func() func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	answer := make(chan error, 1)
	go func() { answer <- ping(ctx, rt, s.cfg.Header) }()
	// What came while the machine slept is read now, and no sign of life.
	past := time.NewTimer(pingTimeout / 2)
	defer past.Stop()
	select {
	case err := <-answer:
		return err == nil
	case <-past.C:
	}
	moved := moving()
	return <-answer == nil || moved()
}

// warm begins to open the lane if need be.
func (l *lane) warm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed && (l.cc == nil || !usable(l.cc)) {
		l.openLocked()
	}
}

// openLocked begins an attempt, or joins the one under way. The attempt does
// not end with the request that began it: others wait for it too.
func (l *lane) openLocked() *opening {
	if l.opening != nil {
		return l.opening
	}
	old := l.cc
	o := &opening{done: make(chan struct{})}
	started := l.s.start(func() {
		if old != nil {
			retire(old)
		}
		var cc *http.ClientConn
		opened, err := l.open()
		if err == nil {
			cc = opened.cc
			cc.SetStateHook(func(cc *http.ClientConn) { // called at once if it is lost already
				if cc.Err() != nil {
					l.noteLost(opened.circuit.path)
				}
			})
		}
		l.mu.Lock()
		l.opening = nil
		o.err = err
		if err == nil && l.closed {
			o.err = ErrClosed
		} else if err == nil {
			l.cc, l.path, l.circuit, l.opened = cc, opened.circuit.path, opened.circuit, time.Now()
			cc = nil
		}
		l.mu.Unlock()
		close(o.done)
		if cc != nil {
			_ = cc.Close()
		}
	})
	if !started {
		return nil
	}
	l.cc, l.opening = nil, o
	return o
}

func (l *lane) noteLost(path Path) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost == nil {
		l.lost = make(map[Path]time.Time)
	}
	l.lost[path] = time.Now()
}

// retire lets the requests of a connection that takes no more of them finish,
// and closes it after the last.
func retire(cc *http.ClientConn) {
	cc.SetStateHook(func(cc *http.ClientConn) {
		if cc.InFlight() == 0 && cc.Err() == nil {
			go cc.Close()
		}
	})
	if cc.InFlight() == 0 {
		_ = cc.Close()
	}
}

func (l *lane) open() (*opened, error) {
	ctx, cancel := context.WithTimeoutCause(l.s.ctx, openTimeout, fmt.Errorf("gave up after %s", openTimeout))
	defer cancel()
	return l.s.openBase(ctx, protoControl)
}

// opened is a connection that has just been opened.
type opened struct {
	cc      *http.ClientConn
	circuit *circuit
}

// openBase opens a connection by the session's relays or addresses.
func (s *Session) openBase(ctx context.Context, proto string) (*opened, error) {
	lane := slog.String("lane", lanes[proto])
	begin := time.Now()
	conn, err := race(ctx, s.cfg.Identity, s.cfg.Peer, proto, s.paths())
	if err != nil {
		s.log.Debug("no circuit", lane, slog.Any("error", err))
		if s.ctx.Err() != nil {
			err = ErrClosed
		}
		return nil, err
	}
	c := circuitBelow(conn)
	cc, err := clientConn(ctx, conn, proto)
	if err != nil {
		return nil, lost(c.path, err)
	}
	s.worked(c.path)
	attrs := []any{lane, slog.String("path", c.path.String()), slog.Duration("took", time.Since(begin))}
	if c.id != "" {
		attrs = append(attrs, slog.String("circuit", string(c.id)))
	}
	s.log.Debug("circuit open", attrs...)
	o := &opened{cc, c}
	s.watch(o, proto)
	return o, nil
}

// watch counts a connection's circuit among those of its path. One for small requests
// does not outlive the path.
func (s *Session) watch(o *opened, proto string) {
	s.mu.Lock()
	s.circuits = slices.DeleteFunc(s.circuits, func(c *circuit) bool { return c.closed.Load() })
	s.circuits = append(s.circuits, o.circuit)
	s.mu.Unlock()
	if proto == protoControl {
		s.start(func() { s.closeSilent(o.circuit) })
	}
}

// closeSilent closes a circuit when nothing has come by it for as long as a ping takes
// that is answered, and nothing has moved on the path's other circuits since the ping.
// While they move, the answer may only wait behind what they carry.
func (s *Session) closeSilent(c *circuit) {
	var moved uint64
	still := sinceStart() // since when the others have not moved
	awake := still        // since when this process has not stood still itself
	timer := time.NewTimer(watchEvery)
	defer timer.Stop()
	for due := awake + watchEvery; ; {
		select {
		case <-s.ctx.Done():
			return
		case <-timer.C:
		}
		if c.closed.Load() {
			return
		}
		at := sinceStart()
		if m := s.moved(c); m != moved {
			moved, still = m, at
		}
		if at-due > watchEvery {
			awake = at
		}
		silent := at - max(awake, time.Duration(c.heard.Load()))
		left := max(pingAfter+pingTimeout-silent, pingAfter-(at-still))
		if left <= 0 {
			s.log.Debug("a connection does not answer", slog.String("lane", lanes[protoControl]), slog.String("path", c.path.String()))
			_ = c.Close()
			return
		}
		left = min(left, watchEvery)
		timer.Reset(left)
		due = at + left
	}
}

// moved adds up the progress of the other circuits of a circuit's path.
func (s *Session) moved(but *circuit) (sum uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.circuits {
		if c != but && c.path == but.path && !c.closed.Load() {
			sum += c.progress()
		}
	}
	return sum
}

// moving returns what tells whether anything has moved since on the other circuits of a
// circuit's path.
func (s *Session) moving(but *circuit) func() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := make(map[*circuit]uint64)
	for _, c := range s.circuits {
		if c != but && c.path == but.path {
			before[c] = c.progress()
		}
	}
	return func() bool {
		for c, n := range before {
			if !c.closed.Load() && c.progress() > n {
				return true
			}
		}
		return false
	}
}

// lanes is what logs call the connections of each protocol.
var lanes = map[string]string{protoControl: "control", protoBulk: "bulk"}

// clientConn starts HTTP on a connection, which it closes when that fails.
func clientConn(ctx context.Context, conn *tls.Conn, proto string) (*http.ClientConn, error) {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(proto == protoControl)
	protocols.SetHTTP1(proto == protoBulk)
	tr := &http.Transport{
		DialTLSContext:     func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		Protocols:          protocols,
		HTTP2:              h2Config(pingAfter, stallAfter),
		DisableCompression: true, // the protocol says itself what is compressed
	}
	// net/http's own copy of HTTP/2, as of Go 1.26, waits for ever on a builder that
	// opens a request's window too far: nothing ends the request, nor Close.
	//lint:ignore SA1019 what it is to be replaced by is that copy
	if err := http2.ConfigureTransport(tr); err != nil {
		_ = conn.Close()
		return nil, err
	}
	cc, err := tr.NewClientConn(ctx, "https", "builder:443")
	if err != nil {
		_ = conn.Close()
	}
	return cc, err
}

// drop forgets a connection that failed.
func (l *lane) drop(cc *http.ClientConn) {
	l.mu.Lock()
	if l.cc == cc {
		l.cc = nil
	} else {
		cc = nil
	}
	l.mu.Unlock()
	if cc != nil {
		retire(cc)
	}
}

func (l *lane) lastPath() Path {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.path
}

func (l *lane) close() {
	l.mu.Lock()
	l.closed = true
	cc := l.cc
	l.cc = nil
	l.mu.Unlock()
	if cc != nil {
		_ = cc.Close()
	}
}
