package term

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

// fakeNom makes the test's own program a nix-output-monitor: it keeps what it
// reads in the file of that name, or reads nothing at all.
const fakeNom = "FAKE_NOM"

func TestMain(m *testing.M) {
	switch file := os.Getenv(fakeNom); {
	case file == "":
		os.Exit(m.Run())
	case file == "stuck":
		select {}
	case strings.Join(os.Args[1:], " ") != "--json":
		fmt.Fprintln(os.Stderr, "wrong arguments")
	default:
		fmt.Fprintln(os.Stderr, "a tree of builds")
		text, err := io.ReadAll(os.Stdin)
		if err == nil {
			err = os.WriteFile(file, text, 0o600)
		}
		fmt.Fprintln(os.Stderr, "the last tree", err, os.Getenv("DRV_THRU_TICKET"))
	}
}

// nom gets Nix's JSON log, has the screen to itself while builds run, and cannot
// be made to do more than show.
func TestNom(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	t.Setenv(fakeNom, file)
	t.Setenv("DRV_THRU_TICKET", "secret")
	for _, logs := range []bool{false, true} {
		t.Run(fmt.Sprint("logs=", logs), func(t *testing.T) {
			p := newPlay(t, 80, 24, Config{Nom: os.Args[0], Logs: logs}, map[string]string{"LANG": "C.UTF-8"})
			p.nomEnd = time.Minute
			p.tell(wire.Event{Type: wire.EventPhase, State: wire.StateBuilding})
			p.draw()
			p.tell(wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: 2, Type: uint64(daemon.ActivityBuilds)}})
			p.begin("hello-1.0", "")
			p.says("hello-1.0", "compiling \x1b[32mgreen\x1b[0m\x1b[2J\x1b]0;title\a")
			p.tell(wire.Event{Type: wire.EventLog, Log: &wire.Log{Activity: p.ids["hello-1.0"], Text: "half ", More: true}})
			p.tell(wire.Event{Type: wire.EventLog, Log: &wire.Log{Activity: p.ids["hello-1.0"], Bytes: []byte("a line \xff")}})
			p.Note("a note\x1b[2J")
			p.tell(wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: 99, Type: 4711, Text: "of the future"}})
			p.counts(2, 0, 1, 1, 0)
			p.tell(wire.Event{Type: wire.EventLog, Log: &wire.Log{Text: "error: it failed"}})
			p.end("hello-1.0")
			p.tell(wire.Event{Type: wire.EventFinished, Result: &wire.Result{}})
			p.Phase("importing")
			p.draw()
			p.p.Flush()
			got := p.screen.Text()
			if want := "a tree of builds\nthe last tree <nil>\nimporting · 0.0 s\n"; got != want {
				t.Errorf("the screen shows\n%s\nwant\n%s", got, want)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var said []string
			for line := range strings.Lines(string(text)) {
				line, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "@nix ")
				if !ok || !json.Valid([]byte(line)) {
					t.Errorf("nom gets %q", line)
				}
				said = append(said, line)
			}
			id := p.ids["hello-1.0"]
			drv := drvPath("hello-1.0")
			want := []string{
				fmt.Sprintf(`{"action":"start","id":%d,"level":3,"type":105,"text":"building '%s'","parent":2,"fields":["%s","",1,1]}`, id, drv, drv),
				fmt.Sprintf(`{"action":"result","id":%d,"type":101,"fields":["compiling \u001b[32mgreen\u001b[0m\u001b[0m"]}`, id),
				fmt.Sprintf(`{"action":"result","id":%d,"type":101,"fields":["half a line �"]}`, id),
				`{"action":"msg","level":2,"msg":"a note"}`,
				`{"action":"result","id":2,"type":105,"fields":[0,1,1,0]}`,
				`{"action":"msg","level":0,"msg":"error: it failed"}`,
				fmt.Sprintf(`{"action":"stop","id":%d}`, id),
			}
			if !logs {
				want = append(want[:1:1], want[3:]...)
			}
			if got, want := strings.Join(said, "\n"), strings.Join(want, "\n"); got != want {
				t.Errorf("nom gets\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// A nom that is not there, ends at once or hangs costs the build nothing.
func TestNomIsNoUse(t *testing.T) {
	for _, what := range []string{"missing", "ends", "stuck"} {
		t.Run(what, func(t *testing.T) {
			program := os.Args[0]
			switch what {
			case "missing":
				program = filepath.Join(t.TempDir(), "nom")
			case "ends":
				if program = "/bin/true"; !exists(program) {
					program = "true"
				}
			case "stuck":
				t.Setenv(fakeNom, "stuck")
			}
			p := newPlay(t, 80, 24, Config{Nom: program}, map[string]string{"LANG": "C.UTF-8"})
			p.tell(wire.Event{Type: wire.EventPhase, State: wire.StateBuilding})
			p.begin("hello-1.0", "")
			text := strings.Repeat("x", 20_000)
			deadline := time.Now().Add(time.Minute)
			for p.draw(); p.Progress.nom != nil && time.Now().Before(deadline); p.draw() {
				p.tell(wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: 5, Type: uint64(daemon.ActivityRealise), Text: text}})
			}
			p.p.Flush()
			if got := p.screen.Text(); !strings.Contains(got, "▸ hello-1.0") {
				t.Errorf("the screen shows\n%s", got)
			}
		})
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// A block that was drawn in a wider terminal leaves nothing behind.
func TestResize(t *testing.T) {
	p := newPlay(t, 60, 12, Config{}, map[string]string{"LANG": "C.UTF-8"})
	p.p.Line("above")
	p.Phase("evaluating")
	p.Doing(strings.Repeat("wide ", 9))
	p.show("wide")
	for _, size := range [][2]int{{100, 30}, {64, 30}} {
		p.screen.Resize(size[0], size[1])
		p.show("resized")
		if n := strings.Count(p.screen.Text(), "wide wide"); n != strings.Count(strings.Repeat("wide ", 9), "wide wide") {
			t.Errorf("after a change to %v:\n%s", size, p.screen.Text())
		}
	}
	lines := bufio.NewScanner(strings.NewReader(p.screen.Text()))
	if lines.Scan(); lines.Text() != "above" {
		t.Errorf("the first line is %q", lines.Text())
	}
	// Such a terminal breaks the rows that are too long now, in three here.
	p.p.mu.Lock()
	p.p.size = func() (int, int) { return 25, 12 }
	up := string(p.p.toBlock(nil))
	p.p.mu.Unlock()
	if up != "\r\x1b[2A" {
		t.Errorf("it goes up with %q", up)
	}
}
