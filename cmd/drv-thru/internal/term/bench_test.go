package term

import (
	"encoding/json"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

// What a line of a build's log costs from the bytes that come to the terminal,
// while the screen is redrawn as often as it ever is. A build that prints
// 100,000 lines a second leaves 10 µs for each.
func BenchmarkLogLines(b *testing.B) {
	for _, c := range []struct {
		name           string
		terminal, logs bool
	}{{"tree", true, false}, {"logs", true, true}, {"plain", false, true}} {
		b.Run(c.name, func(b *testing.B) {
			p := New(io.Discard, noEnv)
			p.Terminal, p.Colour, p.Unicode = c.terminal, c.terminal, true
			v := NewProgress(p, Config{Logs: c.logs})
			defer v.Close()
			v.Event(&wire.Event{Type: wire.EventPhase, State: wire.StateBuilding})
			for i := range 200 {
				drv := fmt.Sprintf("/nix/store/%032d-package-%d.drv", i, i)
				v.Event(&wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: uint64(i + 1), Type: uint64(daemon.ActivityBuild),
					Fields: []wire.Field{{IsText: true, Str: drv}}}})
			}
			lines := make([][]byte, 200)
			for i := range lines {
				var err error
				lines[i], err = json.Marshal(&wire.Event{Seq: 1, Type: wire.EventLog, Log: &wire.Log{Activity: uint64(i + 1),
					Text: "[ 42%] Building CXX object src/CMakeFiles/thing.dir/parser/expression.cc.o"}})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			i, began := 0, cpuTime(b)
			for b.Loop() {
				var e wire.Event
				if err := json.Unmarshal(lines[i%len(lines)], &e); err != nil {
					b.Fatal(err)
				}
				v.Event(&e)
				i++
			}
			// What others do on the machine does not count.
			b.ReportMetric(float64(i)/(cpuTime(b)-began).Seconds(), "lines/cpu-s")
		})
	}
}

// cpuTime is what the process has used.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// What one redraw costs with as many builds as are told apart.
func BenchmarkFrame(b *testing.B) {
	for _, running := range []int{3, 300, maxRunning} {
		b.Run(fmt.Sprint(running), func(b *testing.B) {
			p := New(io.Discard, noEnv)
			p.Terminal, p.Colour, p.Unicode = true, true, true
			v := newProgress(p, Config{})
			v.Event(&wire.Event{Type: wire.EventPhase, State: wire.StateBuilding})
			for i := range running {
				drv := fmt.Sprintf("/nix/store/%032d-package-%d.drv", i, i)
				v.Event(&wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: uint64(i + 1), Type: uint64(daemon.ActivityBuild),
					Fields: []wire.Field{{IsText: true, Str: drv}}}})
			}
			for b.Loop() {
				v.frame(v.Now(), 200, 50)
			}
		})
	}
}
