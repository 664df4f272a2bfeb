package builder

import (
	"io"
	"net/http"

	"github.com/drv-thru/drv-thru/core/wire"
)

// Meter is told what a Service does, for metrics. Its methods return at once.
type Meter interface {
	// Answered tells of a request that was answered or broken off.
	Answered(r *http.Request, a Answer)
	// Ended tells of a build that has.
	Ended(rec *BuildRecord)
	// Began tells of a derivation whose build has begun on a machine.
	Began(machine string)
	// Offered tells of NAR bytes whose chunks a client was told, and of which it
	// will fetch those that it lacks.
	Offered(narBytes uint64)
}

// Answer is what became of a request.
type Answer struct {
	Received, Sent int64 // bytes of the bodies
	// Code is the error's; "" for none.
	Code wire.Code
}

type noMeter struct{}

func (noMeter) Answered(*http.Request, Answer) {}
func (noMeter) Ended(*BuildRecord)             {}
func (noMeter) Began(string)                   {}
func (noMeter) Offered(uint64)                 {}

// meteredBody counts what is read of a request.
type meteredBody struct {
	io.ReadCloser
	n *int64
}

func (m meteredBody) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	*m.n += int64(n)
	return n, err
}

// meteredWriter counts what is written of an answer.
type meteredWriter struct {
	http.ResponseWriter
	n *int64
}

func (m meteredWriter) Write(p []byte) (int, error) {
	n, err := m.ResponseWriter.Write(p)
	*m.n += int64(n)
	return n, err
}

// Unwrap is for [http.ResponseController].
func (m meteredWriter) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// Load is how busy a Service is.
type Load struct {
	Slots    int  `json:"slots"`
	Running  int  `json:"running"`
	Waiting  int  `json:"waiting"`
	Draining bool `json:"draining,omitempty"`
	Paused   bool `json:"paused,omitempty"`
}

// Load returns how busy the service is.
func (s *Service) Load() Load {
	var l Load
	l.Running, l.Waiting, l.Slots = s.queue.counts()
	l.Paused = s.queue.isPaused()
	s.mu.Lock()
	defer s.mu.Unlock()
	l.Draining = s.draining
	return l
}
