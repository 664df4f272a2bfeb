package term

import (
	"io"
	"os"
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// Screen is a whole terminal whose text is replaced again and again. It is the
// terminal's other screen, so that Close brings back what was there before.
// A nil Screen is what NewScreen returns where there is no terminal; Close it
// all the same.
type Screen struct {
	w       io.Writer
	size    func() (columns, rows int)
	unicode bool
	open    bool
}

const (
	otherScreen = ansi.SetModeAltScreenSaveCursor + ansi.HideCursor
	firstScreen = ansi.ShowCursor + ansi.ResetModeAltScreenSaveCursor
)

// NewScreen returns the screen of w, nil unless that is a terminal.
func NewScreen(w io.Writer, env func(string) string) *Screen {
	f, ok := terminal(w, env)
	if !ok {
		return nil
	}
	return &Screen{w: w, size: sizeOf(f), unicode: unicodeLocale(env)}
}

// Size returns how much room there is.
func (s *Screen) Size() (columns, rows int) { return s.size() }

// Resized returns a channel that tells when Size has changed, and what ends that.
func (s *Screen) Resized() (<-chan os.Signal, func()) {
	if s == nil {
		return nil, func() {}
	}
	return resized()
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
	b.WriteString(ansi.CursorHomePosition)
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > rows {
		lines = append(lines[:rows-1], s.more())
	}
	for i, line := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		// The last column stays free: many terminals move on when it is written.
		b.WriteString(fit(oneLine(Safe(line)), columns-1, s.unicode) + ansi.EraseLineRight)
	}
	b.WriteString(ansi.EraseScreenBelow)
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

func (s *Screen) more() string {
	if s.unicode {
		return drawn.more
	}
	return typed.more
}
