package term

import (
	"slices"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// maxRunning bounds the builds under way that are told apart.
	maxRunning = 4096
	// maxEnded bounds the ended builds that are remembered, and as many failed ones.
	maxEnded = 64
	// maxShown is how many bytes of a log line are kept for showing.
	maxShown = 256
	// maxNamed bounds the derivations that one message is searched for.
	maxNamed = 16
)

// job is one derivation's build.
type job struct {
	drv          nix.Path
	host         string // which of the builder's own machines builds it; "": itself
	began, ended time.Time
	failed       bool
	line         []byte // its last line, cut
	phase        string // Nix's, such as "buildPhase"
}

// builds is what Nix's structured log tells of the builds under way. Times are
// the builder's.
type builds struct {
	running map[uint64]*job
	order   []*job // the running ones, the oldest first
	ended   []*job // the newest ones that did not fail, the newest last
	failed  []*job // the oldest ones
	done    int    // ended without failing, as far as is known

	// built and fetched are Nix's own counts, of what is built and of paths
	// that the builder fetches.
	built, fetched counts
}

// counts are those of the fields of Nix's resProgress (done, expected, running, failed)
// that are shown, kept for one activity.
type counts struct {
	activity               uint64
	done, expected, failed uint64
}

func (c *counts) set(fields []wire.Field) {
	const most = 1 << 30 // a builder may say anything
	var n [4]uint64
	for i := range min(len(n), len(fields)) {
		n[i] = min(fields[i].Int, most)
	}
	c.done, c.expected, c.failed = n[0], n[1], n[3]
}

// begin forgets what runs: a builder that was restarted tells no ends of it.
func (b *builds) begin() {
	b.running, b.order = nil, nil
	b.built, b.fetched = counts{}, counts{}
}

// start takes note of an activity, and returns the build that it is, if it is one.
func (b *builds) start(a *wire.Activity, at time.Time) *job {
	switch daemon.ActivityType(a.Type) {
	case daemon.ActivityBuilds:
		b.built = counts{activity: a.ID}
	case daemon.ActivityCopyPaths:
		b.fetched = counts{activity: a.ID}
	}
	drv, ok := client.BuiltDerivation(a)
	if !ok || len(b.running) >= maxRunning || b.running[a.ID] != nil {
		return nil
	}
	j := &job{drv: drv, began: at}
	if len(a.Fields) > 1 && a.Fields[1].IsText && a.Fields[1].Str != "localhost" {
		j.host = a.Fields[1].Str[:min(len(a.Fields[1].Str), maxShown)]
	}
	if b.running == nil {
		b.running = make(map[uint64]*job)
	}
	b.running[a.ID] = j
	b.order = append(b.order, j)
	return j
}

// stop takes note of an activity's end.
func (b *builds) stop(id uint64, at time.Time) {
	j := b.running[id]
	if j == nil {
		return
	}
	delete(b.running, id)
	if i := slices.Index(b.order, j); i >= 0 {
		b.order = slices.Delete(b.order, i, i+1)
	}
	j.ended = at
	if j.failed {
		b.fail(j)
		return
	}
	b.done++
	if len(b.ended) == maxEnded {
		b.ended = slices.Delete(b.ended, 0, 1)
	}
	b.ended = append(b.ended, j)
}

func (b *builds) fail(j *job) {
	if len(b.failed) < maxEnded {
		b.failed = append(b.failed, j)
	}
}

// result takes note of what is told of an activity.
func (b *builds) result(a *wire.Activity) {
	switch daemon.ResultType(a.Type) {
	case daemon.ResultProgress:
		switch a.ID {
		case b.built.activity:
			b.built.set(a.Fields)
		case b.fetched.activity:
			b.fetched.set(a.Fields)
		}
	case daemon.ResultSetPhase:
		if j := b.running[a.ID]; j != nil && len(a.Fields) > 0 && a.Fields[0].IsText {
			j.phase = a.Fields[0].Str[:min(len(a.Fields[0].Str), maxShown)]
		}
	}
}

// message looks for the builds that a message says have failed: nothing else
// tells, and it may come before or after their end.
func (b *builds) message(text string) {
	if !strings.Contains(text, "fail") {
		return
	}
	for range maxNamed {
		i := strings.Index(text, "/nix/store/")
		if i < 0 {
			return
		}
		text = text[i:]
		end := strings.Index(text, ".drv")
		if end < 0 {
			return
		}
		b.hasFailed(nix.Path(text[:end+len(".drv")]))
		text = text[len("/nix/store/"):]
	}
}

func (b *builds) hasFailed(drv nix.Path) {
	is := func(j *job) bool { return j.drv == drv }
	if i := slices.IndexFunc(b.order, is); i >= 0 {
		b.order[i].failed = true
		return
	}
	if i := slices.IndexFunc(b.ended, is); i >= 0 {
		j := b.ended[i]
		b.ended = slices.Delete(b.ended, i, i+1)
		b.done--
		j.failed = true
		b.fail(j)
	}
}

// tally is how many derivations are where.
type tally struct{ done, running, failed, waiting, total uint64 }

func (b *builds) tally() tally {
	t := tally{done: uint64(b.done), running: uint64(len(b.order)), failed: uint64(len(b.failed))}
	if c := b.built; c.expected > 0 {
		// Nix counts better: it also knows of builds without an activity.
		t.done, t.failed = c.done, max(c.failed, t.failed)
		t.total = c.expected
	}
	t.total = max(t.total, t.done+t.running+t.failed)
	t.waiting = t.total - t.done - t.running - t.failed
	return t
}
