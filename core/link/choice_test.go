package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestMeter(t *testing.T) {
	now := time.Unix(1, 0)
	var m meter
	if _, measured := m.estimate(); measured {
		t.Error("measured before anything moved")
	}
	move := func(n int, every time.Duration, times int) {
		for range times {
			now = now.Add(every)
			m.add(n, now)
		}
	}
	m.begin(now)
	move(1000, 100*time.Millisecond, 40)
	if rate, measured := m.estimate(); !measured || rate < 9000 || rate > 11000 {
		t.Errorf("10,000 bytes a second are taken for %.0f", rate)
	}
	// What the builder has nothing to send for does not count much.
	now = now.Add(time.Hour)
	move(1000, 100*time.Millisecond, 10)
	if rate, _ := m.estimate(); rate < 6000 {
		t.Errorf("after a pause: %.0f", rate)
	}
	move(100, 100*time.Millisecond, 100)
	if rate, _ := m.estimate(); rate > 1100 {
		t.Errorf("a path that became slow: %.0f", rate)
	}
	m.end(now)
	now = now.Add(time.Hour)
	if m.moving(now) || m.flying() != 0 {
		t.Error("an idle path moves")
	}
}

// slowPath is a path of a certain speed, which its requests share, and latency:
// every request is answered with size bytes.
type slowPath struct {
	delay time.Duration
	speed int // bytes a second
	size  int
	bytes int
	mu    sync.Mutex
	busy  int // answers under way
}

const slice = 10 * time.Millisecond

func (p *slowPath) RoundTrip(req *http.Request) (*http.Response, error) {
	select {
	case <-time.After(p.delay):
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	if req.URL.Path == "/v1/path" {
		return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody}, nil
	}
	p.add(1, 0)
	if req.Body != nil && req.Body != http.NoBody {
		body := &slowBody{p: p, req: req, left: p.size}
		defer body.Close()
		buf := make([]byte, p.size)
		for body.left > 0 {
			n, err := body.Read(buf)
			if err != nil {
				return nil, err
			}
			if _, err := io.CopyN(io.Discard, req.Body, int64(n)); err != nil {
				return nil, err
			}
		}
		return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody}, nil
	}
	return &http.Response{StatusCode: http.StatusOK, Body: &slowBody{p: p, req: req, left: p.size}}, nil
}

// add counts answers and bytes and returns how many answers there are.
func (p *slowPath) add(answers, bytes int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy += answers
	p.bytes += bytes
	return p.busy
}

type slowBody struct {
	p    *slowPath
	req  *http.Request
	left int
	once sync.Once
}

func (b *slowBody) Read(buf []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n := min(len(buf), b.left, max(1, b.p.speed/b.p.add(0, 0)/int(time.Second/slice)))
	select {
	case <-time.After(slice):
	case <-b.req.Context().Done():
		return 0, b.req.Context().Err()
	}
	b.left -= n
	b.p.add(0, n)
	return n, nil
}

func (b *slowBody) Close() error {
	b.once.Do(func() { b.p.add(-1, 0) })
	return nil
}

// two makes a session with a relay's path and a direct one.
func two(relay, direct *slowPath) (*Session, *way) {
	s := &Session{log: slog.New(slog.DiscardHandler), lastBulk: make(map[bool]*way)}
	s.ctx, s.cancel = context.Background(), func() {}
	always := func() bool { return true }
	s.base = &way{control: relay, bulk: relay, path: func() Path { return Path{Kind: PathRelay} }, ready: always}
	d := &way{control: direct, bulk: direct, path: func() Path { return Path{Kind: PathDirectQUIC} }, ready: always, direct: true, done: make(chan struct{})}
	s.add(d)
	return s, d
}

// fetch moves bytes by requests of 4 MiB, three at once, and repeats those that
// fail, as the client does.
func fetch(s *Session, requests int) {
	move(s, requests, func() io.Reader { return bytes.NewReader(nil) })
}

// move makes requests with bodies, three at once.
func move(s *Session, requests int, body func() io.Reader) {
	todo := make(chan int, requests)
	for i := range requests {
		todo <- i
	}
	close(todo)
	done := make(chan struct{})
	for range 3 {
		go func() {
			defer func() { done <- struct{}{} }()
			for range todo {
				for {
					req, _ := http.NewRequest(http.MethodPost, BaseURL+"chunks", body())
					resp, err := s.Bulk().RoundTrip(req)
					if err == nil {
						_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 1<<20))
						resp.Body.Close()
					}
					if err == nil {
						break
					}
				}
			}
		}()
	}
	for range 3 {
		<-done
	}
	s.work.Wait()
}

// mostByTheFaster checks that the slower path has carried little.
func mostByTheFaster(t *testing.T, relay, direct *slowPath) {
	t.Helper()
	fast, slow := relay, direct
	if direct.speed > relay.speed {
		fast, slow = direct, relay
	}
	if share := float64(slow.bytes) / float64(fast.bytes+slow.bytes); share > 0.12 {
		t.Errorf("the slow path carried %.0f%%", 100*share)
	}
}

// Bulk goes by the faster path, whichever that is; the other gets little more
// than what it takes to find out.
func TestBulkTakesTheFasterPath(t *testing.T) {
	const chunk = 4 << 20
	for name, c := range map[string]struct{ relay, direct int }{
		"slow direct":       {20 << 20, 1 << 20},
		"very slow direct":  {20 << 20, 50 << 10},
		"slow relay":        {2 << 20, 60 << 20},
		"half as fast":      {20 << 20, 10 << 20},
		"relay for nothing": {10 << 10, 20 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				relay, direct := &slowPath{speed: c.relay, size: chunk}, &slowPath{speed: c.direct, size: chunk}
				s, _ := two(relay, direct)
				fetch(s, 100)
				mostByTheFaster(t, relay, direct)
			})
		})
	}
}

// Uploads whose length nobody knows are measured as what they are, by which they
// choose their path, and they leave one that is slow.
func TestUploadsTakeTheFasterPath(t *testing.T) {
	const size = 4 << 20
	for name, c := range map[string]struct{ relay, direct int }{
		"slow direct":      {20 << 20, 1 << 20},
		"very slow direct": {20 << 20, 50 << 10},
		"slow relay":       {2 << 20, 60 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				relay, direct := &slowPath{speed: c.relay, size: size}, &slowPath{speed: c.direct, size: size}
				s, d := two(relay, direct)
				move(s, 100, func() io.Reader { return io.LimitReader(endless{}, size) })
				mostByTheFaster(t, relay, direct)
				for _, w := range []*way{s.base, d} {
					if w.down.allBytes > 0 || w.up.allBytes == 0 {
						t.Errorf("%s: %d bytes down and %d up were measured", w.path(), w.down.allBytes, w.up.allBytes)
					}
				}
			})
		})
	}
}

// endless is a body of any bytes.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	return len(p), nil
}

// A path that becomes slow while it is in use is left.
func TestBulkLeavesAPathThatBecomesSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		relay, direct := &slowPath{speed: 10 << 20, size: 4 << 20}, &slowPath{speed: 40 << 20, size: 4 << 20}
		s, _ := two(relay, direct)
		fetch(s, 50)
		direct.speed = 100 << 10
		before := relay.bytes
		began := time.Now()
		fetch(s, 100)
		if took := time.Since(began); took > 90*time.Second {
			t.Errorf("took %s", took)
		}
		if moved := relay.bytes - before; moved < 300<<20 {
			t.Errorf("the relay carried %d MiB", moved>>20)
		}
	})
}

func TestControlTakesTheShorterPath(t *testing.T) {
	for name, c := range map[string]struct {
		relay, direct time.Duration
		want          PathKind
	}{
		"direct is nearer":   {50 * time.Millisecond, 5 * time.Millisecond, PathDirectQUIC},
		"about the same":     {50 * time.Millisecond, 60 * time.Millisecond, PathDirectQUIC},
		"the relay is near":  {5 * time.Millisecond, 100 * time.Millisecond, PathRelay},
		"both are very near": {time.Millisecond, 5 * time.Millisecond, PathDirectQUIC},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := two(&slowPath{delay: c.relay}, &slowPath{delay: c.direct})
				for _, w := range []*way{s.base, d} {
					if err := w.measure(t.Context(), nil); err != nil {
						t.Fatal(err)
					}
				}
				if got := s.Path().Kind; got != c.want {
					t.Errorf("path is %s", got)
				}
				close(d.done)
				if got := s.Path().Kind; got != PathRelay {
					t.Errorf("with the direct path lost: %s", got)
				}
			})
		})
	}
}

// A round trip is the shortest of several: others wait for something else, too.
func TestRoundTripIsTheShortest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		delays := []time.Duration{3, 1, 2}
		w := &way{control: roundTripper(func(*http.Request) (*http.Response, error) {
			time.Sleep(delays[0])
			delays = delays[1:]
			return &http.Response{Body: http.NoBody}, nil
		})}
		if err := w.measure(t.Context(), nil); err != nil || w.roundTrip() != 1 {
			t.Errorf("%d, %v", w.roundTrip(), err)
		}
	})
}

// broken fails every request.
type broken struct{ after func() }

func (b broken) RoundTrip(*http.Request) (*http.Response, error) {
	b.after()
	return nil, errors.New("no answer")
}

// A request that fails with its direct path is repeated by the relay's; one that
// fails on a path that works is not.
func TestRequestsMove(t *testing.T) {
	s, d := two(&slowPath{size: 10, speed: 1 << 20}, &slowPath{})
	lost := false
	d.control = broken{func() {}}
	if _, err := get(s.Control(), "x"); err == nil {
		t.Error("a failure was repeated")
	}
	d.control = broken{func() {
		if !lost {
			lost = true
			close(d.done)
		}
	}}
	if text, err := get(s.Control(), "x"); err != nil || len(text) != 10 {
		t.Errorf("got %q, %v", text, err)
	}
}
