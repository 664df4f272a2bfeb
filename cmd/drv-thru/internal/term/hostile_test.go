package term

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/wire"
)

// moves are what we send to a terminal ourselves, besides colours: to the first
// of the rows below the log, and away with what is left of a row or of all.
var moves = regexp.MustCompile("\x1b\\[[0-9;:]*m|\r\x1b\\[(K|\\d*A)|\x1b\\[[KJ]|\r\n")

// A terminal that gets plain lines, by --no-nom or TERM=dumb, is one all the same.
func TestHostileLogOnPlainTerminal(t *testing.T) {
	for _, kind := range []string{"", "dumb"} {
		master, tty, err := pty.Open()
		if err != nil {
			t.Fatal(err)
		}
		p := New(tty, func(name string) string { return map[string]string{"TERM": kind}[name] })
		p.Terminal = false
		p.Piece(1, "x> ", []byte("a\x1b[2J\x1b]0;title\ab\x1b[31mc"), false)
		p.Close()
		want := "x> ab\x1b[31mc\x1b[0m\r\n"
		if kind == "dumb" {
			want = "x> abc\r\n"
		}
		got := make([]byte, 100)
		n, err := master.Read(got)
		if err != nil || string(got[:n]) != want {
			t.Errorf("TERM=%s: the terminal gets %q, %v; want %q", kind, got[:n], err, want)
		}
		_, _ = tty.Close(), master.Close()
	}
}

// Whatever a builder says of itself and of its builds, it does not steer the
// terminal.
func TestHostileEvents(t *testing.T) {
	for _, logs := range []bool{false, true} {
		master, tty, err := pty.Open()
		if err != nil {
			t.Fatal(err)
		}
		if err := pty.Setsize(tty, &pty.Winsize{Cols: 100, Rows: 40}); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(&out, master) // EIO tells that nobody writes any more
		}()
		now := time.Unix(1e9, 0)
		p := New(tty, func(name string) string { return map[string]string{"LANG": "C.UTF-8"}[name] })
		v := newProgress(p, Config{Logs: logs, Now: func() time.Time { return now }})
		close(v.done)
		show := func() {
			v.draw()
			p.Flush()
		}
		const drv = "/nix/store/00000000000000000000000000000000-x.drv"
		for i, nasty := range []string{
			"\x1b[2Jcleared", "\x1b[1;1Hmoved", "\x1b]0;titled\x07", "\x1b]52;c;cGFzdGVk\x07pasted", "\x1bP+q544e\x1b\\asked", "\x1b[6nreported",
			"\x1bcreset", "\x1b[?1049halternate", "\u009b2Jeight-bit", "\a\bback", "\rover", "\x1b", "\x1b[3Jscrollback", "\x1b(0drawn", "\x0e\x0fshifted", "\v\fdown", "a\nb\tc", "\x1b[31munclosed",
		} {
			id := uint64(i + 10)
			v.SetPath(func() string { return nasty })
			v.Phase(nasty)
			v.Doing(nasty)
			v.Note(nasty)
			show()
			v.Event(&wire.Event{Type: wire.EventQueued, Position: -i, WaitSeconds: 1e300})
			v.Event(&wire.Event{Type: wire.EventQueued, Position: 1 << 40, WaitSeconds: -1})
			show()
			v.Transfer(client.Transfer{Done: -5, Total: int64(i) - 9})
			v.Event(&wire.Event{Type: wire.EventPhase, State: wire.State(nasty)})
			v.Event(&wire.Event{Type: wire.EventPhase, State: wire.StateBuilding, Time: now.Add(time.Duration(i-9) * 1e6 * time.Hour)})
			v.Event(&wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: 2, Type: 104, Text: nasty}})
			v.Event(&wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: 3, Type: 103, Text: nasty}})
			most := ^uint64(0)
			for _, fields := range [][]wire.Field{nil, {{Int: most}, {Int: 1}}, {{Int: 1}, {Int: most}, {Int: most}, {Int: most}}, {{IsText: true, Str: nasty}}} {
				v.Event(&wire.Event{Type: wire.EventResult, Activity: &wire.Activity{ID: 2, Type: 105, Fields: fields}})
				v.Event(&wire.Event{Type: wire.EventResult, Activity: &wire.Activity{ID: 3, Type: 105, Fields: fields}})
				show()
			}
			v.Event(&wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: id, Type: 105, Fields: []wire.Field{{IsText: true, Str: nasty}}}})
			v.Event(&wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: id, Type: 105, Fields: []wire.Field{{IsText: true, Str: drv}, {IsText: true, Str: nasty}}}})
			v.Event(&wire.Event{Type: wire.EventResult, Activity: &wire.Activity{ID: id, Type: 104, Fields: []wire.Field{{IsText: true, Str: nasty}}}})
			show()
			v.Event(&wire.Event{Type: wire.EventLog, Log: &wire.Log{Activity: id, Text: nasty}})
			v.Event(&wire.Event{Type: wire.EventLog, Log: &wire.Log{Activity: id, Bytes: []byte("\xff" + nasty), PostBuild: true}})
			v.Event(&wire.Event{Type: wire.EventLog, Log: &wire.Log{Activity: id, Text: nasty[:1], More: true}})
			show()
			v.Event(&wire.Event{Type: wire.EventLog, Log: &wire.Log{Activity: id, Text: nasty[1:]}})
			v.Event(&wire.Event{Type: wire.EventLog, Log: &wire.Log{Activity: 999, Text: nasty, Level: i - 5}})
			show()
			v.Event(&wire.Event{Type: wire.EventLog, Log: &wire.Log{Text: nasty + " failed " + drv + nasty}})
			v.Event(&wire.Event{Type: wire.EventStop, Activity: &wire.Activity{ID: id}})
			now = now.Add(time.Second)
			show()
		}
		v.Close()
		p.Close()
		tty.Close()
		<-read
		master.Close()
		text := moves.ReplaceAllString(out.String(), "\n")
		for i, r := range text {
			if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r <= 0x9f {
				t.Fatalf("the terminal gets %q", text[max(0, i-30):min(len(text), i+30)])
			}
		}
		for _, want := range []string{"cleared", "eight-bit", "✘"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not shown", want)
			}
		}
	}
}
