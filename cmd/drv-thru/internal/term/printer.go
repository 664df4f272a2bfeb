package term

import (
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

const (
	// flushAfter is how long written lines may wait for more: short enough to
	// look live, long enough that 100,000 lines a second are few writes.
	flushAfter = 40 * time.Millisecond
	// flushSize is when they wait no longer.
	flushSize = 64 << 10
	// maxHeld bounds the lines that wait for another's end.
	maxHeld = 1 << 20

	clearLine = "\r\x1b[K"
)

// Printer writes lines and, on a terminal, a status line below them. Its
// methods may be called at any time from anywhere. Close it to leave the
// terminal tidy.
type Printer struct {
	w io.Writer
	// Terminal tells that w is one.
	Terminal bool
	// Colour tells that colours are welcome.
	Colour bool
	width  func() int

	mu     sync.Mutex
	buf    []byte
	timer  *time.Timer // not nil: a flush will come
	status string
	shown  bool   // the status line is on the screen
	open   any    // who has written the beginning of a line; nil: nobody
	held   []byte // whole lines of others, for after it
	err    error  // the first failed write; nothing is written after it
	closed bool
}

// New returns a printer on w. env is the process's environment: NO_COLOR
// (no-color.org) and TERM=dumb are heeded.
func New(w io.Writer, env func(string) string) *Printer {
	p := &Printer{w: w, width: func() int { return 80 }}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && env("TERM") != "dumb" {
		p.Terminal = true
		p.Colour = env("NO_COLOR") == ""
		p.width = func() int {
			if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 0 {
				return n
			}
			return 80
		}
	}
	return p
}

// Line prints a line of our own.
func (p *Printer) Line(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line(text)
}

func (p *Printer) line(text string) {
	b := append(p.safe(nil, text), '\n')
	if p.open != nil && len(p.held)+len(b) <= maxHeld {
		p.held = append(p.held, b...)
		return
	}
	p.breakLine()
	p.write(b)
}

// Piece prints part of a line that owner prints, with a prefix before its first
// part. Whole lines of others wait until it ends; a piece of another owner, or
// too many lines, break it.
func (p *Printer) Piece(owner any, prefix string, piece []byte, more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open != owner {
		p.breakLine()
		p.write([]byte(prefix))
	}
	if p.Terminal {
		piece = p.safe(nil, piece)
	}
	p.write(piece)
	p.open = owner
	if !more {
		p.breakLine()
	}
}

// breakLine ends an open line and lets out what waited for that.
func (p *Printer) breakLine() {
	if p.open == nil {
		return
	}
	p.open = nil
	p.write([]byte{'\n'})
	p.write(p.held)
	p.held = p.held[:0]
}

func (p *Printer) safe(dst []byte, text any) []byte {
	switch t := text.(type) {
	case string:
		if !p.Terminal {
			return append(dst, t...)
		}
		return AppendSafe(dst, t)
	case []byte:
		return AppendSafe(dst, t)
	}
	return dst
}

// Status replaces the status line; "" removes it. Elsewhere than on a terminal
// nothing happens.
func (p *Printer) Status(text string) {
	if !p.Terminal {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	text = fit(plain(text), p.width()-1)
	if text == p.status && p.shown == (text != "") {
		return
	}
	p.status = text
	p.later()
}

// write appends to the buffer.
func (p *Printer) write(b []byte) {
	if p.err != nil || len(b) == 0 {
		return
	}
	p.buf = append(p.buf, b...)
	if len(p.buf) >= flushSize {
		p.flush()
		return
	}
	p.later()
}

// later makes sure that a flush comes.
func (p *Printer) later() {
	switch {
	case p.closed:
		p.flush()
	case p.timer == nil:
		p.timer = time.AfterFunc(flushAfter, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.flush()
		})
	}
}

// flush writes the buffer out, with the status line moved below it.
func (p *Printer) flush() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	var out []byte
	if p.shown {
		out = append(out, clearLine...)
		p.shown = false
	}
	out = append(out, p.buf...)
	// Below an unfinished line there is no place for a status.
	if p.status != "" && p.open == nil {
		out = append(out, p.status...)
		p.shown = true
	}
	if cap(p.buf) > 4*flushSize {
		p.buf = nil
	}
	p.buf = p.buf[:0]
	if p.err == nil && len(out) > 0 {
		_, p.err = p.w.Write(out)
	}
}

// Flush writes out what is waiting.
func (p *Printer) Flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flush()
}

// Close removes the status line and writes out what is waiting. Lines that come
// later are written at once.
func (p *Printer) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.breakLine()
	p.status = ""
	p.flush()
	p.closed = true
}

// Paint returns text in an SGR style ("1;31" is bold red) where colours are welcome.
func (p *Printer) Paint(sgr, text string) string {
	if !p.Colour || text == "" {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}
