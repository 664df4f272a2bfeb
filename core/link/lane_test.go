package link

import (
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/drv-thru/drv-thru/core/link/linktest"
)

// A request that the builder breaks off fails. The connection, and what else goes by it,
// stays.
func TestRequestThatIsBrokenOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		var requests atomic.Int32
		serve(t, &network, "b", secret(t, 2), func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/abort" {
				requests.Add(1)
				panic(http.ErrAbortHandler)
			}
		})
		way := &wayTo{network: &network, address: "b"}
		s := session(t, way)
		defer s.Close()
		if _, err := get(s.Control(), "abort"); err == nil {
			t.Error("the request ends well")
		}
		if _, err := get(s.Control(), ""); err != nil {
			t.Error(err)
		}
		if r, d := requests.Load(), way.dials.Load(); r != 1 || d != 1 {
			t.Errorf("%d requests by %d circuits", r, d)
		}
	})
}

// As many small requests as there may be at once, and more, share one circuit.
func TestManySmallRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		release := make(chan struct{})
		serve(t, &network, "b", secret(t, 2), func(http.ResponseWriter, *http.Request) { <-release })
		way := &wayTo{network: &network, address: "b"}
		s := session(t, way)
		defer s.Close()
		const many = maxStreams + 10
		done := make(chan error, many)
		for range many {
			go func() {
				_, err := get(s.Control(), "")
				done <- err
			}()
			synctest.Wait()
		}
		close(release)
		for range many {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if n := way.dials.Load(); n != 1 {
			t.Errorf("%d circuits", n)
		}
	})
}

// What moves on another path tells nothing of this one, nor does the circuit itself, nor
// one that is closed.
func TestWhatMovesOnAPath(t *testing.T) {
	here, there := Path{PathRelay, "here"}, Path{PathRelay, "there"}
	c, beside, closed, other := &circuit{path: here}, &circuit{path: here}, &circuit{path: here}, &circuit{path: there}
	closed.closed.Store(true)
	s := &Session{circuits: []*circuit{c, beside, closed, other}}
	before, moved := s.moved(c), s.moving(c)
	for _, quiet := range []*circuit{c, closed, other} {
		quiet.moved.Add(1)
	}
	if s.moved(c) != before || moved() {
		t.Error("what does not count counts")
	}
	beside.moved.Add(1)
	if s.moved(c) == before || !moved() {
		t.Error("what counts does not")
	}
}
