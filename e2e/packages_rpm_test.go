//go:build e2e

package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// The packages for distributions with RPM, from installation to removal, on a
// machine with systemd. It is a Debian without rpm, so it gets this machine's, with
// the libraries that belong to it.
func TestPackagesRPM(t *testing.T) {
	dir := t.TempDir()
	for _, version := range []string{"1", "2"} {
		out, err := exec.Command("go", "-C", "../cmd/packaging", "run", ".", "-only", "rpm",
			"-platform", "linux/"+runtime.GOARCH, "-version", version+".0.0", "-out", filepath.Join(dir, version)).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	m := lab.NewMachine(t, lab.TrixieMachine, lab.WithBind(dir, packagesDir), lab.WithBind("/usr", "/theirs"))
	m.WriteFile(lab.RootUser, "/usr/bin/rpm", `#!/bin/sh
export RPM_CONFIGDIR=/theirs/lib/rpm
exec /theirs/lib/*-linux-gnu/ld-linux-*.so.* --library-path "$(echo /theirs/lib/*-linux-gnu)" "/theirs/bin/${0##*/}" --dbpath /var/lib/rpm "$@"
`)
	m.Run(lab.RootUser, "chmod", "+x", "/usr/bin/rpm")
	m.Run(lab.RootUser, "ln", "-s", "rpm", "/usr/bin/rpmkeys")
	rpm := func(args string) string {
		t.Helper()
		return must(t, m.Command(lab.RootUser, "sh", "-c", "rpm "+args))
	}
	files := func() string {
		return m.Run(lab.RootUser, "sh", "-c", "find /etc /usr /run/systemd/system /var/lib /var/cache -xdev | grep drv-thru | sort")
	}

	if out := rpm("-K " + packagesDir + "/1/*.rpm"); strings.Count(out, "digests OK") != 2 {
		t.Errorf("rpm -K: %s", out)
	}
	// That there is a /bin/sh for the scripts only dpkg knows.
	rpm("-i --nodeps " + packagesDir + "/1/*.rpm")
	nothingIsOn(t, m)
	if changed := rpm("-V drv-thru drv-thru-relay"); strings.Contains(changed, "/") {
		t.Errorf("installed is something else than what is in the packages:\n%s", changed)
	}
	says(t, must(t, m.Command(lab.RootUser, "drv-thru", "--version")), "1.0.0")

	m.WriteFile(lab.RootUser, "/etc/drv-thru/relay.conf", "DRV_THRU_RELAY_LISTEN=127.0.0.1:7411\n")
	m.WriteFile(lab.RootUser, "/etc/drv-thru/serve.json", fmt.Sprintf(`{"relays": [%q], "listen": "none"}`, machineRelay))
	systemctl(t, m, "enable", "--now", "drv-thru-relay", "drv-thru")
	machineTicket(t, m)
	before := mainPID(t, m, "drv-thru.service")
	rpm("-U --nodeps " + packagesDir + "/2/*.rpm")
	if after := mainPID(t, m, "drv-thru.service"); after == before {
		t.Errorf("the builder was not restarted: process %s", after)
	}
	for unit, want := range map[string]string{
		"drv-thru.service": "enabled active", "drv-thru-relay.service": "enabled active", "drv-thru-import-helper.socket": "disabled inactive",
	} {
		if state := unitState(m, unit); state != want {
			t.Errorf("after the upgrade %s is %s, want %s", unit, state, want)
		}
	}
	says(t, must(t, m.Command(lab.RootUser, "drv-thru", "--version")), "2.0.0")
	says(t, must(t, m.Command(lab.RootUser, "cat", "/etc/drv-thru/serve.json")), machineRelay)

	rpm("-e drv-thru drv-thru-relay")
	if left := m.Run(lab.RootUser, "sh", "-c", "pgrep -a drv-thru || true"); left != "" {
		t.Errorf("after the removal there is still %s", left)
	}
	for name := range strings.Lines(files()) {
		name = strings.TrimSpace(name)
		// What was configured, and what was made.
		if name != "/etc/drv-thru" && !strings.HasSuffix(name, ".rpmsave") && !strings.HasPrefix(name, "/var/lib/") {
			t.Errorf("after the removal there is still %s", name)
		}
	}
	m.Run(lab.RootUser, "test", "-e", "/var/lib/drv-thru/secret.key", "-a", "-e", "/etc/drv-thru/serve.json.rpmsave")
}
