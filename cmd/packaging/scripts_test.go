package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A service that does not come up again, as a builder that finds no relay, leaves
// no package half-installed: everything was unpacked, and the others are restarted.
func TestUpgradeWithoutARelay(t *testing.T) {
	dir := t.TempDir()
	body, err := readFile("scripts", "postinstall.sh")
	if err != nil {
		t.Fatal(err)
	}
	// As on a machine that runs systemd.
	script := "set -e\npackage=none\nunits='a.service b@.service c.service'\n" + strings.ReplaceAll(body, "/run/systemd/system", dir)
	calls := filepath.Join(dir, "calls")
	systemctl := "#!/bin/sh\necho \"$*\" >>" + calls + "\n[ \"$2\" != a.service ]\n"
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(systemctl), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", script, "sh", "configure", "1.0")
	cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	got, err := readFile(calls)
	if want := "daemon-reload\ntry-restart a.service\ntry-restart b@*.service\ntry-restart c.service\n"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
