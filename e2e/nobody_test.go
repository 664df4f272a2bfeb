//go:build e2e

package e2e

import (
	"bufio"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// What is valid here is no reason to use the network: neither drv-thru nor the Nix
// that it runs opens a socket that could reach anybody, whatever the builder is
// named by. The Nix daemon's socket is a file.
func TestNobodyIsAsked(t *testing.T) {
	const relay = "http://127.0.0.1:1"
	builder := someKey(t).ID()
	some, err := ticket.New(rand.Reader, builder, []string{relay}, nil)
	if err != nil {
		t.Fatal(err)
	}
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		h := lab.NewHost(t, root, lab.WithName("client"))
		h.StartDaemon()
		lab.NewClient(t, h)
		const dir = "/home/alice/nobody"
		hello, multi := lab.Hello("nobody"), lab.MultiOutput("nobody")
		h.WriteFile(lab.Alice, dir+"/flake/flake.nix", lab.Flake(map[string]lab.Expr{"default": hello, "multi": multi}))
		h.WriteFile(lab.Alice, dir+"/multi.nix", string(multi))
		drv := h.Must(h.Command(lab.Alice, "nix-instantiate", "multi.nix").In(dir))
		path := h.BuildExpr(lab.Alice, hello)[0]
		h.BuildExpr(lab.Alice, multi)
		h.Run(lab.Alice, "drv-thru", "builders", "add", "home", "--endpoint-id", builder.String(), "--relay-url", relay)

		route := map[string][]string{
			"ticket": {"--ticket", some.String()}, "builder": {"--builder", "home"}, "server": {"--server", builder.String(), "--relay-url", relay},
		}
		build := func(by string, args ...string) (string, []string, error) {
			argv := append([]string{"sh", "-c", `read -r go && exec "$@"`, "sh", "drv-thru", "build"}, route[by]...)
			return networked(t, h, h.Command(lab.Alice, append(argv, args...)...).In(dir))
		}
		for by, args := range map[string][]string{
			"ticket":  {"--impure", "--expr", string(hello)},
			"builder": {"path:./flake", "path:./flake#multi^out,dev"},
			"server":  {drv + "^doc", path},
		} {
			text, sockets, err := build(by, args...)
			if err != nil {
				t.Errorf("--%s: %v\n%s", by, err, text)
			}
			says(t, text, "everything is here already; nobody was asked")
			if len(sockets) > 0 {
				t.Errorf("--%s: the network is used:\n%s", by, strings.Join(sockets, "\n"))
			}
		}

		// It would be seen.
		text, sockets, err := build("ticket", "--impure", "--expr", string(lab.Hello("somebody")))
		if code := lab.ExitCode(err); code != wire.ExitUnreachable || len(sockets) == 0 {
			t.Errorf("something new ends with %d and is seen to use the network by %q\n%s", code, sockets, text)
		}
	})
}

// networked runs a command that waits for a line on its standard input, and
// returns what it printed and the system calls by which it and its children made
// sockets of the Internet's. (Nix asks the kernel for its addresses, by netlink.)
func networked(t *testing.T, h *lab.Host, c *lab.Cmd) (text string, sockets []string, err error) {
	t.Helper()
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := h.StartCmd(c)
	calls := filepath.Join(t.TempDir(), "calls")
	trace := exec.Command("strace", "-f", "-e", "trace=socket", "-e", "signal=none", "-o", calls, "-p", strconv.Itoa(p.PID()))
	told, err := trace.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := trace.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(told)
	for lines.Scan() && !strings.Contains(lines.Text(), "attached") {
	}
	if _, err := stdin.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	err = p.Wait(longest)
	for lines.Scan() {
	}
	if err := trace.Wait(); err != nil {
		// It ends as what it traces does.
		t.Logf("strace: %v", err)
	}
	all, readErr := os.ReadFile(calls)
	if readErr != nil {
		t.Fatal(readErr)
	}
	if !strings.Contains(string(all), "AF_UNIX") {
		t.Fatalf("strace has not even seen the Nix daemon's socket:\n%s", all)
	}
	for line := range strings.Lines(string(all)) {
		if strings.Contains(line, "socket(AF_INET") {
			sockets = append(sockets, strings.TrimSpace(line))
		}
	}
	return p.Output(), sockets, err
}
