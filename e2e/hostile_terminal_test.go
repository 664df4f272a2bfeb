//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// allowed is what the client itself sends to a terminal besides text: colours,
// and a return to the beginning of the rows below the log, which it writes anew.
var allowed = regexp.MustCompile("\x1b\\[[0-9;:]*m|\r\x1b\\[(K|\\d*A)|\x1b\\[[KJ]|\r\n")

// escapes are what a terminal would obey, each with a mark to find its text by.
var escapes = []string{
	"\x1b[2Jcleared", "\x1b[1;1Hmoved", "\x1b]0;titled\x07", "\x1b]52;c;cGFzdGVk\x07pasted", "\x1bP+q544e\x1b\\asked",
	"\x1b[6nreported", "\x1bcreset", "\x1b[?1049halternate", "\u009b2Jeight-bit", "\a\bback", "\rover", "\x1b",
	"\x1b[3Jscrollback", "\x1b(0drawn", "\x1b[5imprinted", "\x0e\x0fshifted", "\v\fdown",
}

// No text of a builder moves the cursor, asks the terminal, or worse.
func TestHostileBuilderTerminal(t *testing.T) {
	f := newFraud(t, lab.Sid)
	nasty := "begin " + strings.Join(escapes, " ") + " end"
	log := func(seq *int64, l wire.Log) *wire.Event {
		*seq++
		return &wire.Event{Seq: *seq, Type: wire.EventLog, Log: &l}
	}
	finished := func(change func(*wire.Result)) func(*exchange) bool {
		return on(onEvents, func(x *exchange) bool {
			return events(x, func(e *wire.Event) *wire.Event {
				if e.Result != nil {
					change(e.Result)
				}
				return e
			})
		})
	}
	for name, c := range map[string]struct {
		tamper func(*exchange) bool
		shows  string // what of the text must be shown
	}{
		"signing-key": {on(onInfo, func(x *exchange) bool {
			return edit(x, func(i *wire.Info) { i.SigningKey = nasty })
		}), "begin "},
		"systems": {on(onInfo, func(x *exchange) bool {
			return edit(x, func(i *wire.Info) { i.Systems, i.Software, i.NixVersion = []string{nasty}, nasty, nasty })
		}), ""},
		"problem": {on(onBuild, func(x *exchange) bool {
			wire.WriteError(x, wire.Errorf(wire.CodePolicyDenied, "%s", nasty).WithHint("%s", nasty))
			return true
		}), "denied by policy begin "},
		"problem-code": {on(onBuild, func(x *exchange) bool {
			wire.WriteError(x, &wire.Error{Code: wire.Code(nasty), Detail: nasty})
			return true
		}), "begin "},
		"result": {finished(func(r *wire.Result) {
			r.Error = wire.Errorf(wire.CodeBuildFailed, "%s", nasty).WithHint("%s", nasty)
			r.Derivations = []wire.DrvResult{{Drv: nasty, Status: nasty, Error: nasty}}
			r.Outputs = nil
		}), "build failed: begin "},
		"outputs": {finished(func(r *wire.Result) {
			r.Outputs[0].Path, r.Outputs[0].Name = nasty, nasty
		}), ""},
		"narinfos": {on(onClosure, func(x *exchange) bool {
			return edit(x, func(c *wire.Closure) { c.NarInfos[0] = nasty + "\nStorePath: " + nasty })
		}), "malformed"},
		"title": {on(onBuild, func(x *exchange) bool {
			body, _ := json.Marshal(wire.Error{Code: wire.CodeInternal, Title: nasty, Detail: "x"}) // texts only
			x.text(http.StatusInternalServerError, wire.TypeProblem, string(body))
			return true
		}), "the builder failed: x"},
		"logs": {on(onEvents, func(x *exchange) bool {
			var seq int64
			send := func(e *wire.Event) { x.line(e) }
			for _, text := range append([]string{nasty}, escapes...) {
				send(log(&seq, wire.Log{Text: text}))
				send(log(&seq, wire.Log{Text: text, Activity: 5, PostBuild: true}))
				send(log(&seq, wire.Log{Bytes: []byte("\xff" + text), Activity: 6}))
				// In two pieces, cut inside the sequence.
				for cut := range min(len(text), 4) {
					send(log(&seq, wire.Log{Bytes: []byte(text[:cut]), Activity: 7, More: true}))
					send(log(&seq, wire.Log{Bytes: []byte(text[cut:]), Activity: 7}))
				}
				seq++
				send(&wire.Event{Seq: seq, Type: wire.EventStart, Activity: &wire.Activity{
					ID: uint64(seq), Type: 105, Text: text, Fields: []wire.Field{{Str: text, IsText: true}, {Str: text, IsText: true}},
				}})
				send(log(&seq, wire.Log{Text: text, Activity: uint64(seq)}))
				seq++
				send(&wire.Event{Seq: seq, Type: wire.EventStart, Activity: &wire.Activity{
					ID: uint64(seq), Type: 105, Text: text,
					Fields: []wire.Field{{Str: "/nix/store/00000000000000000000000000000000-x.drv", IsText: true}},
				}})
				send(log(&seq, wire.Log{Text: text, Activity: uint64(seq)}))
			}
			seq++
			send(&wire.Event{Seq: seq, Type: wire.EventQueued, Position: 3})
			seq++
			send(&wire.Event{Seq: seq, Type: wire.EventPhase, State: wire.State(nasty)})
			seq++
			send(&wire.Event{Seq: seq, Type: wire.EventFinished, Result: &wire.Result{
				Error:       wire.Errorf(wire.CodeBuildFailed, "/nix/store/00000000000000000000000000000000-x.drv failed"),
				Derivations: []wire.DrvResult{{Drv: "/nix/store/00000000000000000000000000000000-x.drv", Error: nasty}},
			}})
			return true
		}), "begin "},
	} {
		t.Run(name, func(t *testing.T) {
			im := newImpostor(t, f.honest, c.tamper)
			out, err := onTerminal(t, f.clients[lab.Sid].BuildCmd(im.ticket, "-L", "--no-link", "--impure", "--expr", string(deceived)))
			if lab.ExitCode(err) <= 0 && c.shows != "" {
				t.Errorf("it ends with %v", err)
			}
			if c.shows != "" && !bytes.Contains(out, []byte("\x1b[1;31merror")) {
				t.Error("it does not take this for a terminal")
			}
			text := allowed.ReplaceAllString(string(out), "\n")
			for i, r := range text {
				if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r <= 0x9f {
					t.Errorf("the terminal gets %q", text[max(0, i-20):min(len(text), i+20)])
					break
				}
			}
			if !strings.Contains(strings.ReplaceAll(text, "\n", ""), strings.ReplaceAll(c.shows, "\n", "")) {
				t.Errorf("it does not show %q:\n%q", c.shows, out)
			}
			f.clients[lab.Sid].unchanged(t)
		})
	}
	f.verify(t)
}

// onTerminal runs a command on a terminal and returns what that was sent.
func onTerminal(t *testing.T, cmd *lab.Cmd) ([]byte, error) {
	t.Helper()
	master, slave := terminal(t)
	defer master.Close()
	defer slave.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.AddEnv("TERM=xterm-256color")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	watchdog := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer watchdog.Stop()
	var out bytes.Buffer
	// EIO is how a terminal tells that nobody writes to it any more.
	_, _ = io.Copy(&out, master)
	return out.Bytes(), cmd.Wait()
}

// terminal makes one; programs get the second end.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}
