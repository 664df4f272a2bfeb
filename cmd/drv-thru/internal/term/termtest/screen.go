// Package termtest shows tests what a user would see: programs write to a real
// pseudo-terminal, and an emulator of a terminal reads what they wrote.
package termtest

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
)

var update = flag.Bool("update-screens", false, "write the golden screens anew")

// patience is how long the emulator may take to read what was written.
const patience = time.Minute

// mark is an operating system command (OSC) that no terminal knows.
const mark = 7774

// Screen is a terminal.
type Screen struct {
	t     *testing.T
	tty   *os.File
	vt    *vt.Emulator
	marks chan struct{}
	done  chan struct{}
}

// New returns a terminal of a size. It is closed at the test's end.
func New(t *testing.T, columns, rows int) *Screen {
	t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	s := &Screen{t: t, tty: tty, vt: vt.NewEmulator(columns, rows), marks: make(chan struct{}, 1), done: make(chan struct{})}
	s.vt.RegisterOscHandler(mark, func([]byte) bool {
		s.marks <- struct{}{}
		return true
	})
	s.setSize(columns, rows)
	go func() {
		defer close(s.done)
		buf := make([]byte, 64<<10)
		for {
			n, err := master.Read(buf)
			if _, werr := s.vt.Write(buf[:n]); werr != nil || err != nil {
				return // the terminal was closed
			}
		}
	}()
	t.Cleanup(func() {
		tty.Close()
		<-s.done
		master.Close()
	})
	return s
}

// TTY is what programs write to. It stays open.
func (s *Screen) TTY() *os.File { return s.tty }

// Resize changes the size. No program reads or writes while it does.
func (s *Screen) Resize(columns, rows int) {
	s.t.Helper()
	s.settle()
	s.setSize(columns, rows)
	s.vt.Resize(columns, rows)
}

func (s *Screen) setSize(columns, rows int) {
	s.t.Helper()
	if err := pty.Setsize(s.tty, &pty.Winsize{Cols: uint16(columns), Rows: uint16(rows)}); err != nil {
		s.t.Fatal(err)
	}
}

// settle waits until the emulator has read everything.
func (s *Screen) settle() {
	s.t.Helper()
	if _, err := s.tty.WriteString("\x1b]7774;\a"); err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-s.marks:
	case <-time.After(patience):
		s.t.Fatal("the terminal's emulator is stuck")
	}
}

// Text is what the screen shows, without colours.
func (s *Screen) Text() string {
	s.t.Helper()
	s.settle()
	return trim(s.vt.String())
}

// Painted is what the screen shows, with SGR sequences whose ESC is written "␛".
func (s *Screen) Painted() string {
	s.t.Helper()
	s.settle()
	return trim(strings.ReplaceAll(s.vt.Render(), "\x1b", "␛"))
}

// Cursor tells whether the cursor can be seen, and whether the screen is the
// terminal's other one.
func (s *Screen) Cursor() (seen, other bool) {
	s.t.Helper()
	s.settle()
	return !s.vt.CursorHidden(), s.vt.IsAltScreen()
}

func trim(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r", ""), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n") + "\n"
}

// Golden compares text with the file testdata/screens/name.
func Golden(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join("testdata", "screens", name)
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text {
		t.Errorf("%s differs (go test -update-screens writes it anew):\n%s\nwant:\n%s", file, text, want)
	}
}
