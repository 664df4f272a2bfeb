//go:build e2e

package e2e

import (
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

func TestLabBuilds(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		h := lab.NewHost(t, root)
		h.StartDaemon(lab.CADerivations)
		t.Logf("Nix %s", h.NixVersion())

		hello := h.BuildExpr(lab.Alice, lab.Hello("world"))
		if got := h.Run(lab.Alice, hello[0]+"/bin/hello"); got != "hello world" {
			t.Errorf("bin/hello prints %q", got)
		}
		for _, p := range h.Processes() {
			if p.UID == 0 && len(p.Args) > 0 && p.Args[0] != "nix-daemon" {
				t.Errorf("process left behind: %v", p)
			}
		}

		h.WriteFile(lab.Alice, "/home/alice/flake/flake.nix", lab.HelloFlake("world"))
		if got := h.Build(lab.Alice, "path:/home/alice/flake#hello"); got[0] != hello[0] {
			t.Errorf("the flake's hello is %s, not %s", got[0], hello[0])
		}

		server := serveText(t, "fetched\n")
		closures := map[string]struct {
			expr    lab.Expr
			outputs int
		}{
			"multi":    {lab.MultiOutput("a"), 3},
			"fixed":    {lab.FixedOutput("contents\n"), 1},
			"fetched":  {lab.FetchURL(server, "fetched\n"), 1},
			"floating": {lab.FloatingCA("a"), 1},
			"chain":    {lab.Chain(20, "a"), 1},
			"deep":     {lab.Deep(500, "a"), 1},
			"wide":     {lab.Wide(300, "a"), 300},
			"blob":     {lab.Blob(8, "a"), 1},
			"big":      {lab.Big(10, 1000, "a"), 1},
			"bytes":    {lab.Log("a", lab.LogEveryByte), 1},
			"random":   {lab.Random("a"), 1},
			"concat":   {lab.Concat("concat", "a", lab.Hello("x"), lab.Hello("y")), 1},
		}
		for name, c := range closures {
			t.Run(name, func(t *testing.T) {
				file := "/home/alice/" + name + ".nix"
				h.WriteFile(lab.Alice, file, string(c.expr))
				got := h.BuildAll(lab.Alice, file)
				if len(got) != c.outputs {
					t.Errorf("%d outputs, want %d", len(got), c.outputs)
				}
			})
		}
		if err := h.Verify(); err != nil {
			t.Error(err)
		}
	})
}

// The sandbox holds also for a user who asks for none, and the two users are
// not trusted.
func TestLabUsersAreUntrusted(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		h := lab.NewHost(t, root)
		h.StartDaemon()
		const script = `[ ! -e /etc/passwd ] || ! grep -q alice /etc/passwd; [ ! -e /home ]; echo > $out`
		for _, user := range []string{lab.Alice, lab.BuilderUser} {
			h.BuildExpr(user, lab.Log(user, script), "--option", "sandbox", "false")
		}
	})
}

func TestLabFailures(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		h := lab.NewHost(t, root)
		h.StartDaemon()
		for name, expr := range map[string]lab.Expr{
			"failing": lab.Failing("a"), "dependency": lab.FailingDependency("a"),
		} {
			out, err := h.Command(lab.Alice, "nix", "build", "-L", "--no-link", "--impure", "--expr", string(expr)).CombinedOutput()
			if err == nil {
				t.Errorf("%s builds:\n%s", name, out)
			}
		}
		if err := h.Verify(); err != nil {
			t.Error(err)
		}
	})
}

func TestLabGate(t *testing.T) {
	h := lab.NewHost(t, lab.Trixie)
	h.StartDaemon()
	gate := lab.NewGate(t, h, "one")
	p := h.Start(lab.Alice, "nix", "build", "-L", "--no-link", "--impure", "--expr", string(lab.Waiting(gate, "a")))
	p.WaitFor("waiting at one", time.Minute)
	if strings.Contains(p.Output(), "passed") {
		t.Error("the gate was open")
	}
	gate.Open()
	p.WaitFor("passed one", time.Minute)
	if err := p.Wait(time.Minute); err != nil {
		t.Error(err)
	}
}

// Two hosts have stores of their own; what one builds goes to the other
// through a signed binary cache and through ssh-ng.
func TestLabCopy(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		shared := t.TempDir()
		if err := os.Chmod(shared, 0o777); err != nil {
			t.Fatal(err)
		}
		from := lab.NewHost(t, root, lab.WithName("from"), lab.WithShared(shared, "/shared"))
		to := lab.NewHost(t, root, lab.WithName("to"), lab.WithShared(shared, "/shared"))
		from.StartDaemon()
		secret, public := from.Key(lab.BuilderUser, "lab-1")
		to.StartDaemon("trusted-public-keys = " + public)

		hello := from.BuildExpr(lab.BuilderUser, lab.Hello("copied"))[0]
		if to.Has(hello) {
			t.Fatal("the hosts share a store")
		}
		from.Run(lab.BuilderUser, "nix", "copy", "--to", "file:///shared/cache?compression=none", hello)
		if err := to.Command(lab.Alice, "nix", "copy", "--from", "file:///shared/cache", hello).Run(); err == nil {
			t.Error("an untrusted user imports an unsigned path")
		}
		from.Run(lab.BuilderUser, "nix", "store", "sign", "--store", "file:///shared/cache", "--key-file", secret, hello)
		to.Run(lab.Alice, "nix", "copy", "--from", "file:///shared/cache", hello)
		if got := to.Run(lab.Alice, hello+"/bin/hello"); got != "hello copied" {
			t.Errorf("bin/hello prints %q", got)
		}

		to.Delete(hello)
		if to.Has(hello) {
			t.Fatalf("%s is still there", hello)
		}
		url, env := from.SSHD(lab.BuilderUser).Allow(to)
		// The signature went to the cache's copy only.
		from.Run(lab.RootUser, "nix", "store", "sign", "--key-file", secret, hello)
		to.Must(to.Command(lab.Alice, "nix", "copy", "--from", url, hello).AddEnv(env...))
		for _, h := range []*lab.Host{from, to} {
			if err := h.Verify(); err != nil {
				t.Error(err)
			}
		}
	})
}

// forEachRoot runs a subtest for every root, all at once: one alone waits for one
// program after the other, and leaves processors idle.
func forEachRoot(t *testing.T, run func(*testing.T, lab.Root)) {
	var wg sync.WaitGroup
	for _, root := range lab.Roots {
		wg.Go(func() { t.Run(string(root), func(t *testing.T) { run(t, root) }) })
	}
	wg.Wait()
}

// serveText serves text on loopback and returns the URL.
func serveText(t *testing.T, text string) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(text)) })}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return "http://" + l.Addr().String() + "/file"
}
