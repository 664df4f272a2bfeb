package builder

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
)

func fixedNow() time.Time { return time.Date(2026, 5, 1, 12, 0, 0, 123456789, time.UTC) }

func newLog(tb testing.TB, limit int64) *eventLog {
	tb.Helper()
	l, err := openEventLog(filepath.Join(tb.TempDir(), "events.ndjson"), fixedNow, limit)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

func readAll(tb testing.TB, l *eventLog, from int64) []wire.Event {
	tb.Helper()
	var b bytes.Buffer
	if err := l.copyTo(tb.Context(), &b, from, func() error { return nil }); err != nil {
		tb.Fatal(err)
	}
	var events []wire.Event
	for line := range bytes.Lines(b.Bytes()) {
		var e wire.Event
		if err := json.Unmarshal(line, &e); err != nil {
			tb.Fatalf("%v in %q", err, line)
		}
		events = append(events, e)
	}
	return events
}

func TestEventLogReplay(t *testing.T) {
	l := newLog(t, DefaultMaxLog)
	for i := range 5000 {
		l.log(wire.Log{Activity: 1 + uint64(i)%2}, fmt.Appendf(nil, "line %d %s", i+1, strings.Repeat("x", 200)))
	}
	l.add(&wire.Event{Type: wire.EventFinished, Result: &wire.Result{}})
	for _, from := range []int64{0, 1, 2, 2500, 4999, 5000, 5001} {
		events := readAll(t, l, from)
		first := max(1, from)
		if int64(len(events)) != 5001-first+1 || events[0].Seq != first || events[len(events)-1].Type != wire.EventFinished {
			t.Errorf("from %d: %d events from %d on", from, len(events), events[0].Seq)
		}
		if first <= 5000 && !strings.HasPrefix(string(events[0].Log.Content()), fmt.Sprintf("line %d ", first)) {
			t.Errorf("from %d: %q", from, events[0].Log.Content())
		}
	}
	if events := readAll(t, l, 6000); len(events) != 0 {
		t.Errorf("beyond the end: %d", len(events))
	}
	// Another process reads the same.
	again, err := readEventLog(l.path)
	if err != nil {
		t.Fatal(err)
	}
	if events := readAll(t, again, 4000); len(events) != 1002 || events[0].Seq != 4000 || again.last() != 5001 {
		t.Errorf("%d events from %d on, last %d", len(events), events[0].Seq, again.last())
	}
}

func TestEventLogCarriesEveryByte(t *testing.T) {
	l := newLog(t, DefaultMaxLog)
	var every []byte
	for i := range 256 {
		every = append(every, byte(i))
	}
	pieces := [][]byte{every, []byte("plain"), []byte("\t\"quoted\" \\ \u2028 ünï\x00\x1b[31m"), {}, bytes.Repeat([]byte{0xff}, wire.MaxLogPiece)}
	for i, p := range pieces {
		l.log(wire.Log{Activity: uint64(i), More: i%2 == 0, PostBuild: i == 1, Level: i}, p)
	}
	l.add(&wire.Event{Type: wire.EventFinished})
	events := readAll(t, l, 1)
	for i, p := range pieces {
		e := events[i]
		if !bytes.Equal(e.Log.Content(), p) || e.Log.Activity != uint64(i) || e.Log.More != (i%2 == 0) ||
			e.Log.PostBuild != (i == 1) || e.Log.Level != i || !e.Time.Equal(fixedNow()) || e.Type != wire.EventLog {
			t.Errorf("%d: got %+v of %q", i, e.Log, p[:min(len(p), 300)])
		}
	}
}

// Short lines come with little around them, each where it belongs.
func TestEventLogShortLines(t *testing.T) {
	l := newLog(t, DefaultMaxLog)
	var want [3]strings.Builder
	add := func(of wire.Log, piece string) {
		l.log(of, []byte(piece))
		if want[of.Activity].WriteString(piece); !of.More {
			want[of.Activity].WriteByte('\n')
		}
	}
	const n = 100_000
	for i := range n {
		add(wire.Log{Activity: 1}, fmt.Sprint(i))
	}
	for i, piece := range []string{"", "", "a", "\xff", "b", "\t\"c\"\x00", ""} {
		add(wire.Log{Activity: 1}, piece)
		add(wire.Log{Activity: 1, More: true}, piece)
		add(wire.Log{Activity: 1}, piece)
		if i > 3 {
			add(wire.Log{Activity: 2, More: true}, piece)
			add(wire.Log{Activity: 1}, piece)
			add(wire.Log{Activity: 2}, piece)
			add(wire.Log{Activity: 2, PostBuild: true}, piece)
		}
		add(wire.Log{}, piece)
	}
	add(wire.Log{Activity: 1}, strings.Repeat("\x01", wire.MaxLogPiece))
	add(wire.Log{Activity: 1}, strings.Repeat("\x01", wire.MaxLogPiece))
	l.add(&wire.Event{Type: wire.EventFinished})
	if l.size > 8<<20 {
		t.Errorf("%d bytes for %d short lines", l.size, n)
	}
	var got [3]strings.Builder
	for _, e := range readAll(t, l, 1) {
		if e.Log == nil {
			continue
		}
		if n := len(e.Log.Content()); n > wire.MaxLogPiece {
			t.Errorf("%d bytes in one event", n)
		}
		for line, more := range e.Log.Lines() {
			if got[e.Log.Activity].Write(line); !more {
				got[e.Log.Activity].WriteByte('\n')
			}
		}
	}
	for i := range got {
		if got[i].String() != want[i].String() {
			t.Errorf("activity %d has %d bytes, want %d", i, got[i].Len(), want[i].Len())
		}
	}
}

// The most roots, each with the longest error, are more than a client reads.
func TestEventLogEndFits(t *testing.T) {
	for roots, fits := range map[int]bool{1: true, wire.MaxRoots: false} {
		result := &wire.Result{Error: wire.CodeBuildFailed.Err()}
		for range roots {
			result.Derivations = append(result.Derivations, wire.DrvResult{Error: strings.Repeat("x", 2<<10)})
		}
		l := newLog(t, DefaultMaxLog)
		l.add(&wire.Event{Type: wire.EventFinished, State: wire.StateFailed, Result: result})
		events := readAll(t, l, 1)
		if e := events[0]; e.Type != wire.EventFinished || e.State != wire.StateFailed || (e.Result != nil) != fits {
			t.Errorf("%d roots: %s %s, result %t", roots, e.Type, e.State, e.Result != nil)
		}
		if l.size > wire.MaxEventLine {
			t.Errorf("%d roots: %d bytes", roots, l.size)
		}
	}
}

func TestEventLogFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t, DefaultMaxLog)
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			err := l.copyTo(t.Context(), w, 1, func() error { return nil })
			w.CloseWithError(err)
			done <- err
		}()
		lines := bufio.NewReader(r)
		began := time.Now()
		l.log(wire.Log{}, []byte("late"))
		if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, "late") {
			t.Errorf("%q, %v", line, err)
		}
		if waited := time.Since(began); waited != flushEvery {
			t.Errorf("a log line waited %s", waited)
		}
		began = time.Now()
		l.add(&wire.Event{Type: wire.EventPhase, State: wire.StateBuilding})
		if _, err := lines.ReadString('\n'); err != nil || time.Since(began) != 0 {
			t.Errorf("a phase waited %s, %v", time.Since(began), err)
		}
		if line, err := lines.ReadString('\n'); err != nil || line != "\n" || time.Since(began) > wire.EventKeepalive {
			t.Errorf("no sign of life: %q, %v after %s", line, err, time.Since(began))
		}
		l.add(&wire.Event{Type: wire.EventFinished})
		rest, err := io.ReadAll(lines)
		if err != nil || !strings.Contains(string(rest), "finished") {
			t.Errorf("%q, %v", rest, err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestEventLogReaderLeaves(t *testing.T) {
	l := newLog(t, DefaultMaxLog)
	ctx, cancel := context.WithCancel(t.Context())
	idle := func() error { cancel(); return nil }
	if err := l.copyTo(ctx, io.Discard, 1, idle); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestEventLogLimit(t *testing.T) {
	l := newLog(t, 10_000)
	for range 1000 {
		l.log(wire.Log{}, bytes.Repeat([]byte("x"), 100))
		l.add(&wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: 1}})
	}
	l.add(&wire.Event{Type: wire.EventPhase, State: wire.StateBuilding})
	l.add(&wire.Event{Type: wire.EventFinished})
	events := readAll(t, l, 1)
	n := len(events)
	if n > 200 || events[n-1].Type != wire.EventFinished || events[n-2].Type != wire.EventPhase ||
		!strings.Contains(events[n-3].Log.Text, "longer than 10000 bytes") {
		t.Errorf("%d events, at the end %+v", n, events[n-3:])
	}
	for i, e := range events {
		if e.Seq != int64(i+1) {
			t.Fatalf("event %d is %d", i+1, e.Seq)
		}
	}
}

func TestEventLogAfterCrash(t *testing.T) {
	l := newLog(t, DefaultMaxLog)
	l.add(&wire.Event{Type: wire.EventPhase, State: wire.StateQueued})
	l.add(&wire.Event{Type: wire.EventPhase, State: wire.StateBuilding})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":3,"ti`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	again, err := openEventLog(l.path, fixedNow, DefaultMaxLog)
	if err != nil {
		t.Fatal(err)
	}
	again.add(&wire.Event{Type: wire.EventFinished})
	if events := readAll(t, again, 1); len(events) != 3 || events[2].Seq != 3 || events[2].Type != wire.EventFinished {
		t.Errorf("got %+v", events)
	}
	if _, err := readEventLog(l.path + ".none"); wire.CodeOf(err) != wire.CodeNotFound {
		t.Errorf("got %v", err)
	}
}

func TestEventLogDiskFull(t *testing.T) {
	l := newLog(t, DefaultMaxLog)
	l.add(&wire.Event{Type: wire.EventPhase, State: wire.StateQueued})
	l.mu.Lock()
	good := l.file
	readOnly, err := os.Open(l.path) // writing to it fails
	if err != nil {
		t.Fatal(err)
	}
	l.file = readOnly
	l.mu.Unlock()
	l.log(wire.Log{}, []byte("lost"))
	l.add(&wire.Event{Type: wire.EventPhase, State: wire.StateBuilding})
	l.mu.Lock()
	l.file = good
	l.mu.Unlock()
	readOnly.Close()
	l.add(&wire.Event{Type: wire.EventFinished})
	events := readAll(t, l, 1)
	if len(events) != 2 || events[1].Type != wire.EventFinished || events[1].Seq != 2 {
		t.Errorf("got %+v", events)
	}
}

// FuzzAppendLog: what the hand-written encoder writes is what encoding/json reads.
func FuzzAppendLog(f *testing.F) {
	f.Add([]byte("plain"), uint64(1), true)
	f.Add([]byte("\x00\"\\\n\u2028\xff"), uint64(0), false)
	f.Fuzz(func(t *testing.T, piece []byte, activity uint64, more bool) {
		line := appendLog(nil, 7, fixedNow(), &wire.Log{Activity: activity, More: more}, piece)
		if bytes.IndexByte(line, '\n') != len(line)-1 {
			t.Fatalf("a line feed inside: %q", line)
		}
		var e wire.Event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if !bytes.Equal(e.Log.Content(), piece) || e.Log.Activity != activity || e.Log.More != more || e.Seq != 7 {
			t.Errorf("got %+v", e)
		}
	})
}

func BenchmarkLogLines(b *testing.B) {
	l := newLog(b, 1<<62)
	l.now = time.Now
	line := []byte("[ 42%] Building CXX object src/libstore/CMakeFiles/nixstore.dir/build/derivation-goal.cc.o")
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		l.log(wire.Log{Activity: 12345}, line)
	}
}
