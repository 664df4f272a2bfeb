//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// A builder whose Nix daemon sends builds to another machine offers what that
// one can build, and tells which machine builds what: by its host, not by the
// URL, which has a user and a key file.
func TestRemoteBuilders(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		const foreign = "riscv64-linux"
		machine := lab.NewHost(t, root, lab.WithName("machine"))
		machine.StartDaemon("extra-platforms = "+foreign, "system-features = fleet")
		bh := lab.NewHost(t, root, lab.WithName("builder"))
		machine.SSHD(lab.RootUser).Alias(bh, lab.RootUser, "fleet-1")
		// Nix's default for its setting "builders" names this file.
		bh.WriteFile(lab.RootUser, "/etc/nix/machines", "ssh-ng://root@fleet-1 "+foreign+","+lab.System+" /root/.ssh/fleet-1 2 1 fleet\n")
		bh.StartDaemon("system-features = ")
		metrics := fmt.Sprintf("127.0.0.1:%d", bh.FreePort())
		ch := lab.NewHost(t, root, lab.WithName("client"))
		p := lab.Join(t, bh, ch, lab.BuilderConfig{Args: []string{"--metrics", metrics}})
		b, c := p.Builder, p.Client
		says(t, b.Admin("status"), foreign)

		gate := lab.NewGate(t, machine, "remote")
		waiting := lab.Expr(strings.Replace(string(lab.Waiting(gate, "remote")), lab.System, foreign, 1))
		build := c.StartBuild(b.Ticket(), "-L", "--no-link", "--print-out-paths", "--impure", "--expr", string(waiting))
		build.WaitFor(`waiting at remote`, longest)
		var active struct{ Active []struct{ ID string } }
		decode(t, b.Admin("status", "--json"), &active)
		if len(active.Active) != 1 {
			t.Fatalf("active are %v", active.Active)
		}
		show := func() string { return b.Admin("builds", "show", active.Active[0].ID) }
		says(t, show(), "-waiting.drv on fleet-1, ")
		gate.Open()
		if err := build.Wait(longest); err != nil {
			t.Fatalf("%v\n%s", err, build.Output())
		}
		out := "/nix/store/" + path.Base(strings.TrimSpace(build.WaitFor(`/nix/store/[a-z0-9]{32}-waiting\n`, longest)[0]))
		if !ch.Has(out) {
			t.Errorf("%s is not on the client", out)
		}
		says(t, show(), "1 derivation on fleet-1")
		saysNot(t, build.Output()+show(), "ssh-ng://", "root@", ".ssh")

		// Its own system, with a feature that only the machine has.
		fleet := lab.Expr(strings.Replace(string(lab.Hello("fleet")), "{", `{ requiredSystemFeatures = [ "fleet" ];`, 1))
		if paths := c.BuildExpr(b.Ticket(), fleet); len(paths) != 1 || !machine.Has(paths[0]) {
			t.Errorf("%v was not built on the machine", paths)
		}
		saysNot(t, strings.Join(machine.Paths(), "\n"), "drv-thru-probe") // which asks the builder's own sandbox

		counted := scrape(t, bh, metrics)
		says(t, counted, `drv_thru_builder_derivations_total{machine="fleet-1"} 2`, `drv_thru_builder_builds_total{code="",result="built"} 2`,
			`drv_thru_builder_slots 1`, `drv_thru_builder_queue_seconds_count 2`, `drv_thru_builder_bytes_total{direction="sent",kind="output",path="relay"}`)
		saysNot(t, counted, `drv_thru_builder_bytes_total{direction="sent",kind="output",path="relay"} 0`+"\n")

		// What it has built counts against a ticket's limit, also once it is there.
		limited := b.Ticket("--max-output-bytes", "1M", "--uses", "2")
		blob := lab.Expr(strings.Replace(string(lab.Blob(2, "fleet")), "{", `{ requiredSystemFeatures = [ "fleet" ];`, 1))
		for range 2 {
			says(t, fails(t, c.BuildCmd(limited, "--no-link", "--impure", "--expr", string(blob)), wire.ExitDenied), "error: output limit exceeded")
		}

		// Nobody builds for that.
		none := lab.Expr(strings.Replace(string(lab.Hello("none")), lab.System, "s390x-linux", 1))
		says(t, fails(t, c.BuildCmd(b.Ticket(), "--no-link", "--impure", "--expr", string(none)), wire.ExitFailed), foreign)
		if err := machine.Verify(); err != nil {
			t.Error(err)
		}
	})
}

// Where nix.conf has max-jobs = 0 nothing is built on the builder itself, also when
// only root may read which machines there are.
func TestNoLocalBuilds(t *testing.T) {
	lab.Programs(t)
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		machine := lab.NewHost(t, root, lab.WithName("machine"))
		machine.StartDaemon()
		bh := lab.NewHost(t, root, lab.WithName("builder"))
		bh.StartDaemon("max-jobs = 0")
		says(t, fails(t, bh.Command(lab.BuilderUser, "drv-thru", "serve"), wire.ExitFailed), "error: nothing can be built", "hint: set max-jobs in nix.conf")

		machine.SSHD(lab.RootUser).Alias(bh, lab.RootUser, "fleet-1")
		bh.WriteSecret(lab.RootUser, "/etc/nix/machines", "ssh-ng://root@fleet-1 "+lab.System+" /root/.ssh/fleet-1\n")
		relay := lab.StartRelay(t, bh)
		b := lab.StartBuilder(t, bh, lab.BuilderConfig{Relays: []string{relay.URL}})
		says(t, b.Output(), "some machines that nix-daemon sends builds to are not offered")
		ch := lab.NewHost(t, root, lab.WithName("client"))
		ch.StartDaemon("trusted-public-keys = " + b.PublicKey())
		path := lab.NewClient(t, ch).BuildExpr(b.Ticket(), lab.Hello("elsewhere"))[0]
		if !ch.Has(path) || !machine.Has(path) {
			t.Errorf("%s was not built on the machine", path)
		}
	})
}

// scrape reads metrics as Prometheus does.
func scrape(t *testing.T, h *lab.Host, at string) (text string) {
	t.Helper()
	err := h.Do(func() error {
		resp, err := http.Get("http://" + at + "/metrics")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		text = string(body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}
