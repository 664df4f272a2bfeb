//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// cancelTime is how soon after Ctrl-C nothing of a build runs any more.
const cancelTime = 5 * time.Second

// Whatever ends or restarts, and whenever it does: nothing stays half-made, and
// the next run works, or this one goes on by itself.
func TestInterrupted(t *testing.T) {
	t.Parallel() // it waits for half of its time
	s := newStage(t, lab.Bookworm, lab.Bookworm)

	t.Run("Ctrl-C", func(t *testing.T) {
		s.eachPhase(t, func(t *testing.T, w *work) {
			w.client.Interrupt()
			within(t, cancelTime, "nothing is built", func() bool { return len(s.pair.Builder.Host.BuildProcesses()) == 0 })
			w.exits(t, 130)
			if mounts := s.pair.Client.Host.FuseMounts(); len(mounts) > 0 {
				t.Errorf("mounted on the client: %v", mounts)
			}
			w.cancelled(t, "build.cancelled")
			w.runAgain(t)
		})
		t.Run("twice", s.interruptTwice)
	})

	t.Run("client killed", func(t *testing.T) {
		s.configure(t, "2s")
		defer s.configure(t, "2m")
		s.eachPhase(t, func(t *testing.T, w *work) {
			w.client.Kill()
			eventually(t, "nothing is mounted", func() bool { return len(s.pair.Client.Host.FuseMounts()) == 0 })
			// Bytes that were under way still arrive.
			s.valve.open()
			w.cancelled(t, "build.abandoned")
			w.runAgain(t)
		})
	})

	for name, end := range map[string]func(){
		"builder killed":    func() { s.pair.Builder.Kill() },
		"builder restarted": func() { s.pair.Builder.Stop(longest) },
	} {
		t.Run(name, func(t *testing.T) {
			s.eachPhase(t, func(t *testing.T, w *work) {
				end()
				s.pair.Builder.Start()
				w.release()
				w.exits(t, 0)
				w.goneOn(t)
			})
		})
	}

	t.Run("relay restarted", func(t *testing.T) {
		s.eachPhase(t, func(t *testing.T, w *work) {
			if w.phase == midBuild {
				w.buildsWithoutRelay(t)
				return
			}
			s.pair.Relay.Restart()
			w.release()
			w.exits(t, 0)
			w.goneOn(t)
		})
	})
}

// The newest Nix on both sides.
func TestInterruptedNewestNix(t *testing.T) {
	s := newStage(t, lab.Sid, lab.Sid)
	s.during(t, midBuild, func(t *testing.T, w *work) { w.buildsWithoutRelay(t) })
}

// interruptTwice presses Ctrl-C while the builder cannot be told, and again.
func (s *stage) interruptTwice(t *testing.T) {
	s.during(t, midBuild, func(t *testing.T, w *work) {
		s.valve.shut()
		w.client.Interrupt()
		w.client.WaitFor("once more to leave at once", longest)
		w.client.Interrupt()
		w.exits(t, 130)
		// It has not waited for the first one's answer or end.
		saysNot(t, w.client.Output(), "error: interrupted")
		// Unless the builder hears of it after all, only the grace period helps;
		// here its owner does, in a way that fails for no build that has ended.
		s.valve.open()
		s.pair.Builder.Admin("ticket", "revoke", w.name, "--cancel")
		w.ticket = s.valve.ticket(t, s.pair.Builder.Ticket())
		w.runAgain(t)
	})
}

// Two times Ctrl-C leave nothing of an import behind, not even a nix copy that does not end
// when it is told to, as that of Nix 2.8 now and then.
func TestInterruptedTwiceImporting(t *testing.T) {
	p := lab.NewPair(t, lab.Bookworm, lab.Trixie)
	c, h := p.Client, p.Client.Host
	const dir = "/home/" + lab.Alice + "/bin"
	h.WriteFile(lab.Alice, dir+"/nix", `#!/bin/bash
case " $* " in *" copy --from "*) ;; *) exec /usr/bin/nix "$@" ;; esac
trap '' TERM
touch `+dir+`/begun
exec sleep 1000
`)
	h.Run(lab.Alice, "chmod", "+x", dir+"/nix")
	args := []string{"--no-link", "--impure", "--expr", string(lab.Blob(1, "twice"))}
	build := h.StartCmd(c.BuildCmd(p.Builder.Ticket(), args...).AddEnv("PATH=" + dir + ":/usr/local/bin:/usr/bin:/bin"))
	eventually(t, "nix copy has begun", func() bool { _, err := h.ReadFile(dir + "/begun"); return err == nil })
	build.Interrupt()
	build.WaitFor("once more to leave at once", longest)
	build.Interrupt()
	if code := lab.ExitCode(build.Wait(longest)); code != 130 {
		t.Errorf("exit code %d", code)
	}
	alice := uid(t, h, lab.Alice)
	eventually(t, "nothing of it runs", func() bool {
		return !slices.ContainsFunc(h.Processes(), func(p lab.ProcessInfo) bool { return p.UID == alice })
	})
	if left := list(t, h, fmt.Sprintf("/tmp/drv-thru-%d", alice)); len(left) > 0 {
		t.Errorf("left of its mount: %v", left)
	}
	c.Build(p.Builder.Ticket(), args...)
	p.Verify(t)
}

// buildsWithoutRelay kills the relay, lets the build go on without one, starts
// the relay again and looks for every line of the log, once and in order.
func (w *work) buildsWithoutRelay(t *testing.T) {
	s := w.stage
	s.pair.Relay.Kill()
	w.client.WaitFor("lost the connection to the builder", longest)
	w.gates[0].Open()
	events := dataDir + "/builds/" + w.id + "/events.ndjson"
	eventually(t, "the build goes on", func() bool {
		text, err := s.pair.Builder.Host.ReadFile(events)
		return err == nil && lineOfLog(2*logPart).Match(text)
	})
	if printed := lineOfLog(logPart + 1).MatchString(w.client.Output()); printed {
		t.Error("the client knows what was logged while there was no relay")
	}
	s.pair.Relay.Start()
	w.client.WaitFor(`log> `+lineOfLog(2*logPart).String(), longest)
	w.release()
	w.exits(t, 0)
	says(t, w.client.Output(), "connected again")
	w.goneOn(t)

	lines := regexp.MustCompile(`(?m)^log> line (\d+)$`).FindAllStringSubmatch(w.client.Output(), -1)
	for i, m := range lines {
		if got, _ := strconv.Atoi(m[1]); got != i+1 {
			t.Fatalf("line %d of the log is where line %d should be", got, i+1)
		}
	}
	if len(lines) != 3*logPart {
		t.Errorf("%d lines of the log came, want %d", len(lines), 3*logPart)
	}
}

func lineOfLog(n int) *regexp.Regexp { return regexp.MustCompile(fmt.Sprintf(`line %d\b`, n)) }
