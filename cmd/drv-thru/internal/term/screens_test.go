package term

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term/termtest"
	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

// play is a build whose time only the test moves.
type play struct {
	*Progress
	screen *termtest.Screen
	now    time.Time
	ids    map[string]uint64
	shots  strings.Builder
	shot   func() string
}

func newPlay(t *testing.T, columns, rows int, cfg Config, env map[string]string) *play {
	p := &play{screen: termtest.New(t, columns, rows), now: time.Unix(1e9, 0), ids: make(map[string]uint64)}
	cfg.Now = func() time.Time { return p.now }
	printer := New(p.screen.TTY(), func(name string) string { return env[name] })
	printer.delay = time.Hour // only the test flushes
	if !printer.Terminal {
		t.Fatal("no terminal")
	}
	p.Progress = newProgress(printer, cfg)
	close(p.done) // nobody draws but the test
	p.shot = p.screen.Text
	t.Cleanup(p.close)
	return p
}

func (p *play) close() {
	p.Close()
	p.p.Close()
}

func (p *play) pass(d time.Duration) { p.now = p.now.Add(d) }

// show draws and adds the screen to the shots.
func (p *play) show(title string) {
	p.draw()
	p.p.Flush()
	fmt.Fprintf(&p.shots, "== %s\n%s", title, p.shot())
}

func (p *play) tell(e wire.Event) {
	// The builder's clock is wrong, which nobody sees.
	e.Time = p.now.Add(-1000 * time.Hour)
	p.Event(&e)
}

func drvPath(name string) nix.Path {
	return nix.Path("/nix/store/" + strings.Repeat("0", 32) + "-" + name + ".drv")
}

func (p *play) begin(name, host string) {
	id := uint64(len(p.ids) + 10)
	p.ids[name] = id
	p.tell(wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: id, Parent: 2, Type: uint64(daemon.ActivityBuild), Level: 3,
		Text:   "building '" + string(drvPath(name)) + "'",
		Fields: []wire.Field{{IsText: true, Str: string(drvPath(name))}, {IsText: true, Str: host}, {Int: 1}, {Int: 1}}}})
}

func (p *play) end(name string) {
	p.tell(wire.Event{Type: wire.EventStop, Activity: &wire.Activity{ID: p.ids[name]}})
}

func (p *play) says(name, line string) {
	p.tell(wire.Event{Type: wire.EventLog, Log: wire.NewLog(p.ids[name], []byte(line), false)})
}

func (p *play) counts(activity uint64, n ...uint64) {
	var fields []wire.Field
	for _, i := range n {
		fields = append(fields, wire.Field{Int: i})
	}
	p.tell(wire.Event{Type: wire.EventResult, Activity: &wire.Activity{ID: activity, Type: uint64(daemon.ResultProgress), Fields: fields}})
}

// inputs is a closure: app needs libfoo and two plugins, those need libbar, and
// everything the compiler, which needs its library.
func inputs() *client.Inputs {
	in := &client.Inputs{}
	for _, n := range []struct {
		name string
		refs []int
	}{
		{"glibc-2.40", nil}, {"gcc-14.2.0", []int{0}}, {"libbar-0.9", []int{1}}, {"libfoo-2.1", []int{1, 2}},
		{"plugin-audio-1.0", []int{2}}, {"plugin-video-1.0", []int{2}}, {"app-with-a-name-that-is-rather-long-1.0", []int{3, 4, 5, 1}},
	} {
		in.Paths = append(in.Paths, drvPath(n.name))
		in.Wire = append(in.Wire, wire.Input{Path: string(drvPath(n.name)), References: n.refs})
	}
	return in
}

// perform goes through a build from its beginning to its end.
func (p *play) perform() {
	p.Phase("evaluating")
	p.pass(1200 * time.Millisecond)
	p.Doing("evaluating derivation 'git+file:///home/alice/app#packages.x86_64-linux.default'")
	p.show("evaluating")

	p.SetPath(func() string { return "relay" })
	p.SetGraph(NewGraph(inputs(), []nix.Path{drvPath("app-with-a-name-that-is-rather-long-1.0")}))
	p.Phase("asking the builder to build")
	p.tell(wire.Event{Type: wire.EventQueued, Position: 3, WaitSeconds: 250})
	const total = 3400 << 20
	for i := range int64(21) {
		p.Transfer(client.Transfer{Upload: true, Done: i * 45 << 20 / 2, Total: total, Paths: 210, Wire: i * 11 << 20})
		p.pass(500 * time.Millisecond)
	}
	p.show("sending while it waits")
	p.Transfer(client.Transfer{Upload: true, Done: total, Total: total, Paths: 210})
	p.pass(5 * time.Minute)
	p.show("a wait that was foretold wrongly")

	p.SetPath(func() string { return "direct-quic" })
	p.tell(wire.Event{Type: wire.EventPhase, State: wire.StateBuilding})
	p.tell(wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: 2, Type: uint64(daemon.ActivityBuilds)}})
	p.tell(wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: 3, Type: uint64(daemon.ActivityCopyPaths)}})
	p.counts(2, 0, 7, 0, 0)
	p.counts(3, 12, 40, 1, 0)
	p.begin("glibc-2.40", "")
	p.pass(3 * time.Second)
	p.says("glibc-2.40", "checking for gcc... \x1b[1;32myes\x1b[0m\x1b[2J\x1b[H")
	p.show("one build")
	p.pass(100 * time.Second)
	p.end("glibc-2.40")
	p.begin("gcc-14.2.0", "ssh-ng://fast.example")
	p.pass(40 * time.Second)
	p.end("gcc-14.2.0")
	p.counts(2, 2, 7, 0, 0)
	p.counts(3, 40, 40, 0, 0)
	p.begin("libbar-0.9", "")
	p.pass(2 * time.Second)
	p.end("libbar-0.9")
	p.counts(2, 3, 7, 3, 0)
	p.begin("libfoo-2.1", "")
	p.pass(800 * time.Millisecond)
	p.begin("plugin-audio-1.0", "ssh-ng://fast.example")
	p.begin("plugin-video-1.0", "")
	p.says("libfoo-2.1", "[ 42%] Building CXX object src/CMakeFiles/foo.dir/parser/expression.cc.o with 漢字 in its name")
	p.says("plugin-audio-1.0", "make: Nothing to be done for 'all'.")
	p.tell(wire.Event{Type: wire.EventResult, Activity: &wire.Activity{ID: p.ids["plugin-video-1.0"], Type: uint64(daemon.ResultSetPhase),
		Fields: []wire.Field{{IsText: true, Str: "configurePhase"}}}})
	p.pass(12 * time.Second)
	p.show("three at once")

	p.tell(wire.Event{Type: wire.EventLog, Log: &wire.Log{Text: "error: builder for '" + string(drvPath("plugin-video-1.0")) + "' failed with exit code 1"}})
	p.end("plugin-video-1.0")
	p.counts(2, 3, 7, 2, 1)
	p.Note("lost the connection to the builder; trying again")
	p.pass(time.Second)
	p.show("one has failed")

	p.end("libfoo-2.1")
	p.end("plugin-audio-1.0")
	p.tell(wire.Event{Type: wire.EventFinished, Result: &wire.Result{}})
	p.Phase("importing")
	p.Transfer(client.Transfer{Total: 900 << 20, Paths: 3})
	p.pass(2 * time.Second)
	p.Transfer(client.Transfer{Done: 300 << 20, Total: 900 << 20, Paths: 3, Wire: 100 << 20})
	p.show("importing")
	p.close()
	p.p.Line("output       out  /nix/store/…-app")
	fmt.Fprintf(&p.shots, "== the end\n%s", p.shot())
}

func TestProgressScreens(t *testing.T) {
	utf8 := func(more ...string) map[string]string {
		env := map[string]string{"LANG": "en_US.UTF-8", "TERM": "xterm-256color"}
		for _, m := range more {
			env[m] = "1"
		}
		return env
	}
	for _, c := range []struct {
		name          string
		columns, rows int
		cfg           Config
		env           map[string]string
	}{
		{"80x24", 80, 24, Config{}, utf8("NO_COLOR")},
		{"80x24-colour", 80, 24, Config{}, utf8()},
		{"80x24-logs", 80, 24, Config{Logs: true}, utf8("NO_COLOR")},
		{"80x24-ascii", 80, 24, Config{}, map[string]string{"LANG": "C", "NO_COLOR": "1"}},
		{"200x50", 200, 50, Config{}, utf8("NO_COLOR")},
		{"200x50-colour", 200, 50, Config{}, utf8()},
		{"narrow", 32, 10, Config{}, utf8("NO_COLOR")},
		{"tiny", 8, 3, Config{}, utf8("NO_COLOR")},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlay(t, c.columns, c.rows, c.cfg, c.env)
			if colour := c.env["NO_COLOR"] == ""; colour {
				p.shot = p.screen.Painted
			} else {
				p.shot = func() string {
					text, painted := p.screen.Text(), p.screen.Painted()
					if text != painted {
						t.Errorf("colours: %q", painted)
					}
					return text
				}
			}
			p.perform()
			termtest.Golden(t, "progress-"+c.name+".txt", p.shots.String())
		})
	}
}
