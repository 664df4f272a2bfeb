package term

import (
	"bytes"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/charmbracelet/x/ansi"
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
)

// Printer writes lines and, on a terminal, a block of rows below them that may
// change. Its methods may be called at any time from anywhere. Close it to leave
// the terminal tidy.
type Printer struct {
	w io.Writer
	// Terminal tells that w is one, on which rows may be drawn.
	Terminal bool
	// Colour tells that colours are welcome.
	Colour bool
	// Unicode tells that more than ASCII can be shown.
	Unicode bool
	tty     bool // w is a terminal, whatever Terminal says
	size    func() (columns, rows int)
	delay   time.Duration // of a flush

	mu     sync.Mutex
	buf    []byte
	timer  *time.Timer // not nil: a flush will come
	block  []string
	shown  []string // the rows that are on the screen, below everything else
	open   any      // who has written the beginning of a line; nil: nobody
	held   []byte   // whole lines of others, for after it
	divert func(line string)
	wrote  bool  // since somebody asked
	err    error // the first failed write; nothing is written after it
	failed func(error)
	closed bool
}

// New returns a printer on w. env is the process's environment: NO_COLOR
// (no-color.org), TERM=dumb and the locale are heeded.
func New(w io.Writer, env func(string) string) *Printer {
	p := &Printer{w: w, size: fallbackSize, delay: flushAfter, Unicode: unicodeLocale(env)}
	_, p.tty = tty(w)
	if f, ok := terminal(w, env); ok {
		p.Terminal = true
		p.Colour = env("NO_COLOR") == ""
		p.size = sizeOf(f)
	}
	return p
}

// terminal returns w as a terminal whose cursor can be moved.
func terminal(w io.Writer, env func(string) string) (*os.File, bool) {
	f, ok := tty(w)
	return f, ok && env("TERM") != "dumb"
}

func tty(w io.Writer) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

func sizeOf(f *os.File) func() (columns, rows int) {
	return func() (int, int) {
		if columns, rows, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 && rows > 0 {
			return columns, rows
		}
		return fallbackSize()
	}
}

func fallbackSize() (columns, rows int) { return 80, 24 }

// Line prints a line of our own.
func (p *Printer) Line(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line(text)
}

func (p *Printer) line(text string) {
	if p.divert != nil {
		p.divert(text)
		return
	}
	b := append(p.safe([]byte(text)), '\n')
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
	p.write(p.safe(piece))
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

// safe returns a copy of what a terminal may get of text, and of everything elsewhere.
func (p *Printer) safe(text []byte) []byte {
	if !p.Terminal && !p.tty {
		return bytes.Clone(text)
	}
	if !p.Colour {
		return plain(text)
	}
	return Safe(text)
}

// Block replaces the rows below the lines; none removes them. Rows that are too
// long are cut, and the first ones left out if there are more than fit. Elsewhere
// than on a terminal nothing happens.
func (p *Printer) Block(rows []string) {
	if !p.Terminal {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	columns, height := p.size()
	// A line above them stays in sight.
	if room := max(height-1, 1); len(rows) > room {
		rows = rows[len(rows)-room:]
	}
	cut := make([]string, len(rows))
	for i, r := range rows {
		// The last column stays free: many terminals move on when it is written.
		cut[i] = fit(oneLine(Safe(r)), columns-1, p.Unicode)
	}
	if slices.Equal(cut, p.block) && (p.open != nil || len(p.shown) == len(cut)) {
		return
	}
	p.block = cut
	p.later()
}

// silent reports whether nothing was written since it was last asked.
func (p *Printer) silent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	silent := !p.wrote
	p.wrote = false
	return silent
}

// Divert hands whole lines to fn from now on instead of writing them; nil ends
// that. The rows below the lines are taken away before.
func (p *Printer) Divert(fn func(line string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fn != nil {
		p.breakLine()
		p.block = nil
		p.flush()
	}
	p.divert = fn
}

// write appends to the buffer.
func (p *Printer) write(b []byte) {
	if p.err != nil || len(b) == 0 {
		return
	}
	p.wrote = true
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
		p.timer = time.AfterFunc(p.delay, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.flush()
		})
	}
}

// flush writes the buffer out, with the block moved below it.
func (p *Printer) flush() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	var out []byte
	out = p.toBlock(out)
	if len(p.buf) > 0 || p.open != nil {
		if len(p.shown) > 0 {
			out = append(out, ansi.EraseScreenBelow...)
			p.shown = nil
		}
		out = append(out, p.buf...)
	}
	// Below an unfinished line there is no place for a block.
	if p.open == nil {
		for i, row := range p.block {
			if i > 0 {
				out = append(out, '\n')
			}
			out = append(append(out, row...), ansi.EraseLineRight...)
		}
		if len(p.shown) > len(p.block) {
			out = append(out, ansi.EraseScreenBelow...)
		}
		p.shown = p.block
	}
	if cap(p.buf) > 4*flushSize {
		p.buf = nil
	}
	p.buf = p.buf[:0]
	if p.err == nil && len(out) > 0 {
		if _, p.err = p.w.Write(out); p.err != nil && p.failed != nil {
			go p.failed(p.err)
		}
	}
}

// toBlock moves the cursor to the beginning of the block that is shown. A
// terminal that was made narrower has broken its rows into several.
func (p *Printer) toBlock(out []byte) []byte {
	if len(p.shown) == 0 {
		return out
	}
	columns, height := p.size()
	up := -1
	for _, row := range p.shown {
		up += max(1, (ansi.StringWidth(row)+columns-1)/columns)
	}
	out = append(out, '\r')
	if up = min(up, height-1); up > 0 {
		return append(out, ansi.CursorUp(up)...)
	}
	return append(out, ansi.EraseLineRight...)
}

// Flush writes out what is waiting.
func (p *Printer) Flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flush()
}

// Close removes the block and writes out what is waiting. Lines that come
// later are written at once.
func (p *Printer) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.breakLine()
	p.block = nil
	p.flush()
	p.closed = true
}

// OnError has fn called, once, if what is printed cannot be written.
func (p *Printer) OnError(fn func(error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = fn
}

// Err returns why what was printed could not be written.
func (p *Printer) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Paint returns text in an SGR style ("1;31" is bold red) where colours are welcome.
func (p *Printer) Paint(sgr, text string) string {
	if !p.Colour || text == "" {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}
