package builder

import (
	"slices"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

// historyLength is how many builds an estimate looks back to.
const historyLength = 32

// estimate foretells how long a place in the queue lasts, from how long the
// latest builds had their slots. It counts neither those that were cancelled nor
// those that needed no slot.
type estimate struct {
	mu      sync.Mutex
	lengths []time.Duration // the oldest first
	running map[*place]time.Time
}

// learn takes note of the builds of earlier processes, the oldest first.
func (e *estimate) learn(records []BuildRecord) {
	for _, r := range records {
		if (r.State == wire.StateBuilt || r.State == wire.StateFailed) && r.Result != nil && slices.ContainsFunc(r.Result.Derivations, wasBuilt) {
			e.add(time.Duration(r.Result.BuildTime * float64(time.Second)))
		}
	}
}

func wasBuilt(d wire.DrvResult) bool { return d.Status != daemon.AlreadyValid.String() }

func (e *estimate) add(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.lengths) == historyLength {
		e.lengths = slices.Delete(e.lengths, 0, 1)
	}
	e.lengths = append(e.lengths, d)
}

// begin notes that a build has got its slot.
func (e *estimate) begin(p *place, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running == nil {
		e.running = make(map[*place]time.Time)
	}
	e.running[p] = now
}

// end notes that a build has given its slot back; typical says that it had it for
// as long as it needed.
func (e *estimate) end(p *place, now time.Time, typical bool) {
	e.mu.Lock()
	began, ok := e.running[p]
	delete(e.running, p)
	e.mu.Unlock()
	if ok && typical {
		e.add(now.Sub(began))
	}
}

// wait returns how long position (1 is next) may wait for one of the slots; 0
// when there is nothing to tell by. It takes every build for an average one: the
// slots come free one after the other, and again an average build later.
func (e *estimate) wait(position, slots int, now time.Time) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if position < 1 || slots < 1 || len(e.lengths) == 0 {
		return 0
	}
	var sum time.Duration
	for _, d := range e.lengths {
		sum += d
	}
	average := sum / time.Duration(len(e.lengths))
	left := make([]time.Duration, 0, max(slots, len(e.running)))
	for _, began := range e.running {
		// One that has lasted longer than others tells nothing of its end.
		left = append(left, max(average-now.Sub(began), average/4))
	}
	for len(left) < slots {
		left = append(left, 0)
	}
	slices.Sort(left)
	// With fewer slots than builds that run, the first of those leave none.
	left = left[len(left)-slots:]
	rounds := min(int64((position-1)/slots), int64(wire.MaxQueueWait/max(average, time.Second)))
	return min(left[(position-1)%slots]+time.Duration(rounds)*average, wire.MaxQueueWait)
}
