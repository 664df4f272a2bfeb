package link

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// measured makes a way's speed known, in bytes a second.
func measured(w *way, rate float64) {
	for _, m := range []*meter{&w.down, &w.up} {
		m.rate, m.allBusy = rate, trialTime
	}
}

// Bulk stays where it is until another path is clearly faster.
func TestBulkDoesNotFlap(t *testing.T) {
	s, direct := two(&slowPath{}, &slowPath{})
	for i, c := range []struct {
		relay, direct float64
		want          *way
	}{
		{100, 90, s.base}, {100, 110, s.base}, {100, 130, direct}, {110, 100, direct}, {130, 100, s.base},
	} {
		measured(s.base, c.relay)
		measured(direct, c.direct)
		if got := s.forBulk(false, false); got != c.want {
			t.Errorf("%d: bulk goes by %s", i, got.path())
		}
	}
}

// A path that nobody knows gets few requests at once beside one that is known.
func TestBulkOfAnUnknownPath(t *testing.T) {
	s, direct := two(&slowPath{}, &slowPath{})
	measured(s.base, 100)
	for range trialStreams {
		if got := s.forBulk(false, false); got != direct {
			t.Errorf("bulk goes by %s", got.path())
		}
		direct.down.begin(time.Now())
	}
	if got := s.forBulk(false, false); got != s.base {
		t.Error("all goes by the path that nobody knows")
	}
}

// A path that lost is tried by one request at a time, while the other is in use, after
// pauses that grow.
func TestPausesBeforeAPathIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, direct := two(&slowPath{}, &slowPath{})
		measured(s.base, 100)
		measured(direct, 10)
		tried := func(want bool) {
			t.Helper()
			if got := s.forBulk(false, false); (got == direct) != want {
				t.Errorf("bulk goes by %s", got.path())
			}
		}
		s.base.down.begin(time.Now())
		tried(false)
		for _, pause := range []time.Duration{15, 30, 60, 120, 240, 240} {
			pause *= time.Second
			time.Sleep(pause)
			tried(false)
			time.Sleep(time.Second)
			direct.down.begin(time.Now())
			tried(false)
			direct.down.end(time.Now())
			s.base.down.end(time.Now())
			tried(false)
			s.base.down.begin(time.Now())
			tried(true)
			tried(false)
			measured(direct, 10)
		}
	})
}

// By a ticket of addresses the lanes go where a direct path does: there is nothing to
// find out about them.
func TestBulkOfOnePath(t *testing.T) {
	s, direct := two(&slowPath{}, &slowPath{})
	measured(direct, 100)
	if got := s.forBulk(false, false); got != s.base {
		t.Errorf("another path that nobody knows is not tried, but %s", got.path())
	}
	direct.path = s.base.path
	if got := s.forBulk(false, false); got != direct {
		t.Errorf("the same path is tried beside itself")
	}
}

// Small requests take the nearest direct path unless the relay is known to be much
// nearer, and open.
func TestNearestPath(t *testing.T) {
	s, far := two(&slowPath{}, &slowPath{})
	_, near := two(&slowPath{}, &slowPath{})
	far.rtt.Store(int64(100 * time.Millisecond))
	near.rtt.Store(int64(50 * time.Millisecond))
	wants := func(what string, want *way) {
		t.Helper()
		if s.forControl() != want {
			t.Errorf("%s: another path is taken", what)
		}
	}
	wants("a relay that nobody knows", far)
	s.base.rtt.Store(int64(time.Millisecond))
	wants("a relay that is near", s.base)
	s.base.ready = func() bool { return false }
	wants("a relay that is not open", far)
	s.add(near)
	wants("two direct paths", near)
	s.remove(near)
	wants("one again", far)
}

// What goes by a slow path is moved to one that moves three times as fast, and from time
// to time to one that nobody knows or that carries nothing now.
func TestWhatIsSlower(t *testing.T) {
	const slow = 100
	for name, c := range map[string]struct {
		other   func(*Session, *way)
		at      time.Duration // since the last move
		slower  bool
		another bool // so it is at once for another request
	}{
		"as fast":                {func(_ *Session, w *way) { measured(w, slow) }, time.Hour, false, false},
		"twice as fast":          {func(_ *Session, w *way) { measured(w, 2*slow) }, time.Hour, false, false},
		"faster":                 {func(_ *Session, w *way) { measured(w, 4*slow) }, time.Hour, true, false},
		"faster, moved just now": {func(_ *Session, w *way) { measured(w, 4*slow) }, moveAgain / 2, false, false},
		"faster and in use":      {func(_ *Session, w *way) { measured(w, 4*slow); w.down.last = time.Now() }, 0, true, true},
		"in use before":          {func(_ *Session, w *way) { measured(w, 4*slow); w.down.last = time.Now().Add(-fresh) }, 0, false, false},
		"unknown":                {func(*Session, *way) {}, time.Hour, true, false},
		"being measured":         {func(_ *Session, w *way) { w.down.begin(time.Now()); w.down.rate = 4 * slow }, time.Hour, false, false},
		"not open":               {func(_ *Session, w *way) { measured(w, 4*slow); w.ready = func() bool { return false } }, time.Hour, false, false},
		"dead":                   {func(_ *Session, w *way) { measured(w, 4*slow); close(w.done) }, time.Hour, false, false},
		"the same":               {func(s *Session, w *way) { measured(w, 4*slow); w.path = s.base.path }, time.Hour, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, direct := two(&slowPath{}, &slowPath{})
				measured(s.base, slow)
				s.lastMove = time.Now().Add(-c.at)
				c.other(s, direct)
				if got := s.slower(s.base, false); got != c.slower {
					t.Errorf("slower: %t", got)
				}
				if got := s.slower(s.base, false); got != c.another {
					t.Errorf("slower for another request: %t", got)
				}
			})
		})
	}
}

// A path that was slow is tried from time to time, and used once it is fast.
func TestBulkReturnsToAPathThatBecomesFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		relay, direct := &slowPath{speed: 10 << 20, size: 4 << 20}, &slowPath{speed: 1 << 20, size: 4 << 20}
		s, _ := two(relay, direct)
		fetch(s, 20)
		direct.speed = 60 << 20
		before := direct.bytes
		fetch(s, 100)
		if n := direct.bytes - before; n < 200<<20 {
			t.Errorf("the direct path carried %d MiB", n>>20)
		}
	})
}

// A body that is small is not what a request is about.
func TestSmallBodies(t *testing.T) {
	for size, up := range map[int]bool{1: false, smallBody: false, smallBody + 1: true} {
		synctest.Test(t, func(t *testing.T) {
			s, d := two(nil, nil)
			d.bulk = roundTripper(func(req *http.Request) (*http.Response, error) {
				_, _ = io.Copy(io.Discard, req.Body)
				return &http.Response{Body: io.NopCloser(bytes.NewReader(make([]byte, 10)))}, nil
			})
			if _, err := do(s.Bulk(), http.MethodPost, "", bytes.NewReader(make([]byte, size))); err != nil {
				t.Error(err)
			}
			if sent, got := d.up.allBytes, d.down.allBytes; up && (sent != int64(size) || got != 0) || !up && (sent != 0 || got != 10) {
				t.Errorf("a body of %d bytes: %d bytes up and %d down were measured", size, sent, got)
			}
			s.work.Wait()
		})
	}
}

// While bulk goes by a direct path, the fallback is opened again, now and then.
func TestFallbackStands(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		_, direct := two(nil, &slowPath{speed: 1 << 20, size: 10})
		b.add(direct)
		fetchOne := func() {
			if text, err := get(b.Bulk(), ""); err != nil || len(text) != 10 {
				t.Errorf("%q, %v", text, err)
			}
			synctest.Wait()
		}
		b.listen.Cut()
		synctest.Wait()
		fetchOne()
		if !b.control.isOpen() {
			t.Error("the fallback is not opened")
		}
		b.way.mu.Lock()
		b.way.most = 1
		b.way.mu.Unlock()
		b.listen.Cut()
		synctest.Wait()
		time.Sleep(probeAfter)
		before := b.way.circuits()
		for range 10 {
			fetchOne()
		}
		if n := b.way.circuits() - before; n != 1 {
			t.Errorf("the relay was asked for %d circuits", n)
		}
	})
}
