package term

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// nomChunk is how much is handed to nom at once, nomQueue how many such
	// pieces may wait for it.
	nomChunk, nomQueue = 64 << 10, 64
	// nomEvery is how long a piece waits to be filled.
	nomEvery = 50 * time.Millisecond
	// nomEnd bounds how long nom may take for its last picture.
	nomEnd = 3 * time.Second
	// maxOpen bounds the lines of which only beginnings have come.
	maxOpen = 64
)

// nom is a nix-output-monitor that shows the builds. It is fed Nix's own JSON log
// (libutil/logging.cc, JSONLogger) through a bounded queue: one that is too slow
// misses log lines, and one that is stuck is ended, but it holds nobody up.
type nom struct {
	cmd    *exec.Cmd
	pieces chan []byte
	gone   chan struct{} // closed when it has ended

	once     sync.Once // for end
	patience time.Duration

	mu     sync.Mutex
	buf    bytes.Buffer
	open   map[uint64][]byte // beginnings of lines, by activity
	ended  bool
	failed bool // it did not take what it needs to know
	ticker *time.Ticker
}

// newNom starts program, which writes to screen. At its end it has as long as
// patience for its last picture.
func newNom(program string, screen io.Writer, patience time.Duration) (*nom, error) {
	n := &nom{patience: patience, cmd: exec.Command(program, "--json"), pieces: make(chan []byte, nomQueue), gone: make(chan struct{}), open: make(map[uint64][]byte)}
	// It runs nix; tickets are none of its business.
	n.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "DRV_THRU_") })
	n.cmd.Stdout, n.cmd.Stderr = screen, screen
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the terminal's Ctrl-C is for us
	in, err := n.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	n.ticker = time.NewTicker(nomEvery)
	written := make(chan struct{})
	go func() {
		defer close(written)
		defer in.Close()
		var err error
		for piece := range n.pieces {
			if err == nil {
				_, err = in.Write(piece) // it has ended if this fails
			}
		}
	}()
	go func() {
		defer close(n.gone)
		_ = n.cmd.Wait() // its exit code says whether builds failed, which is known
	}()
	go func() {
		for {
			select {
			case <-written:
				return
			case <-n.ticker.C:
				n.mu.Lock()
				n.send()
				n.mu.Unlock()
			}
		}
	}()
	return n, nil
}

// send hands on what is waiting. n.mu is held.
func (n *nom) send() {
	// Nobody else sends, so there is room for what there was room for.
	if n.buf.Len() == 0 || n.ended || len(n.pieces) == cap(n.pieces) {
		return
	}
	n.pieces <- bytes.Clone(n.buf.Bytes())
	n.buf.Reset()
}

// alive reports whether it shows what it is told.
func (n *nom) alive() bool {
	select {
	case <-n.gone:
		return false
	default:
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.failed
}

// end lets it draw its last picture, and returns when it is gone.
func (n *nom) end() { n.once.Do(n.finish) }

func (n *nom) finish() {
	n.mu.Lock()
	n.ticker.Stop()
	n.send()
	full := n.buf.Len() > 0
	n.ended = true
	close(n.pieces)
	n.mu.Unlock()
	if !full {
		select {
		case <-n.gone:
			return
		case <-time.After(n.patience):
		}
	}
	_ = n.cmd.Process.Kill() // it has just ended if this fails
	<-n.gone
}

// nomLine is a line of Nix's JSON log.
type nomLine struct {
	Action string  `json:"action"` // start, stop, result or msg
	ID     *uint64 `json:"id,omitempty"`
	Level  *int    `json:"level,omitempty"`
	Type   *uint64 `json:"type,omitempty"`
	Text   *string `json:"text,omitempty"`
	Msg    *string `json:"msg,omitempty"`
	Parent *uint64 `json:"parent,omitempty"`
	Fields []any   `json:"fields,omitempty"`
}

// add writes a line. What may be missed is dropped when too much is waiting.
func (n *nom) add(l *nomLine, mayMiss bool) {
	if n.ended || n.failed {
		return
	}
	if n.buf.Len() >= nomChunk {
		n.send()
	}
	switch size := n.buf.Len(); {
	case size >= nomChunk && mayMiss:
		return
	case size >= 16*nomChunk:
		n.failed = true
		return
	}
	text, err := json.Marshal(l)
	if err != nil {
		return // texts and numbers always are JSON
	}
	n.buf.WriteString("@nix ")
	n.buf.Write(text)
	n.buf.WriteByte('\n')
}

// line shows a line of ours.
func (n *nom) line(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	// At this level nom shows a message and does not count it as an error.
	notice, text := levelNotice, Safe(text)
	n.add(&nomLine{Action: "msg", Level: &notice, Msg: &text}, false)
}

// event shows what an event tells; logs includes what builds print.
func (n *nom) event(e *wire.Event, logs bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := e.Activity
	switch e.Type {
	case wire.EventStart:
		if daemon.ActivityType(a.Type) > daemon.ActivityBuildWaiting {
			return // nom refuses types that it does not know
		}
		text := Safe(a.Text)
		n.add(&nomLine{Action: "start", ID: &a.ID, Level: nixLevel(a.Level), Type: &a.Type, Text: &text, Parent: &a.Parent, Fields: nomFields(a.Fields)}, false)
	case wire.EventStop:
		delete(n.open, a.ID)
		n.add(&nomLine{Action: "stop", ID: &a.ID}, false)
	case wire.EventResult:
		if daemon.ResultType(a.Type) <= daemon.ResultPostBuildLogLine {
			n.add(&nomLine{Action: "result", ID: &a.ID, Type: &a.Type, Fields: nomFields(a.Fields)}, true)
		}
	case wire.EventLog:
		n.log(e.Log, logs)
	}
}

func (n *nom) log(l *wire.Log, logs bool) {
	if l.Activity != 0 && !logs {
		return
	}
	for line, more := range l.Lines() {
		n.piece(l, line, more)
	}
}

// piece passes on a line of l, once it has ended.
func (n *nom) piece(l *wire.Log, line []byte, more bool) {
	whole := append(n.open[l.Activity], line...)
	delete(n.open, l.Activity)
	if more && len(whole) < wire.MaxLogPiece && len(n.open) < maxOpen {
		n.open[l.Activity] = whole
		return
	}
	text := Safe(string(whole))
	if l.Activity == 0 {
		level := nixLevel(l.Level)
		n.add(&nomLine{Action: "msg", Level: level, Msg: &text}, false)
		return
	}
	kind := uint64(daemon.ResultBuildLogLine)
	if l.PostBuild {
		kind = uint64(daemon.ResultPostBuildLogLine)
	}
	n.add(&nomLine{Action: "result", ID: &l.Activity, Type: &kind, Fields: []any{text}}, true)
}

// nixLevel keeps a builder's number within Nix's levels.
func nixLevel(level int) *int {
	level = min(max(level, 0), 7)
	return &level
}

func nomFields(fields []wire.Field) []any {
	out := make([]any, len(fields))
	for i, f := range fields {
		if out[i] = any(f.Int); f.IsText {
			out[i] = Safe(f.Str)
		}
	}
	return out
}

// startNom lets nom show the builds from now on, if there is one. v.mu is held.
func (v *Progress) startNom() {
	if v.Nom == "" || v.nom != nil || v.closed || !v.p.Terminal {
		return
	}
	n, err := newNom(v.Nom, v.p.w, v.nomEnd)
	v.Nom = "" // one is enough
	if err != nil {
		v.p.Line("cannot start nom: " + err.Error())
		return
	}
	v.nom = n
	v.p.Divert(n.line)
}

// endNom gives the screen back to us.
func (v *Progress) endNom() {
	v.mu.Lock()
	n := v.nom
	v.mu.Unlock()
	if n == nil {
		return
	}
	n.end()
	v.mu.Lock()
	v.nom = nil
	v.mu.Unlock()
	v.p.Divert(nil)
}
