//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

const (
	// packagesDir is where machines have the packages, in a directory for each
	// version: 1 and 2.
	packagesDir = "/packages"
	// machineRelay is where the relay of the package listens, on the loopback
	// interface that the machines have in common.
	machineRelay = "http://127.0.0.1:7411"
)

// packageUnits are those of both packages.
var packageUnits = []string{
	"drv-thru.service", "drv-thru-admin.socket",
	"drv-thru-import-helper.socket", "drv-thru-import-helper.service",
	"drv-thru-mount@.service", "drv-thru-relay.service",
}

// On whole machines with systemd: a Debian 13 that has relay and builder, and
// as clients a Debian 13 and a 12 with a user whom Nix does not trust. All are
// as the packages set them up, with nothing but configuration files changed, by the
// commands that the pages have for it.
func TestPackages(t *testing.T) {
	docs := newPackageDocs(t)
	bind := lab.WithBind(makePackages(t), packagesDir)
	server := lab.NewMachine(t, lab.TrixieMachine, lab.WithName("server"), bind)
	docs.follow(t, server, "install")
	must(t, server.Command(lab.RootUser, "sh", "-c", "dpkg -i "+packagesDir+"/1/drv-thru-relay_*.deb"))
	nothingIsOn(t, server)
	unitsAreSound(t, server)
	imageRuns(t, server)
	// As it comes, the relay has the port of the builder's relay inside.
	systemctl(t, server, "start", "drv-thru-relay")
	mainPID(t, server, "drv-thru-relay")
	systemctl(t, server, "stop", "drv-thru-relay")
	if printed := docs.follow(t, server, "builder"); !strings.HasPrefix(printed, "drvthru") {
		t.Errorf("no ticket in %q", printed)
	}
	// With nobody to certify its name it runs, and goes on asking.
	docs.follow(t, server, "relay")
	mainPID(t, server, "drv-thru-relay")
	systemctl(t, server, "disable", "--now", "drv-thru", "drv-thru-relay")

	server.WriteFile(lab.RootUser, "/etc/drv-thru/relay.conf", "DRV_THRU_RELAY_LISTEN=127.0.0.1:7411\nDRV_THRU_RELAY_HOSTNAME=127.0.0.1:7411\nDRV_THRU_RELAY_DRAIN_TIMEOUT=1s\n")
	configure := func(trusted string) {
		server.WriteFile(lab.RootUser, "/etc/drv-thru/serve.json",
			fmt.Sprintf(`{"relays": [%q], "listen": "none", "policies": {"few": {}}, "trusted_clients": {%s}}`, machineRelay, trusted))
	}
	configure("")
	systemctl(t, server, "enable", "--now", "drv-thru-relay", "drv-thru")
	docs.key = server.Run(lab.RootUser, "cat", "/var/lib/drv-thru/signing-public.key")
	var identity struct{ Endpoint string }
	decode(t, server.Run(lab.RootUser, "drv-thru", "status", "--json"), &identity)
	docs.id = identity.Endpoint
	ticket := machineTicket(t, server, "--policy", "few")
	if out, err := asAlice(server, "drv-thru", "ticket", "list").CombinedOutput(); err == nil {
		t.Errorf("alice may list tickets:\n%s", out)
	}

	journal := t.TempDir()
	client := lab.NewMachine(t, lab.TrixieMachine, lab.WithName("client"), bind, lab.WithNetOf(server.Host), lab.WithShared(journal, "/var/log/journal"))
	old := lab.NewMachine(t, lab.BookwormMachine, lab.WithName("old-client"), bind, lab.WithNetOf(server.Host))
	setUp := func(c *lab.Machine, helper string) {
		docs.follow(t, c, "install")
		nothingIsOn(t, c)
		docs.follow(t, c, helper)
		buildOnMachine(t, c, ticket, "first on "+c.Name())
	}
	setUp(client, "helper")
	setUp(old, "helper of the quickstart")

	configure(fmt.Sprintf(`"home": {"public_key": %q, "cache": "store"}`, docs.follow(t, client, "key of a mount")))
	systemctl(t, server, "reload", "drv-thru")
	docs.follow(t, client, "mount")
	docs.done(t)
	mountSurvives(t, server, client, ticket, docs.key)

	// An upgrade restarts what runs, and nothing else; what was configured and
	// what was made stay.
	before := mainPID(t, server, "drv-thru.service")
	must(t, server.Command(lab.RootUser, "sh", "-c", "dpkg -i "+packagesDir+"/2/*.deb"))
	if after := mainPID(t, server, "drv-thru.service"); after == before {
		t.Errorf("the builder was not restarted: process %s", after)
	}
	must(t, old.Command(lab.RootUser, "sh", "-c", "dpkg -i "+packagesDir+"/2/drv-thru_*.deb"))
	for unit, want := range map[string]string{
		"drv-thru.service": "enabled active", "drv-thru-relay.service": "enabled active", "drv-thru-import-helper.socket": "disabled inactive",
	} {
		if state := unitState(server, unit); state != want {
			t.Errorf("after the upgrade %s is %s, want %s", unit, state, want)
		}
	}
	buildOnMachine(t, old, ticket, "second")

	shutdownIsQuick(t, client, journal)

	// Who removes the package keeps the state; a purge takes it.
	must(t, server.Command(lab.RootUser, "dpkg", "-r", "drv-thru", "drv-thru-relay"))
	if left := server.Run(lab.RootUser, "sh", "-c", "pgrep -a drv-thru; ls /etc/systemd/system/*.wants | grep drv-thru; true"); left != "" {
		t.Errorf("after the removal there is still %s", left)
	}
	server.Run(lab.RootUser, "test", "-e", "/var/lib/drv-thru/secret.key", "-a", "-e", "/etc/drv-thru/serve.json")
	must(t, server.Command(lab.RootUser, "dpkg", "-P", "drv-thru", "drv-thru-relay"))
	if left := server.Run(lab.RootUser, "sh", "-c", "ls -d /etc/drv-thru /var/lib/drv-thru* /var/lib/private/drv-thru* /run/drv-thru* 2>/dev/null || true"); left != "" {
		t.Errorf("after the purge there is still %s", left)
	}
}

// makePackages makes the packages of this checkout, and the same ones once more
// with a higher version, and returns their directory.
func makePackages(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("go", "-C", "../cmd/packaging", "run", ".", "-only", "deb,image",
		"-platform", "linux/"+runtime.GOARCH, "-version", "1.0.0", "-out", filepath.Join(dir, "1")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	unpackImage(t, filepath.Join(dir, "1"), filepath.Join(dir, "image"))
	const repack = `cd "$1" && mkdir 2 && for deb in 1/*.deb; do
		dpkg-deb -R "$deb" tree && sed -i 's/^Version: .*/Version: 2.0.0/' tree/DEBIAN/control &&
		dpkg-deb -Znone -b tree "2/$(basename "$deb")" && rm -r tree || exit 1
	done`
	if out, err := exec.Command("sh", "-c", repack, "sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// nothingIsOn wants nothing to run or to be enabled, as after an installation.
func nothingIsOn(t *testing.T, m *lab.Machine) {
	t.Helper()
	for _, unit := range packageUnits {
		if state := unitState(m, unit); strings.Contains(state, "enabled") || strings.HasSuffix(state, " active") {
			t.Errorf("%s: after the installation %s is %s", m.Name(), unit, state)
		}
	}
}

// unitState is what "systemctl is-enabled" and "is-active" say. Both fail where
// the answer is no.
func unitState(m *lab.Machine, unit string) string {
	enabled, _ := m.Command(lab.RootUser, "systemctl", "is-enabled", unit).Output()
	active, _ := m.Command(lab.RootUser, "systemctl", "is-active", unit).Output()
	return strings.TrimSpace(string(enabled)) + " " + strings.TrimSpace(string(active))
}

// systemctl runs it, and shows the journal when it fails.
func systemctl(t *testing.T, m *lab.Machine, args ...string) {
	t.Helper()
	if out, err := m.Command(lab.RootUser, append([]string{"systemctl"}, args...)...).CombinedOutput(); err != nil {
		journal, _ := m.Command(lab.RootUser, "journalctl", "--no-pager", "-n", "60").Output()
		t.Fatalf("%s: systemctl %s: %v\n%s%s", m.Name(), strings.Join(args, " "), err, out, journal)
	}
}

// exposure is the last line of systemd-analyze security.
var exposure = regexp.MustCompile(`Overall exposure level for \S+: (\S+) `)

// unitsAreSound wants systemd to find nothing wrong with the units, and little
// that the two services with a network could do beyond their work.
func unitsAreSound(t *testing.T, m *lab.Machine) {
	t.Helper()
	if out, err := m.Command(lab.RootUser, "sh", "-c", "systemd-analyze verify --man=no /usr/lib/systemd/system/drv-thru*").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	for _, unit := range []string{"drv-thru.service", "drv-thru-relay.service"} {
		out, err := m.Command(lab.RootUser, "systemd-analyze", "security", "--no-pager", "--threshold=20", unit).CombinedOutput()
		if err != nil {
			t.Errorf("systemd-analyze security %s: %v\n%s", unit, err, out)
		}
		if level := exposure.FindSubmatch(out); level != nil {
			t.Logf("%s: exposure %s", unit, level[1])
		}
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "✗") {
				t.Log(strings.TrimSpace(line))
			}
		}
	}
}

// unpackImage unpacks the relay's image for this machine's processor, as a
// container engine does: the OCI image layout and image index specifications.
func unpackImage(t *testing.T, from, to string) {
	t.Helper()
	layout := t.TempDir()
	if out, err := exec.Command("sh", "-c", `tar -xf "$0"/*-oci.tar -C "$1"`, from, layout).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	type descriptor struct {
		Digest   string
		Platform struct{ Architecture string }
	}
	type document struct {
		Manifests, Layers []descriptor
	}
	read := func(name string) (d document) {
		text, err := os.ReadFile(filepath.Join(layout, name))
		if err != nil {
			t.Fatal(err)
		}
		decode(t, string(text), &d)
		return d
	}
	blob := func(d descriptor) string { return "blobs/" + strings.Replace(d.Digest, ":", "/", 1) }
	for _, image := range read(blob(read("index.json").Manifests[0])).Manifests {
		if image.Platform.Architecture != runtime.GOARCH {
			continue
		}
		if err := os.Mkdir(to, 0o755); err != nil {
			t.Fatal(err)
		}
		layer := filepath.Join(layout, blob(read(blob(image)).Layers[0]))
		if out, err := exec.Command("tar", "-xzf", layer, "-C", to).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	t.Fatal("no image for " + runtime.GOARCH)
}

// imageRuns runs the relay of the image as nobody, with nothing but the image's
// files, none of which it can write to.
func imageRuns(t *testing.T, m *lab.Machine) {
	t.Helper()
	must(t, m.Command(lab.RootUser, "systemd-run", "--unit=image", "--property=RootDirectory="+packagesDir+"/image",
		"--property=User=65534", "--property=Group=65534", "--property=CapabilityBoundingSet=", "--property=MountAPIVFS=no",
		"/usr/bin/drv-thru-relay", "--listen", "127.0.0.1:7419", "--hostname", "127.0.0.1:7419"))
	const ask = `exec 3<>/dev/tcp/127.0.0.1/7419 && printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3 && cat <&3`
	var answer []byte
	eventually(t, "the image's relay answers", func() bool {
		answer, _ = m.Command(lab.RootUser, "bash", "-c", ask).Output()
		return strings.Contains(string(answer), "200 OK")
	})
	must(t, m.Command(lab.RootUser, "systemctl", "stop", "image"))
}

// asAlice prepares a command of alice's, with all of her groups.
func asAlice(m *lab.Machine, argv ...string) *lab.Cmd {
	return m.Command(lab.RootUser, append([]string{"runuser", "-u", lab.Alice, "--"}, argv...)...).
		AddEnv("HOME=/home/alice", "USER=alice", "LOGNAME=alice", "NIX_REMOTE=daemon").In("/home/alice")
}

// machineTicket makes a ticket as root does, with nothing said about where the
// builder is.
func machineTicket(t *testing.T, m *lab.Machine, args ...string) string {
	t.Helper()
	return must(t, m.Command(lab.RootUser, append([]string{"drv-thru", "ticket", "create", "--uses", "unlimited"}, args...)...))
}

// buildOnMachine builds as alice, over there, and returns the path. It comes in
// through the helper: Nix does not trust her, nor the builder's key.
func buildOnMachine(t *testing.T, m *lab.Machine, ticket, salt string) string {
	t.Helper()
	path, err := tryBuildOnMachine(m, ticket, salt)
	if err != nil {
		journal, _ := m.Command(lab.RootUser, "journalctl", "--no-pager", "-n", "60").Output()
		t.Fatalf("%s: %v\n%s", m.Name(), err, journal)
	}
	if got := must(t, asAlice(m, path+"/bin/hello")); got != "hello "+salt {
		t.Errorf("%s: bin/hello prints %q", m.Name(), got)
	}
	says(t, must(t, m.Command(lab.RootUser, "journalctl", "--no-pager", "-u", "drv-thru-import-helper")), "msg=imported")
	return path
}

func tryBuildOnMachine(m *lab.Machine, ticket, salt string) (string, error) {
	c := asAlice(m, "drv-thru", "build", "--no-link", "--print-out-paths", "--impure", "--expr", string(lab.Hello(salt))).
		AddEnv("DRV_THRU_TICKET=" + ticket)
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// mountSurvives has Nix substitute from a mount, before and after the relay was
// restarted.
func mountSurvives(t *testing.T, server, client *lab.Machine, ticket, key string) {
	t.Helper()
	mount := mainPID(t, client, "drv-thru-mount@home")
	substitute := func(path string) error {
		client.Delete(path)
		out, err := client.Command(lab.RootUser, "nix-store", "-r", path, "--option", "substituters", "file:///run/drv-thru/home",
			"--option", "trusted-public-keys", key).AddEnv("NIX_REMOTE=daemon").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	}
	if err := substitute(buildOnMachine(t, client, ticket, "mounted")); err != nil {
		t.Fatal(err)
	}
	systemctl(t, server, "restart", "drv-thru-relay")
	// What has not been read before, so the mount has to ask for it.
	var path string
	eventually(t, "the builder has registered again", func() bool {
		var err error
		path, err = tryBuildOnMachine(client, ticket, "after the restart")
		return err == nil
	})
	eventually(t, "the mount has found the builder again", func() bool { return substitute(path) == nil })
	if again := mainPID(t, client, "drv-thru-mount@home"); again != mount {
		t.Errorf("the mount was restarted: process %s, not %s", again, mount)
	}
}

// shutdownIsQuick turns off a machine in whose mount somebody is. journal is
// where its journal can be read afterwards.
func shutdownIsQuick(t *testing.T, m *lab.Machine, journal string) {
	t.Helper()
	must(t, m.Command(lab.RootUser, "systemd-run", "--property=WorkingDirectory=/run/drv-thru/home", "sleep", "1h"))
	// What the unit sets, and systemd sees to.
	if limit := must(t, m.Command(lab.RootUser, "systemctl", "show", "--value", "--property=TimeoutStopUSec", "drv-thru-mount@home")); limit != "5s" {
		t.Errorf("the mount may take %s to stop", limit)
	}
	m.PowerOff()
	out, err := exec.Command("journalctl", "--directory="+journal, "--no-pager").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, after, found := strings.Cut(string(out), "Stopping drv-thru-mount@home.service")
	if !found || !strings.Contains(after, "Stopped drv-thru-mount@home.service") {
		t.Errorf("the mount was not stopped:\n%s", tailOf(string(out)))
	}
	saysNot(t, after, "timed out", "Failed with result")
}

func mainPID(t *testing.T, m *lab.Machine, unit string) string {
	t.Helper()
	pid := must(t, m.Command(lab.RootUser, "systemctl", "show", "--value", "--property=MainPID", unit))
	if state := unitState(m, unit); pid == "0" || !strings.HasSuffix(state, " active") {
		t.Fatalf("%s: %s is %s", m.Name(), unit, state)
	}
	return pid
}
