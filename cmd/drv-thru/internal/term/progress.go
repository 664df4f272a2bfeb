package term

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/wire"
)

// redraw is how often the status line may change.
const redraw = 100 * time.Millisecond

// queueMoment is how long a place in the queue lasts to be worth a line.
const queueMoment = 300 * time.Millisecond

// Nix's verbosity levels (libutil/error.hh) up to which its messages are shown.
const levelNotice = 2

// Progress shows how a build goes.
type Progress struct {
	p *Printer
	// Logs shows what builds print.
	Logs bool

	mu    sync.Mutex
	path  func() string
	phase string
	doing string
	began time.Time // of the phase
	up    rate
	down  rate
	place int // in the queue
	// toldPlace is the one that a line told of.
	toldPlace int
	closed    bool
	running   map[uint64]*activity
	latest    uint64 // the activity that printed last
	built     int
	tails     client.Tails
	errors    []string // what the builder's daemon called errors

	stop chan struct{}
	done chan struct{}
}

type activity struct {
	name  string
	began time.Time
	line  []byte // its last line, cut
}

const (
	maxRunning = 4096
	maxErrors  = 64
	maxShown   = 256 // bytes of a log line in the status
)

// NewProgress starts to show progress on p. Close it.
func NewProgress(p *Printer, logs bool) *Progress {
	v := &Progress{p: p, Logs: logs, path: func() string { return "" }, running: make(map[uint64]*activity),
		began: time.Now(), stop: make(chan struct{}), done: make(chan struct{})}
	if !p.Terminal {
		close(v.done)
		return v
	}
	go func() {
		defer close(v.done)
		t := time.NewTicker(redraw)
		defer t.Stop()
		for {
			select {
			case <-v.stop:
				return
			case now := <-t.C:
				v.p.Status(v.status(now))
			}
		}
	}()
	return v
}

// Close stops showing; later calls change nothing on the screen.
func (v *Progress) Close() {
	select {
	case <-v.stop:
		return
	default:
	}
	close(v.stop)
	<-v.done
	v.mu.Lock()
	v.closed = true
	v.mu.Unlock()
	v.p.Status("")
	v.p.Flush()
}

// SetPath names the function that tells how the builder is reached.
func (v *Progress) SetPath(path func() string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.path = path
}

// Phase begins a phase, with a line where lines are all there is.
func (v *Progress) Phase(phase string) {
	v.mu.Lock()
	if v.phase == phase {
		v.mu.Unlock()
		return
	}
	v.phase, v.doing, v.began = phase, "", time.Now()
	v.mu.Unlock()
	if !v.p.Terminal {
		v.p.Line(phase)
	}
}

// Doing tells on a terminal what the phase is at.
func (v *Progress) Doing(text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.doing = text
}

// Note implements [client.Observer].
func (v *Progress) Note(text string) { v.p.Line(text) }

// Transfer implements [client.Observer].
func (v *Progress) Transfer(t client.Transfer) {
	v.mu.Lock()
	r, verb := &v.down, "receiving"
	if t.Upload {
		r, verb = &v.up, "sending"
	}
	first := r.started.IsZero()
	r.update(time.Now(), t)
	v.mu.Unlock()
	if first && !v.p.Terminal && t.Total > 0 {
		v.p.Line(fmt.Sprintf("%s %s, %s", verb, Count(t.Paths, "path"), Bytes(t.Total)))
	}
}

// Event implements [client.Observer].
func (v *Progress) Event(e *wire.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tails.Event(e)
	switch e.Type {
	case wire.EventQueued:
		v.queued(e.Position)
	case wire.EventPhase:
		if e.State == wire.StateBuilding || e.State.Ended() {
			v.place, v.toldPlace = 0, 0
		}
		if e.State == wire.StateBuilding && v.phase != "building" {
			v.phase, v.began = "building", time.Now()
		}
	case wire.EventStart:
		drv, ok := client.BuiltDerivation(e.Activity)
		if !ok || len(v.running) >= maxRunning {
			return
		}
		v.running[e.Activity.ID] = &activity{name: DrvName(drv.Name()), began: time.Now()}
		if !v.p.Terminal || v.Logs {
			v.p.Line("building " + string(drv))
		}
	case wire.EventStop:
		if _, ok := v.running[e.Activity.ID]; ok {
			delete(v.running, e.Activity.ID)
			v.built++
		}
	case wire.EventLog:
		v.log(e.Log)
	}
}

// queued takes note of a place in the queue. Who gets a slot at once has been
// in the queue too, for a moment, which is not worth a line.
func (v *Progress) queued(place int) {
	v.place = place
	if v.p.Terminal || place == 0 || place == v.toldPlace {
		return
	}
	time.AfterFunc(queueMoment, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.place == place && v.toldPlace != place && !v.closed {
			v.toldPlace = place
			v.p.Line(fmt.Sprintf("waiting in the builder's queue, position %d", place))
		}
	})
}

func (v *Progress) log(l *wire.Log) {
	a := v.running[l.Activity]
	switch {
	case l.Activity == 0 || a == nil:
		if l.Level == 0 && l.Activity == 0 {
			if len(v.errors) < maxErrors {
				v.errors = append(v.errors, string(l.Content()))
			}
		} else if l.Level <= levelNotice {
			v.p.Piece(messageOwner{}, "", l.Content(), l.More)
		}
	case v.Logs:
		prefix := a.name + "> "
		if l.PostBuild {
			prefix = a.name + " (post)> "
		}
		v.p.Piece(l.Activity, v.p.Paint("34", prefix), l.Content(), l.More)
	case v.p.Terminal:
		if piece := l.Content(); len(piece) > 0 {
			a.line = append(a.line[:0], piece[:min(len(piece), maxShown)]...)
			v.latest = l.Activity
		}
	}
}

// messageOwner owns the daemon's messages that come in pieces.
type messageOwner struct{}

// Failed returns the logs of the derivations that failed by what the builder's
// daemon said and by texts, and what else it said.
func (v *Progress) Failed(texts ...string) (logs []*client.Tail, messages []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	logs = v.tails.Mentioned(append(texts, v.errors...)...)
	return logs, v.errors
}

// status writes the status line.
func (v *Progress) status(now time.Time) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch {
	case v.place > 0:
		add("queue position %d", v.place)
	case v.doing != "":
		add("%s", v.doing)
	case v.phase != "":
		add("%s", v.phase)
	}
	if v.phase == "building" {
		add("%d running, %d done", len(v.running), v.built)
	}
	if t := v.up.text(now); t != "" {
		add("sending %s", t)
	}
	if t := v.down.text(now); t != "" {
		add("receiving %s", t)
	}
	if !v.began.IsZero() {
		add("%s", Span(now.Sub(v.began)))
	}
	if p := v.path(); p != "" {
		add("%s", p)
	}
	line := "[" + strings.Join(parts, " · ") + "]"
	if a := v.running[v.latest]; a != nil && v.phase == "building" {
		line += " " + a.name + "> " + strings.TrimRight(string(a.line), " \t\r")
	}
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		return r
	}, line)
}

// rate follows one direction's bytes.
type rate struct {
	started time.Time
	now     client.Transfer
	first   int64 // bytes at the start
}

func (r *rate) update(now time.Time, t client.Transfer) {
	if r.started.IsZero() {
		r.started, r.first = now, t.Done
	}
	r.now = t
}

// text tells how far a transfer is; "" when it has ended or not begun.
func (r *rate) text(now time.Time) string {
	if r.started.IsZero() || r.now.Done >= r.now.Total {
		return ""
	}
	s := fmt.Sprintf("%s of %s", Bytes(r.now.Done), Bytes(r.now.Total))
	if r.now.Wire > 0 {
		s += fmt.Sprintf(" (%s over the wire)", Bytes(r.now.Wire))
	}
	if d := now.Sub(r.started); d > time.Second && r.now.Done > r.first {
		perSecond := float64(r.now.Done-r.first) / d.Seconds()
		left := time.Duration(float64(r.now.Total-r.now.Done) / perSecond * float64(time.Second))
		s += fmt.Sprintf(", %s/s, %s left", Bytes(int64(perSecond)), Span(left))
	}
	return s
}

// DrvName is a derivation's name without its version and ".drv", as Nix writes
// it before log lines (libutil/names.cc, DrvName: the version begins at the
// first dash that no letter follows).
func DrvName(name string) string {
	name = strings.TrimSuffix(name, ".drv")
	for i := 0; i+1 < len(name); i++ {
		if c := name[i+1]; name[i] == '-' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return name[:i]
		}
	}
	return name
}

var _ client.Observer = (*Progress)(nil)
