//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// A failed build shows the end of its log once and names the derivation that
// failed, also when it is a dependency.
func TestFailingBuild(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		p := lab.NewPair(t, root, root)
		for name, expr := range map[string]lab.Expr{"itself": lab.Failing("itself"), "dependency": lab.FailingDependency("dependency")} {
			text := fails(t, p.Client.BuildCmd(p.Builder.Ticket(), "--no-link", "--impure", "--expr", string(expr)), wire.ExitBuildFailed)
			failed := regexp.MustCompile(`/nix/store/[a-z0-9]{32}-failing\.drv`)
			if !failed.MatchString(text) {
				t.Errorf("%s: does not name the derivation that failed:\n%s", name, text)
			}
			says(t, text, "error: build failed", "exit code 7")
			for _, line := range []string{"line 7 of the log", "line 30 of the log", "this build fails"} {
				if n := strings.Count(text, line); n != 1 {
					t.Errorf("%s: %q is shown %d times:\n%s", name, line, n, text)
				}
			}
			saysNot(t, text, "line 5 of the log")
		}
		// All of it is had by the ID that the failure names.
		ticket := p.Builder.Ticket()
		text := fails(t, p.Client.BuildCmd(ticket, "--no-link", "--impure", "--expr", string(lab.Failing("log"))), wire.ExitBuildFailed)
		id := regexp.MustCompile(`hint: all of the log: drv-thru log ([a-z2-7]{26})\n`).FindStringSubmatch(text)
		if id == nil {
			t.Fatalf("does not say where the log is:\n%s", text)
		}
		says(t, must(t, p.Client.Host.Command(p.Client.User, "drv-thru", "log", "--ticket", ticket, id[1])), "line 5 of the log")
		p.Verify(t)
		// Of these not every Nix makes a result, and 2.34 leaves outputs behind.
		for expr, want := range map[lab.Expr]string{
			lab.MissingFeature("failing"): "quantum}",
			lab.OutputCycle("failing"):    "cycle",
			lab.OutputFIFO("failing"):     "type",
		} {
			text := fails(t, p.Client.BuildCmd(p.Builder.Ticket(), "--no-link", "--impure", "--expr", string(expr)), wire.ExitBuildFailed)
			says(t, text, "error: build failed", want)
		}
	})
}

// The limits of a ticket on time, uploads and outputs.
func TestTicketLimits(t *testing.T) {
	p := lab.NewPair(t, lab.Trixie, lab.Trixie)
	p.Client.Host.WriteFile(lab.Alice, "/home/alice/limits/src/file", strings.Repeat("0123456789abcdef", 100_000))
	p.Client.Host.WriteFile(lab.Alice, "/home/alice/limits/default.nix", string(lab.WithSource("limits")))

	t.Run("upload", func(t *testing.T) {
		ticket := p.Builder.Ticket("--name", "upload", "--max-upload-bytes", "1M")
		text := fails(t, p.Client.BuildCmd(ticket, "--no-link", "-f", "limits").In("/home/alice"), wire.ExitDenied)
		says(t, text, "error: upload limit exceeded", "1M")
		for _, path := range p.Builder.Host.Paths() {
			if strings.HasSuffix(path, "-source") {
				t.Errorf("%s was taken", path)
			}
		}
	})
	t.Run("output", func(t *testing.T) {
		ticket := p.Builder.Ticket("--name", "output", "--max-output-bytes", "1M", "--uses", "2")
		for range 2 { // what the first build has left in the store counts too
			text := fails(t, p.Client.BuildCmd(ticket, "--no-link", "--impure", "--expr", string(lab.Blob(2, "limits"))), wire.ExitDenied)
			says(t, text, "error: output limit exceeded", "1M")
		}
	})
	p.Verify(t)
}

// A build that runs for longer than its ticket allows is ended, with every
// process of it, and the client is told why.
func TestBuildTimeLimit(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		p := lab.NewPair(t, root, root)
		h := p.Builder.Host
		gate := lab.NewGate(t, h, "time")
		ticket := p.Builder.Ticket("--max-build-time", "1s")
		c := p.Client.StartBuild(ticket, "-L", "--no-link", "--impure", "--expr", string(lab.Waiting(gate, "time")))
		c.WaitFor(`waiting at time`, longest)
		begun := time.Now()
		if len(h.BuildProcesses()) == 0 {
			t.Fatal("no build user's process is seen while the build runs")
		}
		if got := lab.ExitCode(c.Wait(longest)); got != wire.ExitDenied {
			t.Errorf("exit code %d, want %d", got, wire.ExitDenied)
		}
		says(t, c.Output(), "error: build time limit exceeded", "1s")
		within(t, 5*time.Second, "nothing of the build runs any more", func() bool { return len(h.BuildProcesses()) == 0 })
		t.Logf("%s: ended, and all processes gone, %v after it was seen to run", root, time.Since(begun).Round(10*time.Millisecond))

		// The slot is free.
		must(t, p.Client.BuildCmd(p.Builder.Ticket(), "--no-link", "--impure", "--expr", string(lab.Hello("after the limit"))))
		p.Verify(t)
	})
}

// A ticket without fixed outputs builds everything else. What is there already
// may be used.
func TestNoFixedOutput(t *testing.T) {
	p := lab.NewPair(t, lab.Trixie, lab.Trixie)
	ticket := p.Builder.Ticket("--name", "none", "--no-fixed-output", "--uses", "unlimited")
	build := func(ticket string, e lab.Expr) *lab.Cmd {
		return p.Client.BuildCmd(ticket, "--no-link", "--print-out-paths", "--impure", "--expr", string(e))
	}
	fetched := lab.FetchURL(serveText(t, "fetched\n"), "fetched\n")
	fixed := lab.FixedOutput("fixed\n")
	for name, e := range map[string]lab.Expr{
		"builder": fixed, "fetchurl": fetched, "dependency": lab.Concat("needs-fixed", "a", lab.Hello("fixed"), fixed),
	} {
		text := fails(t, build(ticket, e), wire.ExitDenied)
		says(t, text, "error: the ticket builds no fixed-output derivations")
		for _, path := range p.Builder.Host.Paths() {
			if got := names(t, []string{path}); got == "fixed" || got == "fetched" || got == "needs-fixed" {
				t.Errorf("%s: %s was built", name, path)
			}
		}
	}
	must(t, build(ticket, lab.Hello("no fixed output")))
	path := must(t, build(p.Builder.Ticket(), fixed))
	if !p.Builder.Host.Has(path) {
		t.Fatalf("%s was not built with a ticket that allows it", path)
	}
	must(t, build(ticket, lab.Concat("uses-fixed", "a", fixed)))
	p.Verify(t)
}

// A builder keeps its reserve of disk space: no build begins below it.
func TestMinFree(t *testing.T) {
	h := lab.NewHost(t, lab.Trixie, lab.WithName("builder"))
	h.StartDaemon()
	const config = "/var/lib/drv-thru/serve.json"
	h.WriteFile(lab.BuilderUser, config, `{"min_free": "1000T"}`)
	p := lab.Join(t, h, lab.NewHost(t, lab.Trixie, lab.WithName("client")), lab.BuilderConfig{Args: []string{"--config", config}})
	ticket := p.Builder.Ticket("--name", "full")
	refused := func() string {
		build := p.Client.BuildCmd(ticket, "--no-link", "--impure", "--expr", string(lab.Hello("full")))
		return fails(t, build, wire.ExitFailed)
	}
	says(t, refused(), "error: the builder's disk is too full", fmt.Sprintf("%d MiB are kept in reserve", 1000<<20))
	says(t, p.Builder.Admin("status"), "the builder's disk is too full")
	spent(t, p.Builder, "full", 0)
	for _, path := range h.Paths() {
		if strings.Contains(filepath.Base(path), "hello") {
			t.Errorf("%s was taken", path)
		}
	}

	// Bytes without inodes are no room.
	p.Builder.Stop(longest)
	h.WriteFile(lab.BuilderUser, config, `{"min_free": "1G"}`)
	must(t, h.Command(lab.RootUser, "mount", "-t", "tmpfs", "-o", "nr_inodes=1000,size=100g,mode=777", "tmpfs", "/var/lib/drv-thru/state/builds"))
	p.Builder.Start()
	says(t, p.Builder.Admin("status"), "15 MiB are free, 1024 MiB are kept in reserve")
	says(t, refused(), "error: the builder's disk is too full")
}
