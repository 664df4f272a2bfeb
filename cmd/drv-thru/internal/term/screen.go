package term

import (
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// Screen is a whole terminal whose text is replaced again and again. It is the
// terminal's other screen, so that Close brings back what was there before.
// A nil Screen is what NewScreen returns where there is no terminal; Close it
// all the same.
type Screen struct {
	w    io.Writer
	size func() (columns, rows int)
	open bool
}

const (
	otherScreen = "\x1b[?1049h\x1b[?25l" // and no cursor
	firstScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	clearRest   = "\x1b[K" // of the line
	clearBelow  = "\x1b[J"
)

// NewScreen returns the screen of w, nil unless that is a terminal.
func NewScreen(w io.Writer, env func(string) string) *Screen {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || env("TERM") == "dumb" {
		return nil
	}
	return &Screen{w: w, size: func() (int, int) {
		if columns, rows, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 && rows > 0 {
			return columns, rows
		}
		return 80, 24
	}}
}

// Draw shows text in place of what was shown. Lines that are too long are cut,
// and so is what does not fit below the others.
func (s *Screen) Draw(text string) error {
	columns, rows := s.size()
	var b strings.Builder
	if !s.open {
		s.open = true
		b.WriteString(otherScreen)
	}
	b.WriteString(home)
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > rows {
		lines = append(lines[:rows-1], "…")
	}
	for i, line := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		// The last column stays free: many terminals move on when it is written.
		b.WriteString(fit(plain(line), columns-1) + clearRest)
	}
	b.WriteString(clearBelow)
	_, err := io.WriteString(s.w, b.String())
	return err
}

// Close brings back the terminal's first screen.
func (s *Screen) Close() {
	if s != nil && s.open {
		s.open = false
		_, _ = io.WriteString(s.w, firstScreen) // the terminal is gone if this fails
	}
}
