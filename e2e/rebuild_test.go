//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// --rebuild of what the builder has never built builds it twice and compares; of
// what it has, once more. The second of two results that differ is kept for a
// trusted client, and for the holder of a ticket nothing is.
func TestRebuild(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		bh := lab.NewHost(t, root, lab.WithName("builder"))
		ch := lab.NewHost(t, root, lab.WithName("client"))
		bh.StartDaemon()
		c := lab.NewClient(t, ch)
		relay := lab.StartRelay(t, bh)
		b := lab.StartBuilder(t, bh, lab.BuilderConfig{
			Relays: []string{relay.URL}, Args: []string{"--trusted-client", ch.Run(lab.Alice, "drv-thru", "key", "show")},
		})
		ch.StartDaemon("trusted-public-keys = " + b.PublicKey())
		rebuild := func(route []string, e lab.Expr) *lab.Cmd {
			args := append([]string{"drv-thru", "build", "-L", "--rebuild", "--no-link", "--impure", "--expr", string(e)}, route...)
			return ch.Command(c.User, args...)
		}
		trusted := []string{"--server", statusOf(t, b).Endpoint, "--relay-url", relay.URL}

		e := lab.Hello("rebuild")
		for _, times := range []int{2, 1} {
			out, err := rebuild(trusted, e).CombinedOutput()
			if err != nil || strings.Count(string(out), "built hello") != times {
				t.Errorf("%v; it should have been built %d times:\n%s", err, times, out)
			}
		}
		// It is here now: nobody has to be named, and nobody is asked.
		named := func(e lab.Expr) *lab.Cmd {
			return ch.Command(c.User, "drv-thru", "build", "-o", "/tmp/rebuilt", "--impure", "--expr", string(e))
		}
		here, err := offline(named(e)).CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, here)
		}
		says(t, string(here), "everything is here already; nobody was asked", "-hello")
		says(t, fails(t, named(lab.Hello("elsewhere")), wire.ExitUsage), "has to be built elsewhere", "--ticket TICKET, --builder NAME", "--server ID")

		holder := []string{"--ticket", b.Ticket("--uses", "unlimited")}
		out := fails(t, rebuild(holder, lab.Random("rebuild")), wire.ExitBuildFailed)
		says(t, out, "the second build gave another result", "/nix/store/", "differs")
		saysNot(t, out, ".check", "share/random")
		if err := bh.Verify(); err != nil {
			t.Error("a ticket leaves something behind:", err)
		}
		if dirs := buildDirs(bh); len(dirs) > 0 {
			t.Errorf("a ticket leaves %q behind", dirs)
		}
		out = fails(t, rebuild(trusted, lab.Random("rebuild")), wire.ExitBuildFailed)
		says(t, out, "differs from", ".check")
		saysNot(t, out, "share/same")
		// With it Nix keeps the directory of the build, which only root can remove.
		dirs := buildDirs(bh)
		if len(dirs) != 1 {
			t.Fatalf("Nix has kept %q", dirs)
		}
		if out, err := bh.Command(lab.BuilderUser, "rm", "-rf", dirs[0]).CombinedOutput(); err == nil || len(buildDirs(bh)) != 1 {
			t.Errorf("drv-thru's user can remove %s, so it should: %v %s", dirs[0], err, out)
		}
		bh.Run(lab.RootUser, "rm", "-r", dirs[0])
		// The other result goes with the garbage.
		bh.Run(lab.RootUser, "nix-store", "--gc")
		if err := bh.Verify(); err != nil {
			t.Error(err)
		}
	})
}

// buildDirs are the directories of builds that Nix has not removed.
func buildDirs(h *lab.Host) []string {
	out := h.Run(lab.RootUser, "sh", "-c", "ls -d /tmp/nix-build-* /nix/var/nix/builds/* 2>/dev/null || true")
	return strings.Fields(out)
}
