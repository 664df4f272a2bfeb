//go:build e2e

package e2e

import (
	"crypto/rand"
	"net"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// Ctrl-C is heeded at once before there is a build, too: while Nix evaluates and
// waits for a download, and while the relay does not answer.
func TestInterruptedEarly(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		h := lab.NewHost(t, root, lab.WithName("client"))
		h.StartDaemon()
		c := lab.NewClient(t, h)
		for _, phase := range []string{"evaluating", "connecting"} {
			// Whoever comes waits.
			silent, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			url := "http://" + silent.Addr().String()
			some, err := ticket.New(rand.Reader, someKey(t).ID(), []string{url}, nil)
			if err != nil {
				t.Fatal(err)
			}
			expr := string(lab.Hello("early"))
			if phase == "evaluating" {
				expr = `import (builtins.fetchurl "` + url + `/x")`
			}
			p := c.StartBuild(some.String(), "--no-link", "--impure", "--expr", expr)
			p.WaitFor(phase, longest)
			conn, err := silent.Accept()
			if err != nil {
				t.Fatal(err)
			}
			p.Interrupt()
			select {
			case <-p.Done():
			case <-time.After(cancelTime):
				t.Errorf("%s: it goes on after Ctrl-C:\n%s", phase, p.Output())
			}
			if code := lab.ExitCode(p.Wait(longest)); code != 130 {
				t.Errorf("%s: it ends with %d:\n%s", phase, code, p.Output())
			}
			saysNot(t, p.Output(), "panic", "goroutine")
			conn.Close()
			silent.Close()
		}
	})
}
