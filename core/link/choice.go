package link

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
)

// errMoved ends a request whose path has turned out to be much slower than another:
// made again, it goes by that one.
var errMoved = errors.New("another path is faster")

const (
	// latencyFactor and latencySlack are how much longer a direct path's round
	// trip may be for small requests to prefer it: it takes load from the relay.
	latencyFactor = 1.5
	latencySlack  = 10 * time.Millisecond
	// trialStreams is how many bulk requests an unmeasured path gets at once.
	trialStreams = 2
	// better is how much faster another path must be to change to it, worse how
	// much slower one must be for its answers to be broken off.
	better = 1.25
	worse  = 3
	// A path that lost is measured again after probeAfter, later each time up to
	// probeMost.
	probeAfter = 15 * time.Second
	probeMost  = 4 * time.Minute
	// judgeAfter is how long an answer may take before its path's speed is
	// compared, and how often that is done.
	judgeAfter = 500 * time.Millisecond
	// judgeUploadAfter is the same for uploads, of which what has left but not
	// arrived has to be sent again.
	judgeUploadAfter = 3 * time.Second
	// moveAgain is how often a request moves to a path that is not in use.
	moveAgain = 3 * time.Second
)

// way is one open way to the builder: the lanes through relays, or a direct path.
type way struct {
	control, bulk http.RoundTripper
	path          func() Path
	direct        bool
	// ready reports whether bulk would be sent at once, without opening anything.
	ready func() bool
	// done is closed when a direct way is lost, and close loses it; nil for the
	// lanes.
	done  chan struct{}
	close func()
	// broken reports what done will tell: that no request can be sent. It may be known
	// long before, while others are answered.
	broken func() bool
	// moving returns what tells whether anything has come by a direct way since, or been
	// taken by the other end.
	moving   func() func() bool
	down, up meter
	// probe is when a slower way is measured again, and the pause after that;
	// under Session.mu.
	probe      time.Time
	probePause time.Duration

	rtt atomic.Int64 // round trip in nanoseconds; 0: not measured
}

func (w *way) dead() bool {
	if w.broken != nil && w.broken() {
		return true
	}
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

func (w *way) lose() {
	if w.close != nil {
		w.close()
	}
}

func (w *way) meter(up bool) *meter {
	if up {
		return &w.up
	}
	return &w.down
}

func (w *way) roundTrip() time.Duration { return time.Duration(w.rtt.Load()) }

// measure takes the way's round-trip time: the shortest of three requests.
func (w *way) measure(ctx context.Context, header http.Header) error {
	var best time.Duration
	for range 3 {
		begin := time.Now()
		if err := ping(ctx, w.control, header); err != nil {
			return err
		}
		if took := time.Since(begin); best == 0 || took < best {
			best = took
		}
	}
	w.rtt.Store(int64(max(best, 1)))
	return nil
}

// ping asks for nothing. Any answer will do: it came from the builder.
func ping(ctx context.Context, rt http.RoundTripper, header http.Header) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, pathURL, nil)
	if err != nil {
		return err
	}
	maps.Copy(req.Header, header)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, wire.MaxPathDocument))
	return errors.Join(err, resp.Body.Close())
}

// add makes a direct way known.
func (s *Session) add(w *way) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.direct = append(s.direct, w)
	if s.firstDirect != nil {
		close(s.firstDirect)
		s.firstDirect = nil
	}
}

// remove forgets one.
func (s *Session) remove(w *way) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.direct = slices.DeleteFunc(s.direct, func(other *way) bool { return other == w })
}

// loseDirect closes all direct ways.
func (s *Session) loseDirect() {
	s.mu.Lock()
	ways := s.direct
	s.direct = nil
	s.mu.Unlock()
	for _, w := range ways {
		w.lose()
	}
}

// aliveLocked returns the direct ways that work.
func (s *Session) aliveLocked() []*way {
	return slices.DeleteFunc(slices.Clone(s.direct), (*way).dead)
}

// sameLocked reports whether a direct way goes where the lanes do: by a ticket of
// addresses, they are no other path.
func (s *Session) sameLocked(base *way) bool {
	return slices.ContainsFunc(s.aliveLocked(), func(w *way) bool { return w.path() == base.path() })
}

// forControl chooses the way of a small request: the one with the shortest round
// trip, with some favour for direct ones.
func (s *Session) forControl() *way {
	s.mu.Lock()
	defer s.mu.Unlock()
	var best *way
	for _, w := range s.aliveLocked() {
		if best == nil || w.roundTrip() < best.roundTrip() {
			best = w
		}
	}
	if best == nil {
		return s.base
	}
	base := s.base.roundTrip()
	limit := time.Duration(latencyFactor*float64(base)) + latencySlack
	if base != 0 && s.base.ready() && best.roundTrip() > limit {
		return s.base
	}
	return best
}

// forBulk chooses the way of a large request in one direction: the one with the
// best measured goodput. One that has not been measured gets a few requests, to
// be measured by them; one that lost gets one from time to time. The lanes are not
// chosen beside a direct way if they have refused the request.
func (s *Session) forBulk(up, refused bool) *way {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	ways := s.aliveLocked()
	if len(ways) == 0 {
		return s.base
	}
	if s.base.ready() {
		if !refused && !s.sameLocked(s.base) {
			ways = append(ways, s.base)
		}
	} else if now.After(s.baseWarmed.Add(probeAfter)) {
		// The fallback should stand when it is needed.
		s.baseWarmed = now
		s.control.warm()
	}
	var best *way
	var bestRate float64
	for _, w := range ways {
		m := w.meter(up)
		rate, measured := m.estimate()
		if !measured {
			if m.flying() < trialStreams {
				return w
			}
			continue
		}
		if w == s.lastBulk[up] {
			rate *= better
		}
		if best == nil || rate > bestRate {
			best, bestRate = w, rate
		}
	}
	if best == nil {
		// All are being measured.
		return slices.MinFunc(ways, func(a, b *way) int { return a.meter(up).flying() - b.meter(up).flying() })
	}
	for _, w := range ways {
		if w == best || w.meter(up).flying() > 0 || best.meter(up).flying() == 0 {
			continue
		}
		switch {
		case w.probe.IsZero():
			w.probe, w.probePause = now.Add(probeAfter), probeAfter
		case now.After(w.probe):
			w.probePause = min(2*w.probePause, probeMost)
			w.probe = now.Add(w.probePause)
			return w
		}
	}
	s.lastBulk[up] = best
	return best
}

// slower reports whether another way is so much faster than w that what goes by w
// had better be moved. What another was once must be tried again first, with one
// request at a time: it may be the builder that is slow.
func (s *Session) slower(w *way, up bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	mine, _ := w.meter(up).estimate()
	for _, other := range append(s.aliveLocked(), s.base) {
		if other == w || !other.ready() || other.path() == w.path() {
			continue
		}
		m := other.meter(up)
		rate, measured := m.estimate()
		switch {
		case !measured && m.flying() == 0:
			// Nobody knows yet: one request tells.
		case !measured || rate <= worse*mine:
			continue
		case m.moving(now):
			return true
		}
		if now.Sub(s.lastMove) >= moveAgain {
			s.lastMove = now
			return true
		}
	}
	return false
}

// chooser is a session's http.RoundTripper for small or for large requests.
type chooser struct {
	s    *Session
	bulk bool
}

// smallBody is the largest body of a request whose answer is what is large.
const smallBody = 256 << 10

// RoundTrip sends a request; see [Session.Control].
func (c *chooser) RoundTrip(req *http.Request) (*http.Response, error) {
	// The length is 0 or less when nobody knows it.
	up := c.bulk && req.Body != nil && req.Body != http.NoBody && (req.ContentLength <= 0 || req.ContentLength > smallBody)
	refused := false
	for {
		w := c.way(up, refused)
		resp, err := c.send(w, req, up)
		if err == nil {
			return resp, nil
		}
		if req.Context().Err() != nil {
			return nil, err
		}
		moved := errors.Is(err, errMoved)
		if !moved && !w.dead() {
			if !c.stranded(w, err) {
				return nil, err
			}
			refused = true
			if c.bulk {
				w.meter(up).refuse()
			}
		}
		again, ok := repeat(req)
		if !ok {
			return nil, lost(w.path(), err)
		}
		req = again
	}
}

func (c *chooser) way(up, refused bool) *way {
	if c.bulk {
		return c.s.forBulk(up, refused)
	}
	return c.s.forControl()
}

// stranded reports whether no relay leads to the builder although a direct path
// does.
func (c *chooser) stranded(w *way, err error) bool {
	var unreachable *UnreachableError
	if w.direct || !errors.As(err, &unreachable) {
		return false
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return len(c.s.aliveLocked()) > 0
}

// send sends a request by one way, and measures it if it is large.
func (c *chooser) send(w *way, req *http.Request, up bool) (*http.Response, error) {
	if !c.bulk {
		return w.control.RoundTrip(req)
	}
	m := w.meter(up)
	m.begin(time.Now())
	f := &flight{s: c.s, w: w, m: m, up: up}
	ctx, cancel := context.WithCancelCause(req.Context())
	f.cancel = cancel
	sent := req.WithContext(ctx)
	if up {
		sent.Body = &countedBody{req.Body, m}
		if req.GetBody != nil {
			sent.GetBody = func() (io.ReadCloser, error) {
				body, err := req.GetBody()
				return &countedBody{body, m}, err
			}
		}
	}
	f.judge(ctx)
	resp, err := w.bulk.RoundTrip(sent)
	if err != nil {
		if context.Cause(ctx) == errMoved {
			err = errMoved
		}
		f.end()
		return nil, err
	}
	resp.Body = &flightBody{resp.Body, f}
	return resp, nil
}

// flight is a large request under way.
type flight struct {
	s      *Session
	w      *way
	m      *meter
	up     bool
	cancel context.CancelCauseFunc
	once   sync.Once
}

// judge breaks the request off when its way turns out to be much slower than
// another.
func (f *flight) judge(ctx context.Context) {
	f.s.start(func() {
		every := judgeAfter
		if f.up {
			every = judgeUploadAfter
		}
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-f.s.ctx.Done():
				return
			case <-tick.C:
				if f.s.slower(f.w, f.up) {
					f.s.log.Debug("moving to a faster path", "from", f.w.path().String())
					f.m.condemn()
					f.cancel(errMoved)
					return
				}
			}
		}
	})
}

func (f *flight) end() {
	f.once.Do(func() {
		f.m.end(time.Now())
		f.cancel(nil)
	})
}

// flightBody is the answer of a flight.
type flightBody struct {
	io.ReadCloser
	f *flight
}

func (b *flightBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if !b.f.up {
		b.f.m.add(n, time.Now())
	}
	if err != nil {
		b.f.end()
	}
	return n, err
}

func (b *flightBody) Close() error {
	defer b.f.end() // afterwards: it ends what Close may want to read
	return b.ReadCloser.Close()
}

// countedBody is what an upload sends.
type countedBody struct {
	io.ReadCloser
	m *meter
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.m.add(n, time.Now())
	return n, err
}
