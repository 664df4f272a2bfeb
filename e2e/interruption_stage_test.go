//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

const (
	dataDir   = "/home/builder/state"
	serveConf = "/home/builder/serve.json"
)

// A stage is a pair of hosts with a valve between client and relay.
type stage struct {
	pair  *lab.Pair
	valve *valve
	alice uint32 // the client's user
	works int
}

func newStage(t *testing.T, client, builder lab.Root) *stage {
	t.Helper()
	b := lab.NewHost(t, builder, lab.WithName("builder"))
	c := lab.NewHost(t, client, lab.WithName("client"))
	b.StartDaemon()
	s := &stage{}
	s.writeConf(b, "2m")
	// What still runs after the drain is cut: all there is to test.
	relay := lab.StartRelay(t, b, "--drain-timeout", "200ms")
	serve := lab.StartBuilder(t, b, lab.BuilderConfig{
		Relays: []string{relay.URL}, DataDir: dataDir, Args: []string{"--config", serveConf},
	})
	c.StartDaemon("trusted-public-keys = " + serve.PublicKey())
	s.pair = &lab.Pair{Relay: relay, Builder: serve, Client: lab.NewClient(t, c)}
	s.valve = newValve(t, relay)
	s.alice = uid(t, c, lab.Alice)
	return s
}

func uid(t *testing.T, h *lab.Host, user string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(must(t, h.Command(lab.RootUser, "id", "-u", user)), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

func (s *stage) writeConf(h *lab.Host, grace string) {
	h.WriteFile(lab.BuilderUser, serveConf, fmt.Sprintf(`{"reattach_grace": %q, "recent_builds_limit": 1000}`, grace))
}

// configure restarts the builder with another grace period.
func (s *stage) configure(t *testing.T, grace string) {
	t.Helper()
	s.writeConf(s.pair.Builder.Host, grace)
	s.pair.Builder.Stop(longest)
	s.pair.Builder.Start()
}

// idle waits until nothing is under way on either host, and checks that nothing
// is left of what was: no process, slot, queue place or temporary file.
func (s *stage) idle(t *testing.T) {
	t.Helper()
	b, c := s.pair.Builder, s.pair.Client.Host
	eventually(t, "the client's user has no processes", func() bool {
		return !slices.ContainsFunc(c.Processes(), func(p lab.ProcessInfo) bool { return p.UID == s.alice })
	})
	eventually(t, "nothing is built", func() bool { return len(b.Host.BuildProcesses()) == 0 })
	var st builderState
	eventually(t, "no build is under way", func() bool {
		st = statusOf(t, b)
		return st.Running == 0 && st.Waiting == 0 && len(st.Active) == 0
	})
	eventually(t, "the builder holds no input", func() bool { return len(s.held(t)) == 0 })
	known := make(map[string]bool)
	for _, r := range st.Recent {
		known[r.ID] = true
	}
	for _, name := range list(t, b.Host, dataDir+"/builds") {
		if !known[name] {
			t.Errorf("%s/builds/%s belongs to no build", dataDir, name)
		}
		for _, f := range list(t, b.Host, dataDir+"/builds/"+name) {
			if strings.HasPrefix(f, ".") {
				t.Errorf("%s/builds/%s/%s is left", dataDir, name, f)
			}
		}
	}
	for _, h := range []*lab.Host{b.Host, c} {
		for _, name := range list(t, h, "/tmp") {
			if strings.HasPrefix(name, "nix-") {
				t.Errorf("/tmp/%s is left on %s", name, h.Name())
			}
		}
	}
}

// mountless checks that nothing is mounted on the client, nor left of a mount.
func (s *stage) mountless(t *testing.T) {
	t.Helper()
	c := s.pair.Client.Host
	if mounts := c.FuseMounts(); len(mounts) > 0 {
		t.Errorf("mounted on the client: %v", mounts)
	}
	if left := list(t, c, fmt.Sprintf("/tmp/drv-thru-%d", s.alice)); len(left) > 0 {
		t.Errorf("left of mounts: %v", left)
	}
}

// held lists the files without a name that the builder has open.
func (s *stage) held(t *testing.T) (found []string) {
	t.Helper()
	h := s.pair.Builder.Host
	for _, p := range h.Processes() {
		if len(p.Args) < 2 || filepath.Base(p.Args[0]) != "drv-thru" || p.Args[1] != "serve" {
			continue
		}
		for _, fd := range list(t, h, fmt.Sprintf("/proc/%d/fd", p.PID)) {
			err := h.Do(func() error {
				target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", p.PID, fd))
				if err == nil && strings.HasPrefix(target, dataDir) && strings.HasSuffix(target, " (deleted)") {
					found = append(found, target)
				}
				return nil // it may have been closed meanwhile
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return found
}

// list is what is in a directory, nothing when there is none.
func list(t *testing.T, h *lab.Host, dir string) (names []string) {
	t.Helper()
	err := h.Do(func() error {
		entries, err := os.ReadDir(dir)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// whole checks a host's store as [lab.Host.Verify] does, but lets paths of that ending,
// if it is not "", be half-made: Nix's daemon restores a NAR in its final place, and
// leaves it there without being valid when whoever sends it goes away. The next import
// of the path, or a garbage collection, removes it.
func whole(t *testing.T, h *lab.Host, except string) {
	t.Helper()
	out := must(t, h.Command(lab.RootUser, "sh", "-c", "NIX_REMOTE=local nix-store --verify --check-contents 2>&1"))
	saysNot(t, out, "disappeared", "was modified")
	for _, path := range h.Litter() {
		if except == "" || !strings.HasSuffix(path, except) {
			t.Errorf("%s has %s, which is not valid", h.Name(), path)
		}
	}
}
