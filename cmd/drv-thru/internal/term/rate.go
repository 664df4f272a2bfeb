package term

import (
	"fmt"
	"time"

	"github.com/drv-thru/drv-thru/core/client"
)

const (
	// rateSpan is over how long a rate is measured: long enough to even out
	// requests, short enough to show that the network has changed.
	rateSpan = 5 * time.Second
	// rateEvery is how far apart its samples are.
	rateEvery = 250 * time.Millisecond
)

// rate follows one direction's bytes.
type rate struct {
	now     client.Transfer
	samples []sample // the oldest first, at most rateSpan old but for one
}

type sample struct {
	at   time.Time
	done int64
}

// update takes note of where a transfer is, and reports whether it has only begun.
func (r *rate) update(now time.Time, t client.Transfer) (first bool) {
	first = len(r.samples) == 0
	r.now = t
	if n := len(r.samples); first || now.Sub(r.samples[n-1].at) >= rateEvery {
		r.samples = append(r.samples, sample{now, t.Done})
	}
	for len(r.samples) > 2 && now.Sub(r.samples[1].at) > rateSpan {
		r.samples = append(r.samples[:0], r.samples[1:]...)
	}
	return first
}

// moving reports whether there is something to show.
func (r *rate) moving() bool { return len(r.samples) > 0 && r.now.Done < r.now.Total }

// perSecond is how fast it goes, 0 when that is not known yet.
func (r *rate) perSecond(now time.Time) float64 {
	if len(r.samples) == 0 {
		return 0
	}
	// Nothing for a while is slow, so now counts and not the newest sample.
	if d := now.Sub(r.samples[0].at); d >= time.Second {
		return max(0, float64(r.now.Done-r.samples[0].done)/d.Seconds())
	}
	return 0
}

// maxLeft bounds the time that is said to be left: what takes longer stands still.
const maxLeft = 99 * time.Hour

// texts tell how far the transfer is, in more and in fewer words.
func (r *rate) texts(now time.Time) []string {
	far := fmt.Sprintf("%s of %s", Bytes(r.now.Done), Bytes(r.now.Total))
	long, pace := far, ""
	if r.now.Wire > 0 {
		long += fmt.Sprintf(" (%s over the wire)", Bytes(r.now.Wire))
	}
	if speed := r.perSecond(now); speed >= 1 {
		pace = ", " + Bytes(int64(speed)) + "/s"
		if left := float64(r.now.Total-r.now.Done) / speed; left < maxLeft.Seconds() {
			pace += ", " + Span(time.Duration(left*float64(time.Second))) + " left"
		}
	}
	return []string{long + pace, far + pace, far}
}
