//go:build e2e

package e2e

import (
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// A day with a builder: builds that are left and come back to, seen and steered
// from both ends, with a ticket and as a trusted client with a name for the
// builder.
func TestHabits(t *testing.T) {
	bh := lab.NewHost(t, lab.Trixie, lab.WithName("builder"))
	ch := lab.NewHost(t, lab.Trixie, lab.WithName("client"))
	bh.StartDaemon()
	c := lab.NewClient(t, ch)
	mine := ch.Run(lab.Alice, "drv-thru", "key", "show")
	relay := lab.StartRelay(t, bh, "--log-level", "debug")
	const config = "/tmp/habits.json"
	bh.WriteFile(lab.BuilderUser, config, `{"keep_outputs": "1h"}`)
	b := lab.StartBuilder(t, bh, lab.BuilderConfig{Relays: []string{relay.URL}, Args: []string{"--config", config}})
	ch.StartDaemon("trusted-public-keys = " + b.PublicKey())
	drvThru := func(args ...string) *lab.Cmd {
		return ch.Command(c.User, append([]string{"drv-thru"}, args...)...)
	}
	detach := func(route []string, e lab.Expr) string {
		t.Helper()
		return must(t, drvThru(append(append([]string{"build"}, route...), "--detach", "--impure", "--expr", string(e))...))
	}
	gate := lab.NewGate(t, bh, "habits")

	t.Run("detach and attach", func(t *testing.T) {
		// One use is enough for all of it.
		ticket := []string{"--ticket", b.Ticket("--name", "habits", "--uses", "1")}
		id := detach(ticket, lab.Waiting(gate, "detached"))
		log := func(route []string) *lab.Cmd { return drvThru(append(append([]string{"log"}, route...), id)...) }
		eventually(t, "the build goes on by itself", func() bool { return strings.Contains(must(t, log(ticket)), "waiting at habits") })
		says(t, b.Admin("builds", "list"), id, "building")
		says(t, b.Admin("builds", "show", id[:8]), "no: it is detached")
		spent(t, b, "habits", 1)

		// It is nobody else's.
		other := []string{"--ticket", b.Ticket("--name", "other")}
		for _, command := range []string{"attach", "log", "cancel"} {
			says(t, fails(t, drvThru(append(append([]string{command}, other...), id)...), wire.ExitFailed), "no such build", "that started it")
		}

		attach := func(args ...string) *lab.Process {
			return ch.StartCmd(drvThru(append(append([]string{"attach"}, ticket...), append(args, id)...)...))
		}
		visitor := attach("-L", "--no-link")
		visitor.WaitFor(`waiting at habits`, longest)
		visitor.Interrupt()
		if code := lab.ExitCode(visitor.Wait(longest)); code != 130 {
			t.Errorf("who leaves ends with %d:\n%s", code, visitor.Output())
		}
		if s := statusOf(t, b); s.Running != 1 {
			t.Errorf("%d builds run after the visitor has left", s.Running)
		}
		follower := attach("-L", "-o", "/tmp/habits", "--print-out-paths")
		follower.WaitFor(`waiting at habits`, longest)
		gate.Open()
		if err := follower.Wait(longest); err != nil {
			t.Fatalf("%v\n%s", err, follower.Output())
		}
		path := ch.Run(c.User, "readlink", "/tmp/habits")
		if !ch.Has(path) || !strings.Contains(follower.Output(), path) {
			t.Errorf("%s is not here; attach printed\n%s", path, follower.Output())
		}

		// Later still.
		says(t, must(t, log(ticket)), "waiting at habits")
		says(t, b.Admin("builds", "log", id), "waiting at habits")
		says(t, fails(t, drvThru(append(append([]string{"cancel"}, ticket...), id)...), wire.ExitFailed), "has ended already: built")
		says(t, b.Admin("ticket", "usage", "habits"), "1 of 1", "builds       1, of them 1 in the last hour")
	})

	home := []string{"--builder", "home"}
	t.Run("named builder", func(t *testing.T) {
		add := []string{"builders", "add", "--replace", "home", "--endpoint-id", statusOf(t, b).Endpoint, "--relay-url", relay.URL, "--public-key"}
		must(t, drvThru(append(add, b.PublicKey())...))

		// It trusts this client once its configuration says so.
		says(t, fails(t, drvThru("builders", "test"), wire.ExitDenied), "failed home: ", "trusted_clients the public_key "+mine)
		bh.WriteFile(lab.BuilderUser, config, `{"keep_outputs": "1h", "systems": ["x86_64-linux"], "trusted_clients": {"alice": {"public_key": "`+mine+`"}}}`)
		b.Signal(syscall.SIGHUP)
		b.WaitFor(`needs a restart.*key=systems`, longest)
		b.WaitFor(`changed=\[trusted_clients\]`, longest)
		says(t, must(t, drvThru("builders", "test")), "ok     home: drv-thru")
		must(t, drvThru(append(add, "other-1:arnx6499M4j0+dWG9m6Z/VQIDfLERvDlhmiwnAihbdA=")...))
		wrong := fails(t, drvThru("build", "--builder", "home", "--no-link", "--impure", "--expr", string(lab.Hello("habits"))), wire.ExitFailed)
		says(t, wrong, "signs with "+b.PublicKey(), "builders add --replace")
		must(t, drvThru(append(add, b.PublicKey())...))

		says(t, b.Admin("pause"), "paused")
		id := detach(home, lab.Hello("habits"))
		eventually(t, "the build waits", func() bool { return strings.Contains(b.Admin("status"), "queued (1.)") })
		if s := statusOf(t, b); s.Waiting != 1 || s.Running != 0 {
			t.Errorf("%d builds run and %d wait while the builder is paused", s.Running, s.Waiting)
		}
		saysNot(t, b.Admin("resume"), "paused")
		path := must(t, drvThru("attach", "--builder", "home", "--no-link", "--print-out-paths", id))
		if !ch.Has(path) {
			t.Errorf("%q is not here", path)
		}

		says(t, b.Admin("drain", "--wait"), "0 waiting, draining")
		refused := drvThru("build", "--builder", "home", "--no-link", "--impure", "--expr", string(lab.Hello("habits-drained")))
		says(t, fails(t, refused, wire.ExitUnreachable), "takes no new builds")
		b.Admin("resume")
	})

	t.Run("cancel", func(t *testing.T) {
		closed := lab.NewGate(t, bh, "closed")
		id := detach(home, lab.Waiting(closed, "cancelled"))
		runs := func() bool {
			return strings.Contains(must(t, drvThru("log", "--builder", "home", id)), "waiting at closed")
		}
		eventually(t, "the build runs", runs)
		says(t, must(t, drvThru("cancel", "--builder", "home", id)), "cancelled "+id)
		eventually(t, "nothing runs", func() bool { return statusOf(t, b).Running == 0 })
		says(t, fails(t, drvThru("attach", "--builder", "home", "--no-link", id), wire.ExitFailed), "build cancelled: by its client")

		id = detach(home, lab.Waiting(closed, "cancelled by the owner"))
		eventually(t, "the second build runs", runs)
		says(t, b.Admin("builds", "cancel", id), "cancelled "+id)
		says(t, b.Admin("builds", "show", id), "by the builder's owner")
	})
	t.Run("attach to what failed in part", func(t *testing.T) {
		good := lab.Hello("habits in part")
		some := lab.Attrs(map[string]lab.Expr{"bad": lab.Failing("habits"), "good": good})
		id := must(t, drvThru("build", "--builder", "home", "--detach", "--keep-going", "--impure", "--expr", some, "good", "bad"))
		text := fails(t, drvThru("attach", "--builder", "home", "--no-link", id), wire.ExitBuildFailed)
		says(t, text, "-failing.drv", "exit code 7")
		path := strings.Trim(ch.Run(lab.Alice, "nix-instantiate", "--eval", "--expr", "("+string(good)+").outPath"), `"`)
		if !ch.Has(path) {
			t.Errorf("%s is not here; attach printed\n%s", path, text)
		}
	})
	t.Run("nobody reads", func(t *testing.T) {
		closed := lab.NewGate(t, bh, "unread")
		piped := ch.Command(c.User, "bash", "-c", `drv-thru build --builder home -L --no-link --impure --expr "$0" 2>&1 | head -n 1; echo ended with ${PIPESTATUS[0]}`,
			string(lab.Waiting(closed, "unread")))
		says(t, must(t, piped), "evaluating", "ended with 141")
		// Not only when the builder has waited for its client for long enough.
		within(t, 30*time.Second, "nothing of it runs", func() bool { return statusOf(t, b).Running+statusOf(t, b).Waiting == 0 })
		if mounts := ch.FuseMounts(); len(mounts) > 0 {
			t.Errorf("mounted: %v", mounts)
		}
	})
	t.Run("nohup", func(t *testing.T) {
		gate := lab.NewGate(t, bh, "nohup")
		left := ch.StartCmd(ch.Command(c.User, "nohup", "drv-thru", "build", "--builder", "home", "-L", "--no-link", "--impure", "--expr", string(lab.Waiting(gate, "nohup"))))
		left.WaitFor(`waiting at nohup`, longest)
		left.Signal(syscall.SIGHUP)
		gate.Open()
		if err := left.Wait(longest); err != nil {
			t.Errorf("the end of its terminal ends it: %v\n%s", err, left.Output())
		}
	})
	t.Run("in a user namespace", func(t *testing.T) {
		// Who is root there alone may mount nothing outside of it.
		inside := []string{"unshare", "--user", "--map-root-user", "drv-thru", "build", "--builder", "home", "--no-link", "--impure", "--expr", string(lab.Hello("habits-namespace"))}
		out, err := ch.Command(c.User, inside...).CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		says(t, string(out), "importing over HTTP on this machine, because: mount on /tmp/drv-thru-0/mount-", ": operation not permitted\n")
		saysNot(t, string(out), "fusermount")
	})
	t.Run("one ID in all logs", func(t *testing.T) {
		out, err := drvThru("build", "-v", "--builder", "home", "--no-link", "--impure", "--expr", string(lab.Hello("habits-logged"))).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		id := regexp.MustCompile(`msg="the build has ended" build=(\w+)`).FindStringSubmatch(string(out))
		if id == nil {
			t.Fatalf("the client does not tell the build's ID:\n%s", out)
		}
		admitted := regexp.MustCompile(`msg="build admitted" build=` + id[1] + ` .* circuit=([0-9a-f]{32})\n`).FindStringSubmatch(b.Output())
		if admitted == nil {
			t.Fatalf("the builder does not tell of build %s, or of its circuit", id[1])
		}
		says(t, string(out), "circuit="+admitted[1])
		says(t, relay.Output(), "circuit="+admitted[1])
		saysNot(t, relay.Output(), id[1])
	})
	t.Run("not the owner", func(t *testing.T) {
		out := fails(t, bh.Command(lab.Alice, "drv-thru", "status", "--admin-socket", "/var/lib/drv-thru/state/admin.sock"), wire.ExitUnreachable)
		says(t, out, "error: may not talk to the builder: no access to", "hint: run this as root, or as a member of the socket's group")
	})
	t.Run("state", func(t *testing.T) {
		copied := b.Admin("state", "backup", "/tmp/habits.db")
		says(t, copied, "/tmp/habits.db, ")
		check := func() *lab.Cmd {
			return bh.Command(lab.BuilderUser, "drv-thru", "serve", "--check", "--config", config, "--data-dir", "/tmp/habits", "--relay", relay.URL)
		}
		bh.Run(lab.BuilderUser, "mkdir", "/tmp/habits")
		bh.Run(lab.BuilderUser, "cp", "/tmp/habits.db", "/tmp/habits/state.db")
		says(t, must(t, check()), "/tmp/habits/state.db: good", "can be served")
		bh.WriteFile(lab.BuilderUser, config, `{"trusted_client": {}}`)
		says(t, fails(t, check(), wire.ExitUsage), `unknown key "trusted_client"; is it "trusted_clients"? (line 1)`)
	})
	if err := ch.Verify(); err != nil {
		t.Error(err)
	}
	// Nix sometimes leaves the sandbox of a build that was cancelled.
	whole(t, bh, ".drv.chroot")
	if mounts := ch.FuseMounts(); len(mounts) > 0 {
		t.Errorf("mounted on the client: %v", mounts)
	}
}
