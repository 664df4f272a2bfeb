package term

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/wire"
)

// redraw is how often the status line may change.
const redraw = 100 * time.Millisecond

// queueMoment is how long a place in the queue lasts to be worth a line.
const queueMoment = 300 * time.Millisecond

// aliveEvery is how often a silent build says that it goes on.
const aliveEvery = 30 * time.Second

// Nix's verbosity levels (libutil/error.hh) up to which its messages are shown.
const levelNotice = 2

// phaseBuilding is the phase in which builds run.
const phaseBuilding = "building"

// Progress shows how a build goes.
type Progress struct {
	p *Printer
	Config

	mu    sync.Mutex
	path  func() string
	phase string
	doing string
	began time.Time // of the phase
	up    rate
	down  rate
	place int       // in the queue
	turn  time.Time // when it may get a slot; zero: not known
	// toldPlace is the place that a line told of.
	toldPlace int
	closed    bool
	graph     *Graph
	builds    builds
	tails     client.Tails
	errors    []string // what the builder's daemon called errors
	nom       *nom     // shows the builds; nil: we do
	nomEnd    time.Duration

	// clock is the builder's latest time, heard when it came.
	clock, heard time.Time

	stop chan struct{}
	done chan struct{}
}

// Config says how progress is shown.
type Config struct {
	// Logs shows what builds print.
	Logs bool
	// Alive tells now and then that a silent build goes on, where lines are all
	// there is: who runs builds unattended ends those that say nothing.
	Alive bool
	// Now is the clock; nil is the machine's.
	Now func() time.Time
	// Nom is the program nix-output-monitor, which then shows what builds on a
	// terminal; "" is ourselves.
	Nom string
}

const maxErrors = 64

// NewProgress starts to show progress on p. Close it.
func NewProgress(p *Printer, cfg Config) *Progress {
	v := newProgress(p, cfg)
	switch {
	case p.Terminal:
		go v.animate()
	case cfg.Alive:
		go v.every(aliveEvery, nil, v.tellAlive)
	default:
		close(v.done)
	}
	return v
}

// animate draws until Close.
func (v *Progress) animate() {
	size, end := resized()
	defer end()
	v.every(redraw, size, v.draw)
}

// every calls f now and then, and when a signal comes, until Close.
func (v *Progress) every(d time.Duration, or <-chan os.Signal, f func()) {
	defer close(v.done)
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-v.stop:
			return
		case <-t.C:
		case <-or:
		}
		f()
	}
}

// tellAlive prints where the build is unless something else was printed lately.
func (v *Progress) tellAlive() {
	if !v.p.silent() {
		return
	}
	if text := v.alive(v.Now()); text != "" {
		v.p.Line(text)
		v.p.silent()
	}
}

// newProgress returns one that draws only when it is told to.
func newProgress(p *Printer, cfg Config) *Progress {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Progress{p: p, Config: cfg, nomEnd: nomEnd, path: func() string { return "" }, began: cfg.Now(), stop: make(chan struct{}), done: make(chan struct{})}
}

// resized returns a channel that tells when the terminal's size has changed, and
// what ends that.
func resized() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGWINCH)
	return c, func() { signal.Stop(c) }
}

// draw shows how it is now.
func (v *Progress) draw() {
	v.mu.Lock()
	nom := v.nom
	v.mu.Unlock()
	if nom != nil {
		if nom.alive() {
			return
		}
		v.endNom()
	}
	columns, rows := v.p.size()
	v.p.Block(v.frame(v.Now(), columns, rows))
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
	v.endNom()
	v.p.Block(nil)
	v.p.Flush()
}

// SetGraph names what the derivations are built for.
func (v *Progress) SetGraph(g *Graph) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.graph = g
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
	v.phase, v.doing, v.began = phase, "", v.Now()
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
	first := r.update(v.Now(), t)
	v.mu.Unlock()
	if first && !v.p.Terminal && t.Total > 0 {
		v.p.Line(fmt.Sprintf("%s %s, %s", verb, Count(t.Paths, "path"), Bytes(t.Total)))
	}
}

// Event implements [client.Observer].
func (v *Progress) Event(e *wire.Event) {
	v.event(e)
	if e.Type == wire.EventFinished {
		v.endNom()
	}
}

func (v *Progress) event(e *wire.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tails.Event(e)
	if e.Time.After(v.clock) {
		v.clock, v.heard = e.Time, v.Now()
	}
	switch e.Type {
	case wire.EventQueued:
		v.queued(e)
	case wire.EventPhase:
		if !e.State.Ended() {
			v.builds.begin()
		}
		if e.State == wire.StateBuilding || e.State.Ended() {
			v.place, v.toldPlace = 0, 0
		}
		if e.State == wire.StateBuilding && v.phase != phaseBuilding {
			v.phase, v.doing, v.began = phaseBuilding, "", v.Now()
		}
	case wire.EventStart:
		if j := v.builds.start(e.Activity, e.Time); j != nil {
			v.startNom()
			if !v.p.Terminal || v.Logs && v.nom == nil {
				v.p.Line("building " + string(j.drv))
			}
		}
	case wire.EventStop:
		v.builds.stop(e.Activity.ID, e.Time)
	case wire.EventResult:
		v.builds.result(e.Activity)
	case wire.EventLog:
		v.log(e.Log)
	}
	if v.nom != nil {
		v.nom.event(e, v.Logs)
	}
}

// builderTime is the builder's time. It is not this machine's, and events may
// come long after what they tell of.
func (v *Progress) builderTime(now time.Time) time.Time { return v.clock.Add(now.Sub(v.heard)) }

// queued takes note of a place in the queue. Who gets a slot at once has been
// in the queue too, for a moment, which is not worth a line.
func (v *Progress) queued(e *wire.Event) {
	place := e.Position
	v.place, v.turn = place, time.Time{}
	if wait := e.Wait(); wait > 0 {
		v.turn = v.Now().Add(wait)
	}
	if v.p.Terminal || place == 0 || place == v.toldPlace {
		return
	}
	time.AfterFunc(queueMoment, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.place == place && v.toldPlace != place && !v.closed {
			v.toldPlace = place
			v.p.Line(fmt.Sprintf("waiting in the builder's queue, position %d%s", place, v.waitText(v.Now())))
		}
	})
}

func (v *Progress) log(l *wire.Log) {
	j := v.builds.running[l.Activity]
	switch {
	case l.Activity == 0 || j == nil:
		if l.Level == 0 && l.Activity == 0 {
			text := string(l.Content())
			v.builds.message(text)
			if len(v.errors) < maxErrors {
				v.errors = append(v.errors, text)
			}
		} else if l.Level <= levelNotice && v.nom == nil {
			v.p.Piece(messageOwner{}, "", l.Content(), l.More)
		}
	case v.Logs:
		if v.nom != nil {
			return
		}
		prefix := DrvName(j.drv.Name()) + "> "
		if l.PostBuild {
			prefix = DrvName(j.drv.Name()) + " (post)> "
		}
		prefix = v.p.Paint(Blue, prefix)
		for line, more := range l.Lines() {
			v.p.Piece(l.Activity, prefix, line, more)
		}
	case v.p.Terminal:
		for line := range l.Lines() {
			if len(line) > 0 {
				j.line = append(j.line[:0], line[:min(len(line), maxShown)]...)
			}
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
