//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// One slot, several clients: who waits sees its place, has its inputs sent
// meanwhile, and frees the place at once by leaving.
func TestQueue(t *testing.T) {
	p := lab.NewPair(t, lab.Trixie, lab.Trixie)
	b, c := p.Builder, p.Client
	gate := lab.NewGate(t, b.Host, "queue")
	start := func(salt string, e lab.Expr) *lab.Process {
		return c.StartBuild(b.Ticket("--name", salt), "-L", "--no-link", "--print-out-paths", "--impure", "--expr", string(e))
	}
	first := start("first", lab.Waiting(gate, "first"))
	first.WaitFor(`waiting at queue`, longest)

	second := start("second", lab.Hello("queue-second"))
	second.WaitFor(`position 1\b`, longest)
	third := start("third", lab.Hello("queue-third"))
	third.WaitFor(`position 2\b`, longest)
	// All inputs are there, though nothing but the first has run.
	eventually(t, "the waiting builds have sent their inputs", func() bool { return queued(t, b) == 2 })
	for _, salt := range []string{"queue-second", "queue-third"} {
		drv := c.Host.Must(c.Host.Command(lab.Alice, "nix-instantiate", "--expr", string(lab.Hello(salt))))
		if !b.Host.Has(drv) {
			t.Errorf("%s is not on the builder while its build waits", drv)
		}
	}
	if s := statusOf(t, b); s.Running != 1 || s.Waiting != 2 {
		t.Errorf("%d builds run and %d wait, want 1 and 2", s.Running, s.Waiting)
	}

	// Ctrl-C of the second: the third moves up at once, while the first still runs.
	second.Interrupt()
	third.WaitFor(`position 1\b`, longest)
	if code := lab.ExitCode(second.Wait(longest)); code != 130 {
		t.Errorf("the interrupted client ends with %d", code)
	}
	if s := statusOf(t, b); s.Running != 1 || s.Waiting != 1 {
		t.Errorf("%d builds run and %d wait, want 1 and 1", s.Running, s.Waiting)
	}
	// SIGTERM frees the place too.
	fourth := start("fourth", lab.Hello("queue-fourth"))
	fourth.WaitFor(`position 2\b`, longest)
	fourth.Signal(syscall.SIGTERM)
	fourth.Wait(longest)
	eventually(t, "one build waits", func() bool { return statusOf(t, b).Waiting == 1 })

	saysNot(t, third.Output(), "building /nix/store")
	gate.Open()
	for name, process := range map[string]*lab.Process{"first": first, "third": third} {
		if err := process.Wait(longest); err != nil {
			t.Errorf("%s: %v\n%s", name, err, process.Output())
		}
	}
	if strings.Contains(second.Output(), "building /nix/store") {
		t.Errorf("the build that was left has run:\n%s", second.Output())
	}
	p.Verify(t)
}

// queued is how many builds wait for nothing but a slot.
func queued(t *testing.T, b *lab.Builder) (n int) {
	t.Helper()
	for _, a := range statusOf(t, b).Active {
		if a.State == "queued" {
			n++
		}
	}
	return n
}

// What its owner and three clients do to a builder in a day, on every version of
// Nix: a fair queue, a ticket that is revoked while its builds run and wait, a
// build that goes on although a part of it fails, a stop that lets running builds
// end, and a restart that detached builds outlive.
func TestBuildersDay(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		h := lab.NewHost(t, root, lab.WithName("builder"))
		h.StartDaemon()
		p := lab.Join(t, h, lab.NewHost(t, root, lab.WithName("client")), lab.BuilderConfig{Args: []string{"--drain-timeout", "2m"}})
		b, c := p.Builder, p.Client
		expr := func(e lab.Expr) []string { return []string{"--no-link", "--impure", "--expr", string(e)} }
		drvThru := func(args ...string) *lab.Cmd { return c.Host.Command(c.User, append([]string{"drv-thru"}, args...)...) }

		t.Run("fair between three clients", func(t *testing.T) {
			b.Admin("pause")
			tickets := make(map[string]string)
			var waiting []*lab.Process
			// All of a client's builds come before the next one's.
			for i, who := range []string{"a", "a", "a", "b", "b", "c"} {
				if tickets[who] == "" {
					tickets[who] = b.Ticket("--name", who, "--uses", "3")
				}
				waiting = append(waiting, c.StartBuild(tickets[who], expr(lab.Hello(fmt.Sprint("fair-", who, i)))...))
				eventually(t, "the build waits", func() bool { return queued(t, b) == i+1 })
			}
			b.Admin("resume")
			for _, w := range waiting {
				if err := w.Wait(longest); err != nil {
					t.Fatalf("%v\n%s", err, w.Output())
				}
			}
			type build struct {
				Ticket  string
				Started time.Time
			}
			var builds []build
			decode(t, b.Admin("builds", "list", "--json"), &builds)
			slices.SortFunc(builds, func(x, y build) int { return x.Started.Compare(y.Started) })
			names := make(map[string]string)
			for who := range tickets {
				names[ticketNamed(t, b, who).ID] = who
			}
			order := ""
			for _, x := range builds {
				order += names[x.Ticket]
			}
			if order != "abcaba" {
				t.Errorf("served in the order %s", order)
			}
		})

		t.Run("revoke", func(t *testing.T) {
			gate := lab.NewGate(t, h, "revoke")
			ticket := b.Ticket("--name", "gone", "--uses", "2")
			running := c.StartBuild(ticket, append(expr(lab.Waiting(gate, "gone")), "-L")...)
			running.WaitFor(`waiting at revoke`, longest)
			waiting := c.StartBuild(ticket, expr(lab.Hello("gone"))...)
			waiting.WaitFor(`position 1\b`, longest)
			says(t, b.Admin("ticket", "revoke", "gone", "--cancel"), "2 builds")
			for _, w := range []*lab.Process{running, waiting} {
				if code := lab.ExitCode(w.Wait(longest)); code != wire.ExitDenied {
					t.Errorf("it ends with %d", code)
				}
				says(t, w.Output(), "ticket revoked")
			}
			eventually(t, "nothing runs", func() bool { return len(h.BuildProcesses()) == 0 })
		})

		t.Run("keep going", func(t *testing.T) {
			c.Host.WriteFile(lab.Alice, "/home/alice/some.nix", lab.Attrs(map[string]lab.Expr{
				"bad": lab.Failing("keep"), "good": lab.Hello("keep"), "well": lab.Hello("keep-too"),
			}))
			text := fails(t, c.BuildCmd(b.Ticket(), "--no-link", "--keep-going", "-f", "some.nix", "good", "bad", "well").In("/home/alice"), wire.ExitBuildFailed)
			says(t, text, "-failing.drv", "exit code 7")
			hellos := strings.Join(h.Paths(), "\n")
			for _, salt := range []string{"keep", "keep-too"} {
				out := c.Host.Must(c.Host.Command(lab.Alice, "nix-instantiate", "--eval", "--expr", "("+string(lab.Hello(salt))+").outPath"))
				says(t, hellos, strings.Trim(out, `"`))
			}
		})

		t.Run("inputs of a flake", func(t *testing.T) {
			const dir = "/home/alice/inputs"
			flake := strings.Replace(lab.Flake(map[string]lab.Expr{"default": lab.Hello("@DEP@")}), "outputs = { self }",
				`inputs.dep = { url = "path:`+dir+`/one"; flake = false; }; outputs = { self, dep }`, 1)
			c.Host.WriteFile(lab.Alice, dir+"/flake/flake.nix", strings.Replace(flake, "@DEP@", `" + builtins.readFile "${dep}/text" + "`, 1))
			build := func(args ...string) string {
				path := must(t, c.BuildCmd(b.Ticket(), append([]string{"--no-link", "--print-out-paths", "path:./flake"}, args...)...).In(dir))
				return c.Host.Run(lab.Alice, path+"/bin/hello")
			}
			for _, text := range []string{"one", "two"} {
				c.Host.WriteFile(lab.Alice, dir+"/"+text+"/text", text)
				if got := build("--override-input", "dep", "path:"+dir+"/"+text); got != "hello "+text {
					t.Errorf("with the input %s it prints %q", text, got)
				}
			}
			c.Host.WriteFile(lab.Alice, dir+"/two/text", "three")
			if got := build("--refresh", "--override-input", "dep=path:"+dir+"/two"); got != "hello three" {
				t.Errorf("refreshed it prints %q", got)
			}
		})

		t.Run("dry run", func(t *testing.T) {
			ticket := b.Ticket("--name", "dry", "--uses", "2")
			dry := func() string {
				return must(t, c.BuildCmd(ticket, append(expr(lab.Hello("dry")), "--dry-run")...))
			}
			for _, line := range []string{`would send    1 path, [0-9.]+ (B|KiB) of [0-9.]+ (B|KiB)`, `would build   unknown`, `would import  unknown`} {
				if out := dry(); !regexp.MustCompile(line).MatchString(out) {
					t.Errorf("lacks %q:\n%s", line, out)
				}
			}
			path := must(t, c.BuildCmd(ticket, append(expr(lab.Hello("dry")), "--print-out-paths")...))
			c.Host.Delete(path)
			out := dry()
			says(t, out, "would send    0 paths, 0 B of ", "would build   nothing: it is built there already")
			if !regexp.MustCompile(`would import  1 path at most, [0-9.]+ (B|KiB) unpacked`).MatchString(out) || c.Host.Has(path) {
				t.Errorf("of what is there already:\n%s", out)
			}
			spent(t, b, "dry", 1)
		})

		t.Run("json", func(t *testing.T) {
			ticket := b.Ticket("--name", "json", "--uses", "unlimited")
			gate := lab.NewGate(t, h, "json")
			run := func(command string, args ...string) string {
				argv := append(append(strings.Fields(command), "--json", "--ticket", ticket), args...)
				return printsJSON(t, command, must(t, c.Host.Command(c.User, argv...)))
			}
			detach := func(e lab.Expr) string {
				var d struct{ Build string }
				decode(t, run("drv-thru build --detach", expr(e)[1:]...), &d)
				return d.Build
			}
			run("drv-thru build --dry-run", expr(lab.MultiOutput("json"))...)
			run("drv-thru attach", "--no-link", detach(lab.MultiOutput("json")))
			run("drv-thru build --dry-run", append(expr(lab.MultiOutput("json")), "--rebuild")...)
			run("drv-thru build", expr(lab.MultiOutput("json"))...)
			waiting := detach(lab.Waiting(gate, "json"))
			eventually(t, "it builds", func() bool { return strings.Contains(b.Admin("builds", "show", waiting), "-waiting.drv") })
			for _, command := range []string{"status", "builds list", "builds show " + waiting, "ticket usage json", "policy log"} {
				name := strings.TrimSuffix(strings.TrimSuffix("drv-thru "+command, " "+waiting), " json")
				printsJSON(t, name, b.Admin(append(strings.Fields(command), "--json")...))
			}
			run("drv-thru cancel", waiting)
			eventually(t, "nothing runs", func() bool { return len(h.BuildProcesses()) == 0 })
			run("drv-thru doctor")
		})

		t.Run("nom", func(t *testing.T) {
			c.Host.WriteFile(lab.RootUser, "/usr/bin/nom", "#!/bin/sh\nexec cat >/tmp/nom\n")
			c.Host.Run(lab.RootUser, "chmod", "+x", "/usr/bin/nom")
			e := lab.Concat("nom", "nom", lab.Hello("nom"))
			if out, err := onTerminal(t, c.BuildCmd(b.Ticket(), append(expr(e), "-L")...)); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			told, err := c.Host.ReadFile("/tmp/nom")
			if err != nil {
				t.Fatal(err)
			}
			says(t, string(told), `"type":105`, "built hello")
			// Nix's own log, which nom is made for, is held to the same.
			nixs, err := h.Command(lab.Alice, "nix", "--extra-experimental-features", "nix-command", "build", "--no-link", "-L", "--log-format", "internal-json",
				"--impure", "--expr", string(lab.Concat("nom", "nom", lab.Hello("nom-itself")))).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, nixs)
			}
			says(t, string(nixs), `"type":105`)
			for whose, text := range map[string][]byte{"ours": told, "Nix's": nixs} {
				for line := range strings.Lines(string(text)) {
					if err := nomReads(line); err != nil {
						t.Errorf("%s: nom would not read %s: %v", whose, line, err)
					}
				}
			}
		})

		t.Run("stop and start", func(t *testing.T) {
			ticket := b.Ticket("--name", "day", "--uses", "3")
			running, cut := lab.NewGate(t, h, "running"), lab.NewGate(t, h, "cut")
			detach := func(e lab.Expr) string {
				return must(t, drvThru(append([]string{"build", "--ticket", ticket, "--detach"}, expr(e)[1:]...)...))
			}
			attached := func(id string) *lab.Process {
				return c.Host.StartCmd(drvThru("attach", "--ticket", ticket, "-L", "--no-link", "--print-out-paths", id))
			}
			runs := func(id, at string) func() bool {
				return func() bool {
					return strings.Contains(must(t, drvThru("log", "--ticket", ticket, id)), "waiting at "+at)
				}
			}
			// The stop waits for what runs, the queue does not move.
			first, second := detach(lab.Waiting(running, "day")), detach(lab.Waiting(cut, "day-cut"))
			eventually(t, "the first build runs", runs(first, "running"))
			eventually(t, "the second waits", func() bool {
				return slices.ContainsFunc(statusOf(t, b).Active, func(a buildState) bool { return a.ID == second && a.State == "queued" })
			})
			b.Signal(syscall.SIGTERM)
			b.WaitFor(`running builds may end first`, longest)
			running.Open()
			if err := b.Wait(longest); err != nil {
				t.Errorf("the builder ends with %v", err)
			}
			b.Start()
			eventually(t, "the second goes on by itself", runs(second, "cut"))
			says(t, b.Admin("builds", "show", first), "built")
			// A crash: the build begins again, and who is attached sees the end.
			follower := attached(second)
			follower.WaitFor(`waiting at cut`, longest)
			b.Kill()
			b.Start()
			follower.WaitFor(`(?s)the build begins again.*the build begins again.*waiting at cut`, longest)
			cut.Open()
			if err := follower.Wait(longest); err != nil {
				t.Errorf("%v\n%s", err, follower.Output())
			}
			spent(t, b, "day", 2)
			says(t, must(t, drvThru("log", "--ticket", ticket, second)), "passed cut")

			closed := lab.NewGate(t, h, "closed")
			third := detach(lab.Waiting(closed, "day-cancelled"))
			eventually(t, "the third build runs", runs(third, "closed"))
			says(t, must(t, drvThru("cancel", "--ticket", ticket, third)), "cancelled "+third)
			eventually(t, "nothing runs", func() bool { return len(h.BuildProcesses()) == 0 })
		})
		p.Verify(t)
	})
}
