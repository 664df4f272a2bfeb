package term

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

func TestSafe(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext\n":                          "plain\ttext\n",
		"\x1b[1;31mred\x1b[0m":                   "\x1b[1;31mred\x1b[0m\x1b[0m",
		"\x1b[31munclosed":                       "\x1b[31munclosed\x1b[0m",
		"\x1b[2J\x1b[Hcleared":                   "cleared",
		"\x1b[?25lhidden":                        "hidden",
		"\x1b[>4;2mkeys":                         "keys",
		"\x1b]0;title\x07text":                   "text",
		"\x1b]8;;http://x\x1b\\link\x1b]8;;\x07": "link",
		"\x1bP1$r\x1b\\x":                        "x",
		"\x1b]never ended":                       "",
		"\x1b]cut\nnext":                         "\nnext",
		"\x1bc reset":                            " reset",
		"\x1b(0graphics":                         "graphics",
		"bell\x07 back\x08space\rreturn":         "bell backspacereturn",
		"del\x7f nul\x00":                        "del nul",
		"c1 \u009b2J \u0085":                     "c1 2J ",
		"raw \x9b2J":                             "raw \ufffd2J",
		"umlaut ä, 漢字, 🙂":                        "umlaut ä, 漢字, 🙂",
		"\x1b":                                   "",
		"\x1b[":                                  "",
		"\x1b[3":                                 "",
		"":                                       "",
	} {
		if got := Safe(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestWriteJSON(t *testing.T) {
	in := []string{"\x1b[31m \x7f \u0080 \u009b2J \u009f\u00a0", "umlaut ä, 漢字, 🙂"}
	var text bytes.Buffer
	if err := WriteJSON(&text, in); err != nil {
		t.Fatal(err)
	}
	const want = `["\u001b[31m \u007f \u0080 \u009b2J \u009f` + "\u00a0" + `","umlaut ä, 漢字, 🙂"]` + "\n"
	if text.String() != want {
		t.Errorf("%q, want %q", text.String(), want)
	}
	var out []string
	if err := json.Unmarshal(text.Bytes(), &out); err != nil || !slices.Equal(out, in) {
		t.Errorf("%q, %v", out, err)
	}
}

func FuzzSafe(f *testing.F) {
	f.Add("\x1b[1;31mred\x1b[0m")
	f.Add("\x1b]0;t\x1b\\\x1b[2J\x9b\xff")
	f.Fuzz(func(t *testing.T, in string) {
		out := Safe(in)
		if !utf8.ValidString(out) {
			t.Fatalf("%q: not UTF-8: %q", in, out)
		}
		for rest := out; rest != ""; {
			if rest[0] == esc {
				n, sgr := escape(rest)
				if !sgr {
					t.Fatalf("%q: %q holds an escape sequence", in, out)
				}
				rest = rest[n:]
				continue
			}
			r, n := utf8.DecodeRuneInString(rest)
			if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
				t.Fatalf("%q: %q holds %U", in, out, r)
			}
			rest = rest[n:]
		}
		if again := Safe(out); strings.TrimRight(again, "\x1b[0m") != strings.TrimRight(out, "\x1b[0m") {
			t.Fatalf("%q: not stable: %q", out, again)
		}
	})
}

func TestUnits(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 10 << 10: "10 KiB", 1288490189: "1.2 GiB", 5 << 40: "5.0 TiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0.0 s", 1500 * time.Millisecond: "1.5 s", 42 * time.Second: "42 s",
		200 * time.Second: "3 m 20 s", 2*time.Hour + 5*time.Minute: "2 h 5 m", -time.Second: "0.0 s"} {
		if got := Span(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
	for name, want := range map[string]string{"hello-2.12.1.drv": "hello", "gcc-wrapper-13.2.drv": "gcc-wrapper", "source.drv": "source", "a-b-c": "a-b-c", "x-": "x-"} {
		if got := DrvName(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestWithin(t *testing.T) {
	for d, want := range map[time.Duration]string{
		400 * time.Millisecond: "any moment", 2500 * time.Millisecond: "about 3.0 s", 40 * time.Second: "about 40 s",
		250 * time.Second: "about 4 m", 2*time.Hour + 5*time.Minute: "about 2 h 5 m",
	} {
		if got := Within(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		text    string
		columns int
		want    string
	}{
		{"short", 5, "short"}, {"longer", 5, "long…"}, {"", 5, ""}, {"漢字", 4, "漢字"}, {"漢字x", 4, "漢…"}, {"a漢字", 4, "a漢…"}, {"abc", 1, "…"},
	} {
		if got := fit(c.text, c.columns, true); got != c.want {
			t.Errorf("%q in %d: %q, want %q", c.text, c.columns, got, c.want)
		}
	}
	if got := plain("\x1b[31mred\x1b[0m \x1b[2Jx"); got != "red x" {
		t.Errorf("%q", got)
	}
}

// lockedBuffer is a writer that the printer's timer may write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func noEnv(string) string { return "" }

func TestPiecesAreNotTornApart(t *testing.T) {
	var out lockedBuffer
	p := New(&out, noEnv)
	p.Line("first")
	p.Piece(1, "a> ", []byte("one \x00\xff\x1b[2J"), true)
	p.Line("waits")
	p.Piece(1, "a> ", []byte("line"), false)
	p.Piece(1, "a> ", []byte("broken"), true)
	p.Piece(2, "b> ", []byte("off"), false)
	p.Piece(1, "a> ", []byte("goes on"), false)
	p.Close()
	p.Line("late")
	want := "first\na> one \x00\xff\x1b[2Jline\nwaits\na> broken\nb> off\na> goes on\nlate\n"
	if got := out.String(); got != want {
		t.Errorf("%q\nwant %q", got, want)
	}
}

func TestHeldLinesAreBounded(t *testing.T) {
	var out lockedBuffer
	p := New(&out, noEnv)
	p.Piece(1, "a> ", []byte("x"), true)
	line := strings.Repeat("y", 1000)
	for range 3 * maxHeld / len(line) {
		p.Line(line)
		if len(p.held) > maxHeld {
			t.Fatalf("%d bytes held", len(p.held))
		}
	}
	p.Close()
	if n := strings.Count(out.String(), line+"\n"); n != 3*maxHeld/len(line) {
		t.Errorf("%d lines came out", n)
	}
}

// The block is gone before a line is written, and comes back below it.
func TestBlock(t *testing.T) {
	var out lockedBuffer
	p := New(&out, noEnv)
	p.Terminal, p.Colour, p.Unicode = true, true, true
	p.size, p.delay = func() (int, int) { return 20, 4 }, time.Hour
	p.Block([]string{"is left out", "one", "\x1b[31mtwo\ttabs\x1b[2J and something long"})
	p.Block([]string{"no", "one", "\x1b[31mtwo\ttabs\x1b[2J and something long", "three"})
	p.Flush()
	p.Line("a line\x1b[2J")
	p.Flush()
	p.Block([]string{"less"})
	p.Flush()
	p.Piece(1, "> ", []byte("unfinished"), true)
	p.Flush()
	p.Close()
	block := "one\x1b[K\n\x1b[31mtwo tabs and somet…\x1b[0m\x1b[K\nthree\x1b[K"
	want := block +
		"\r\x1b[2A\x1b[Ja line\n" + block +
		"\r\x1b[2Aless\x1b[K\x1b[J" +
		"\r\x1b[K\x1b[J> unfinished" + "\n"
	if got := out.String(); got != want {
		t.Errorf("%q\nwant %q", got, want)
	}
}

// brokenPipe takes one write.
type brokenPipe struct{ writes int }

func (b *brokenPipe) Write(p []byte) (int, error) {
	if b.writes++; b.writes > 1 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestOnError(t *testing.T) {
	var b brokenPipe
	p := New(&b, noEnv)
	told := make(chan error, 2)
	p.OnError(func(err error) { told <- err })
	for range 3 {
		p.Line("a line")
		p.Flush()
	}
	p.Close()
	if err := <-told; !errors.Is(err, io.ErrClosedPipe) || b.writes != 2 {
		t.Errorf("%d writes, %v", b.writes, err)
	}
	if len(told) > 0 {
		t.Error("it is told twice")
	}
}

// What a build looks like in a log file.
func TestProgressPlain(t *testing.T) {
	var out lockedBuffer
	p := New(&out, noEnv)
	v := NewProgress(p, Config{Logs: true})
	drv := "/nix/store/00000000000000000000000000000000-hello-1.0.drv"
	v.Phase("evaluating")
	v.Phase("evaluating")
	v.Transfer(client.Transfer{Upload: true, Total: 2048, Paths: 2})
	v.Transfer(client.Transfer{Upload: true, Done: 2048, Total: 2048, Paths: 2})
	for _, e := range []*wire.Event{
		{Type: wire.EventQueued, Position: 1},
		{Type: wire.EventPhase, State: wire.StateBuilding},
		{Type: wire.EventStart, Activity: &wire.Activity{ID: 7, Type: uint64(daemon.ActivityBuild), Fields: []wire.Field{{IsText: true, Str: drv}}}},
		{Type: wire.EventLog, Log: wire.NewLog(7, []byte("compiling\x00\xff"), false)},
		{Type: wire.EventLog, Log: &wire.Log{Text: "warning: something", Level: 1}},
		{Type: wire.EventLog, Log: &wire.Log{Text: "chatter", Level: 4}},
		{Type: wire.EventLog, Log: &wire.Log{Activity: 7, Text: "hook", PostBuild: true}},
		{Type: wire.EventLog, Log: wire.NewLog(99, []byte("of an activity that nobody knows"), false)},
		{Type: wire.EventLog, Log: &wire.Log{Text: "builder for '" + drv + "' failed", Level: 0}},
		{Type: wire.EventStop, Activity: &wire.Activity{ID: 7}},
	} {
		v.Event(e)
	}
	logs, messages := v.Failed()
	if len(logs) != 1 || string(logs[0].Drv) != drv || len(messages) != 1 {
		t.Errorf("failed: %+v, %q", logs, messages)
	}
	v.Close()
	v.Close()
	p.Close()
	want := "evaluating\n" +
		"sending 2 paths, 2.0 KiB\n" +
		"building " + drv + "\n" +
		"hello> compiling\x00\xff\n" +
		"warning: something\n" +
		"hello (post)> hook\n" +
		"of an activity that nobody knows\n"
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestQueueLine(t *testing.T) {
	var out lockedBuffer
	p := New(&out, noEnv)
	v := NewProgress(p, Config{})
	v.Event(&wire.Event{Type: wire.EventQueued, Position: 2})
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(out.String(), "position 2") && time.Now().Before(deadline) {
		p.Flush()
		<-time.After(5 * time.Millisecond)
	}
	v.Close()
	if got := out.String(); got != "waiting in the builder's queue, position 2\n" {
		t.Errorf("%q", got)
	}
}

// Who builds unattended hears of a silent build, and not more than that.
func TestAlive(t *testing.T) {
	var out lockedBuffer
	now := time.Unix(1e9, 0)
	p := New(&out, noEnv)
	v := newProgress(p, Config{Now: func() time.Time { return now }})
	close(v.done)
	v.tellAlive() // there is nothing to tell
	v.Phase("evaluating")
	v.tellAlive() // that was told just now
	now = now.Add(30 * time.Second)
	v.tellAlive()
	v.Event(&wire.Event{Type: wire.EventQueued, Position: 2, WaitSeconds: 600})
	v.Transfer(client.Transfer{Upload: true, Total: 10 << 20, Paths: 3})
	now = now.Add(4 * time.Second)
	v.Transfer(client.Transfer{Upload: true, Done: 8 << 20, Total: 10 << 20, Paths: 3})
	v.tellAlive()
	v.tellAlive()
	v.Transfer(client.Transfer{Upload: true, Done: 10 << 20, Total: 10 << 20, Paths: 3})
	v.Event(&wire.Event{Type: wire.EventPhase, State: wire.StateBuilding})
	v.Event(&wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: 2, Type: 104}})
	v.Event(&wire.Event{Type: wire.EventResult, Activity: &wire.Activity{ID: 2, Type: 105, Fields: []wire.Field{{Int: 1}, {Int: 5}, {Int: 0}, {Int: 0}}}})
	now = now.Add(5 * time.Minute)
	v.tellAlive()
	v.Close()
	p.Close()
	want := "evaluating\nevaluating (30 s)\nsending 3 paths, 10 MiB\n" +
		"still waiting in the builder's queue, position 2, about 10 m; sending 8.0 MiB of 10 MiB, 2.0 MiB/s, 1.0 s left (34 s)\n" +
		"built 1 of 5, 4 waiting (5 m 0 s)\n"
	if got := out.String(); got != want {
		t.Errorf("%q\nwant %q", got, want)
	}
}
