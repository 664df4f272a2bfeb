//go:build linux

package lab

import (
	"os"
	"os/exec"
	"path/filepath"
)

// StartProxy runs a proxy's program, installed on the machine by e2e/setup,
// with an /etc/hosts of its own. It shares the machine's network with hosts
// that have none of their own, and is killed when the test ends.
func StartProxy(t T, hosts string, argv ...string) *exec.Cmd {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		t.Fatalf("lab: %v: run e2e/setup", err)
	}
	dir, err := os.MkdirTemp("", "proxy")
	if err != nil {
		t.Fatalf("lab: %v", err)
	}
	file := filepath.Join(dir, "hosts")
	if err := os.WriteFile(file, []byte(hosts), 0o644); err != nil {
		t.Fatalf("lab: %v", err)
	}
	out := &output{changed: make(chan struct{})}
	cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, file}, argv...)...)
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatalf("lab: start %s: %v", argv[0], err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("output of %s:\n%s", argv[0], out)
		}
	})
	return cmd
}
