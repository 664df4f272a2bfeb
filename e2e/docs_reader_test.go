//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// A reader follows the pages: on a builder and a client that have nothing but Nix
// and the programs, and on a machine with a relay and what this one has installed,
// Go, nginx and Caddy among it. The three are in a network of their own, which has
// the names that the pages have, and an authority that certifies them.
type reader struct {
	hosts map[string]*lab.Host // by what the pages call them

	exports map[*lab.Host]string
	serving map[string]*lab.Process // by host and user
	ticket  string                  // made last
	id, key string                  // of the builder that was started last
	keys    []string                // of all of them
	mine    string                  // the client's ID
	token   string                  // of the relay, made last
}

const (
	docsAddress = "192.0.2.10"
	docsNames   = "127.0.0.1 localhost\n" + docsAddress + " relay.example.org ca.test\n"
	// docsCA certifies the names of docsNames, as Let's Encrypt does.
	docsCA     = "https://ca.test:8443/acme/local/directory"
	docsCARoot = "/root/ca/pki/authorities/local/root.crt"
	// bothWork is a directory that the author of a policy and the builder have in
	// common: what the pages say is copied.
	bothWork = "/srv/work"
	trusted  = "/etc/ssl/certs/ca-certificates.crt"
)

// sudo is what the lab's hosts have for it.
const sudo = `#!/bin/sh
[ "$1" = -u ] || exec "$@"
user=$2
shift 2
cd "$(getent passwd "$user" | cut -d: -f6)"
exec setpriv --reuid="$user" --regid="$user" --init-groups env HOME="$PWD" NIX_REMOTE=daemon "$@"
`

func newReader(t *testing.T, root lab.Root) *reader {
	lab.Programs(t)
	work := t.TempDir()
	if err := os.Chown(work, 1000, 1000); err != nil { // alice
		t.Fatal(err)
	}
	shared := lab.WithShared(work, bothWork)
	options, exports := sourceHost(t)
	relay := lab.NewHost(t, lab.Here, append(options, lab.WithName("relay"), lab.WithNetns(), shared)...)
	network := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", relay.Pid()), "sh", "-ec",
		"ip link add eth0 type veth peer name eth1; ip addr add "+docsAddress+"/24 dev eth0; ip link set eth0 up; ip link set eth1 up")
	if out, err := network.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	builder := lab.NewHost(t, root, lab.WithName("builder"), lab.WithNetOf(relay), shared)
	client := lab.NewHost(t, root, lab.WithName("client"), lab.WithNetOf(relay))
	roots := startCA(t, relay) + certFiles(t, relay)
	for _, h := range []*lab.Host{relay, builder, client} {
		h.WriteFile(lab.RootUser, "/etc/hosts", docsNames)
		h.WriteFile(lab.RootUser, trusted, roots)
		h.WriteFile(lab.RootUser, "/usr/bin/sudo", sudo)
		h.Run(lab.RootUser, "chmod", "+x", "/usr/bin/sudo")
	}
	builder.StartDaemon()
	// That of the README's transcript.
	const transcript = "127.0.0.1:35293"
	builder.Start(lab.BuilderUser, "drv-thru-relay", "--listen", transcript, "--hostname", transcript).WaitFor(`relay ready at`, longest)
	// The home of the lab's own user for services, which the README's has.
	builder.Run(lab.RootUser, "rm", "-r", "/var/lib/drv-thru")
	client.StartDaemon("flake-registry = " + docsRegistry)
	flakesOnClient(client, moduleFiles(t))
	return &reader{
		hosts:   map[string]*lab.Host{"relay": relay, "author": relay, "source": relay, "builder": builder, "client": client},
		exports: map[*lab.Host]string{relay: exports}, serving: make(map[string]*lab.Process),
		mine: client.Run(lab.Alice, "drv-thru", "key", "show"),
	}
}

// sourceHost has a host show this checkout's files in /src, and Go with its caches,
// and returns what to export for that.
func sourceHost(t *testing.T) (options []lab.Option, exports string) {
	t.Helper()
	src, bin := t.TempDir(), t.TempDir()
	if out, err := exec.Command("sh", "-ec", `cd .. && git ls-files -z | tar -c --null -T - | tar -x -C "$0"`, src).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command("go", "env", "GOROOT", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB").Output()
	if err != nil {
		t.Fatal(err)
	}
	env := strings.Split(string(out), "\n")
	root, cache, modules := env[0], env[1], env[2]
	options = []lab.Option{
		lab.WithBind(root, root), lab.WithShared(cache, cache), lab.WithShared(modules, modules),
		lab.WithShared(src, "/src"), lab.WithShared(bin, "/usr/local/bin"),
	}
	exports = fmt.Sprintf("export PATH=%s/bin:$PATH GOCACHE=%s GOMODCACHE=%s GOPROXY=%s GOSUMDB=%s GOTOOLCHAIN=local GOFLAGS=-buildvcs=false\n",
		root, cache, modules, env[3], env[4]) + "export DRV_THRU_RELAY_ACME_DIRECTORY=" + docsCA + "\n"
	return options, exports
}

// startCA runs an authority, and returns its certificate.
func startCA(t *testing.T, h *lab.Host) string {
	t.Helper()
	h.WriteFile(lab.RootUser, "/etc/hosts", docsNames)
	h.WriteFile(lab.RootUser, "/root/ca/Caddyfile", `{
	admin off
	skip_install_trust
	auto_https disable_redirects
	storage file_system /root/ca
}
https://ca.test:8443 {
	tls internal
	acme_server
}
`)
	h.Start(lab.RootUser, "caddy", "run", "--adapter", "caddyfile", "--config", "/root/ca/Caddyfile")
	eventually(t, "the authority answers", func() bool {
		return h.Command(lab.RootUser, "curl", "-sf", "--cacert", docsCARoot, docsCA).Run() == nil
	})
	root, err := h.ReadFile(docsCARoot)
	if err != nil {
		t.Fatal(err)
	}
	return string(root)
}

// certFiles puts a certificate where the pages have one, and returns it.
func certFiles(t *testing.T, h *lab.Host) string {
	t.Helper()
	dir := t.TempDir()
	cert := writeCert(t, dir, "relay.example.org")
	key, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	h.WriteFile(lab.RootUser, "/etc/ssl/relay.pem", cert)
	h.WriteSecret(lab.RootUser, "/etc/ssl/private/relay.key", string(key))
	return cert
}

const (
	// docsFlake is where the client has what GitHub has as the flake.
	docsFlake = "/home/alice/drv-thru"
	// docsRegistry says what nixpkgs is.
	docsRegistry = "/home/alice/registry.json"
)

// flakesOnClient makes what alice builds, and the two flakes that she names: this
// one, whose files are given, and nixpkgs, of which there is as much as that takes.
func flakesOnClient(h *lab.Host, files map[string]string) {
	h.WriteFile(lab.Alice, "/home/alice/src/flake.nix", lab.Flake(map[string]lab.Expr{
		"hello": lab.Hello("from another machine"), "again": lab.Hello("docs"), "big": lab.Concat("big", "docs"),
		"firefox": lab.Concat("firefox-140", "docs"), "firefox-esr": lab.Concat("firefox-esr-140", "docs"),
	}))
	const nixpkgs = "/home/alice/nixpkgs"
	h.WriteFile(lab.Alice, nixpkgs+"/lib.nix", files["nixos/tests/harness.nix"])
	h.WriteFile(lab.Alice, nixpkgs+"/flake.nix",
		strings.Replace(lab.HelloFlake("from nixpkgs"), "outputs = { self }: {", "outputs = { self }: { lib = import ./lib.nix;", 1))
	h.WriteFile(lab.Alice, docsRegistry,
		`{"version": 2, "flakes": [{"from": {"type": "indirect", "id": "nixpkgs"}, "to": {"type": "path", "path": "`+nixpkgs+`"}}]}`)
	for name, text := range files {
		h.WriteFile(lab.Alice, filepath.Join(docsFlake, name), text)
	}
	hash := h.Run(lab.Alice, "nix", "hash", "path", nixpkgs)
	h.WriteFile(lab.Alice, filepath.Join(docsFlake, "flake.lock"), `{"version": 7, "root": "root", "nodes": {
		"root": {"inputs": {"nixpkgs": "nixpkgs"}},
		"nixpkgs": {
			"locked": {"type": "path", "path": "`+nixpkgs+`", "narHash": "`+hash+`"},
			"original": {"type": "github", "owner": "NixOS", "repo": "nixpkgs", "ref": "nixos-unstable"}
		}}}`)
}

var (
	placeTicket = regexp.MustCompile(`drvthru[a-z2-7]*…`)
	placeKey    = regexp.MustCompile(`drv-thru-…-1:…`)
	madeTicket  = regexp.MustCompile(`(?m)^drvthru[a-z2-7]+$`)
	madeToken   = regexp.MustCompile(`(?m)^[A-Za-z0-9+/]{32}$`)
	servedID    = regexp.MustCompile(`endpoint ID +(\S+)`)
	servedKey   = regexp.MustCompile(`signing key +(\S+)`)
	serves      = regexp.MustCompile(`^(sudo (-u \S+ )?)?(drv-thru serve|drv-thru-relay)( |$)`)
)

// fill puts what there is in the place of what the pages say.
func (r *reader) fill(script string) string {
	script = placeTicket.ReplaceAllString(script, r.ticket)
	script = placeKey.ReplaceAllString(script, r.key)
	return strings.NewReplacer("ENDPOINT_ID", r.id, "SIGNING_KEY", r.key, "CLIENT_ID", r.mine, "TOKEN", r.token,
		"github:drv-thru/drv-thru", "path:"+docsFlake).Replace(script)
}

// user is who follows a block.
func (b docBlock) as() string {
	if b.user != "" || b.host == "relay" || b.host == "author" || b.host == "source" {
		return lab.RootUser
	}
	return lab.Alice
}

// follow runs the commands of a block, those that serve in the background.
func (r *reader) follow(t *testing.T, b docBlock) {
	t.Helper()
	var script []docStep
	flush := func() {
		if len(script) > 0 {
			var lines []string
			for _, s := range script {
				lines = append(lines, s.command)
			}
			r.shell(t, b, docStep{script[0].host, strings.Join(lines, "\n"), script[0].output})
			script = nil
		}
	}
	for _, s := range b.steps() {
		if serves.MatchString(s.command) && !strings.Contains(s.command, "--check") {
			flush()
			r.serve(t, b, s)
			continue
		}
		script = append(script, s)
		if b.language == "console" {
			flush()
		}
	}
	flush()
}

// command prepares a script of a block, in the directory where the last one on that
// host has left its reader.
func (r *reader) command(b docBlock, host, script string) *lab.Cmd {
	h, user := r.hosts[host], b.as()
	home := map[string]string{"source": "/src", "author": bothWork, "builder": bothWork, "relay": "/root", "client": "/home/alice/src"}[host]
	at := "/tmp/docs-" + host + "-" + user
	if host == "source" {
		// As the lab compiles, whose compiled packages are there: see lab.Programs.
		script = "export CGO_ENABLED=0 GOFLAGS='-trimpath -buildvcs=false'\n" + script
	}
	script = fmt.Sprintf("cd \"$(cat %s 2>/dev/null || echo %s)\"\ntrap 'pwd >%s' EXIT\n", at, home, at) + r.exports[h] + r.fill(script)
	return h.Command(user, "bash", "-euo", "pipefail", "-c", script)
}

func (r *reader) shell(t *testing.T, b docBlock, s docStep) {
	t.Helper()
	if s.host == "client" && strings.Contains(s.command, ".#hello") {
		r.forget()
	}
	c := r.command(b, s.host, s.command)
	var output bytes.Buffer
	c.Stdout, c.Stderr = &output, &output
	err := c.Run()
	denied := slices.ContainsFunc(s.output, func(line string) bool { return strings.HasPrefix(line, "error: ") })
	if (err != nil) != denied {
		t.Fatalf("%v: on %s: %s\n%v\n%s", b, s.host, s.command, err, &output)
	}
	r.shows(t, b, s, output.String())
	if tickets := madeTicket.FindAllString(output.String(), -1); len(tickets) > 0 && s.host == "builder" {
		r.ticket = tickets[len(tickets)-1]
	}
	if token := madeToken.FindString(output.String()); token != "" {
		r.token = token
	}
	for line := range strings.Lines(s.command) {
		if strings.HasPrefix(line, "export ") || strings.HasPrefix(line, "unset ") {
			r.exports[r.hosts[s.host]] += r.fill(line) + "\n"
		}
	}
}

// forget removes what was built last from the client, where nobody would be asked for
// it again.
func (r *reader) forget() {
	client := r.hosts["client"]
	client.Shell(lab.Alice, "rm -f src/result")
	for _, path := range client.Paths() {
		if strings.HasSuffix(path, "-hello") {
			client.Delete(path)
		}
	}
}

// elsewhere is what another run prints otherwise: keys, hashes, and what is measured.
var elsewhere = regexp.MustCompile(`drvthru[a-z2-7]+|drv-thru-[a-z2-7]{10}-1:[A-Za-z0-9+/]+=*|\b[a-z0-9]{32}-|\b[a-z2-7]{10}$|(just now|[0-9]+[a-z]+ ago)|[0-9.]+(ns|µs|ms|s)\b|[0-9][0-9.,]*`)

// shows wants a command to print what the page shows, in its order, apart from
// what differs each time.
func (r *reader) shows(t *testing.T, b docBlock, s docStep, printed string) {
	t.Helper()
	plain := func(line string) string {
		return strings.Join(strings.Fields(elsewhere.ReplaceAllString(strings.TrimSpace(line), "N")), " ")
	}
	var lines []string
	for line := range strings.Lines(printed) {
		lines = append(lines, plain(line))
	}
	for _, want := range s.output {
		i := slices.Index(lines, plain(want))
		if i < 0 {
			t.Errorf("%v: %s does not print %q where the page has it, but\n%s", b, s.command, want, printed)
			return
		}
		lines = lines[i+1:]
	}
}

// serve starts a builder or a relay, in the place of an older one of the same user.
// The client's administrator trusts the builder.
func (r *reader) serve(t *testing.T, b docBlock, s docStep) {
	t.Helper()
	r.stop(t, s.host+b.as())
	if strings.Contains(s.command, "drv-thru-relay") {
		r.stop(t, "front")
		p := r.hosts[s.host].StartCmd(r.command(b, s.host, "exec "+s.command))
		p.WaitFor(`relay ready at`, longest)
		r.serving[s.host+b.as()] = p
		if strings.Contains(s.command, "--listen :443") && !strings.Contains(s.command, "token") {
			r.relayed(t, b)
		}
		return
	}
	p := r.hosts[s.host].StartCmd(r.command(b, s.host, "exec "+s.command))
	p.WaitFor(`ready +make a ticket`, longest)
	r.serving[s.host+b.as()] = p
	r.id = servedID.FindStringSubmatch(p.Output())[1]
	r.key = servedKey.FindStringSubmatch(p.Output())[1]
	if r.keys = append(r.keys, r.key); slices.Index(r.keys, r.key) == len(r.keys)-1 {
		client := r.hosts["client"]
		client.StopDaemon()
		client.StartDaemon("flake-registry = "+docsRegistry, "trusted-public-keys = "+strings.Join(r.keys, " "))
	}
}

func (r *reader) stop(t *testing.T, what string) {
	t.Helper()
	if old := r.serving[what]; old != nil {
		if err := old.Stop(longest); err != nil && lab.ExitCode(err) > 0 {
			t.Errorf("%s: %v\n%s", what, err, old.Output())
		}
		delete(r.serving, what)
	}
}

// file writes a block to the file that it is of. A proxy is started with it.
func (r *reader) file(t *testing.T, b docBlock) {
	t.Helper()
	text, host := r.fill(b.text), r.hosts[b.host]
	start := map[string][]string{
		"nginx": {"nginx", "-g", "daemon off;"},
		"caddy": {"caddy", "run", "--adapter", "caddyfile", "--config", b.file},
	}[b.language]
	if b.language == "caddy" {
		text = fmt.Sprintf("{\n\tacme_ca %s\n\tacme_ca_root %s\n\tskip_install_trust\n}\n", docsCA, docsCARoot) + text
	}
	write := r.command(b, b.host, "cat >"+b.file)
	if filepath.IsAbs(b.file) {
		write = r.command(b, b.host, "mkdir -p "+filepath.Dir(b.file)+" && cat >"+b.file)
	}
	host.Must(write.WithStdin(text))
	if start != nil {
		r.stop(t, "front")
		r.serving["front"] = host.Start(lab.RootUser, start...)
		r.relayed(t, b)
	}
}

// relayed wants the client to reach through relay.example.org the builder that is
// registered there, once a page has got that far.
func (r *reader) relayed(t *testing.T, b docBlock) {
	t.Helper()
	eventually(t, fmt.Sprintf("%v: https://relay.example.org answers", b), func() bool {
		return r.hosts["client"].Command(lab.Alice, "curl", "-sf", "https://relay.example.org/healthz").Run() == nil
	})
	if b.page == "README.md" {
		return
	}
	eventually(t, fmt.Sprintf("%v: the builder is reached", b), func() bool {
		err := r.hosts["client"].Command(lab.Alice, "drv-thru", "builders", "test", "attic").Run()
		// One that does not know the client has answered, too.
		return err == nil || lab.ExitCode(err) == wire.ExitDenied
	})
}
