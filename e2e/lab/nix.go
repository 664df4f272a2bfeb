//go:build linux

package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// System is what the lab's derivations say as their system.
const System = nixSystem

// baseConf is the nix.conf of every host. The sandbox is on and needs no store
// path: /bin/sh in it is a static busybox. Nothing comes from the network.
const baseConf = `sandbox = true
sandbox-fallback = false
sandbox-paths = /bin/sh=/bin/busybox ` + gateDir + `
build-users-group = nixbld
experimental-features = nix-command flakes
substituters =
trusted-users = root
allowed-users = *
compress-build-log = false
max-jobs = 2
cores = 2
flake-registry =
`

const nixConfFile = "/etc/nix/nix.conf"

// StartDaemon writes nix.conf (the lab's lines, then conf, whose settings win)
// and starts nix-daemon as root. A daemon that runs already is stopped first.
func (h *Host) StartDaemon(conf ...string) {
	h.t.Helper()
	h.StopDaemon()
	h.WriteFile(RootUser, nixConfFile, baseConf+strings.Join(conf, "\n")+"\n")
	p := h.StartCmd(h.Command(RootUser, "nix-daemon"))
	h.mu.Lock()
	h.daemon = p
	h.mu.Unlock()
	h.eventually("nix-daemon accepts connections", 30*time.Second, p, func() bool {
		return h.Command(Alice, "nix", "store", "ping").Run() == nil
	})
}

// StopDaemon ends nix-daemon and the processes that serve its connections, and
// so the builds they run.
func (h *Host) StopDaemon() {
	h.t.Helper()
	h.mu.Lock()
	p := h.daemon
	h.daemon = nil
	h.mu.Unlock()
	if p == nil {
		return
	}
	p.Signal(syscall.SIGTERM)
	for _, c := range h.Processes() {
		if len(c.Args) > 0 && filepath.Base(c.Args[0]) == "nix-daemon" {
			h.Kill(c.PID, syscall.SIGTERM)
		}
	}
	if err := p.Stop(20 * time.Second); err != nil {
		h.t.Logf("lab: nix-daemon on %s: %v", h.name, err)
	}
}

// eventually polls until ok. It fails the test after timeout, or when the
// program that is to make it true has ended.
func (h *Host) eventually(what string, timeout time.Duration, p *Process, ok func() bool) {
	h.t.Helper()
	deadline := time.Now().Add(timeout)
	for !ok() {
		select {
		case <-p.Done():
			h.t.Fatalf("lab: %s on %s: %s ended (%v):\n%s", what, h.name, p.name, p.err, p.Output())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("lab: not so within %v: %s, on %s; the output of %s:\n%s", timeout, what, h.name, p.name, p.Output())
		}
	}
}

// NixVersion is the host's version of Nix: "2.34.8".
func (h *Host) NixVersion() string {
	h.t.Helper()
	_, version, _ := strings.Cut(h.Run(RootUser, "nix", "--version"), ") ")
	return version
}

// local runs a Nix command as root on the store itself, past any daemon.
func (h *Host) local(argv ...string) *Cmd {
	return h.Command(RootUser, argv...).AddEnv("NIX_REMOTE=local")
}

// Build builds with the host's own Nix, what drv-thru is compared with, and
// returns the output paths. args are what nix build takes.
func (h *Host) Build(user string, args ...string) []string {
	h.t.Helper()
	// 2.8 has no --print-out-paths.
	text := h.Run(user, append([]string{"nix", "build", "--no-link", "--json"}, args...)...)
	var results []struct{ Outputs map[string]string }
	if err := json.Unmarshal([]byte(text), &results); err != nil {
		h.t.Fatalf("lab: nix build printed %q: %v", text, err)
	}
	var paths []string
	for _, r := range results {
		for _, path := range r.Outputs {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// BuildExpr is [Host.Build] of an expression.
func (h *Host) BuildExpr(user string, expr Expr, args ...string) []string {
	h.t.Helper()
	return h.Build(user, append([]string{"--impure", "--expr", string(expr)}, args...)...)
}

// BuildAll builds every output of the derivation that a file of the host
// evaluates to and returns their paths. (nix build^* has had several syntaxes.)
func (h *Host) BuildAll(user, file string) []string {
	h.t.Helper()
	drv := h.Run(user, "nix-instantiate", file)
	return strings.Fields(h.Run(user, "nix-store", "--realise", drv))
}

// Paths lists the store's valid paths, sorted.
func (h *Host) Paths() []string {
	h.t.Helper()
	out := strings.Fields(h.Must(h.local("nix", "path-info", "--all")))
	slices.Sort(out)
	return out
}

// Has says whether a path is valid in the store.
func (h *Host) Has(path string) bool {
	h.t.Helper()
	return h.local("nix-store", "--check-validity", path).Run() == nil
}

// Litter lists what lies in the store directory without being a valid path:
// what a build, an import or an upload left half-made. Nix's own link farm and
// lock files are no litter.
func (h *Host) Litter() []string {
	h.t.Helper()
	valid := h.Paths()
	var found []string
	err := h.Do(func() error {
		entries, err := os.ReadDir("/nix/store")
		if os.IsNotExist(err) {
			return nil
		}
		for _, e := range entries {
			path := "/nix/store/" + e.Name()
			if _, ok := slices.BinarySearch(valid, path); ok || e.Name() == ".links" || strings.HasSuffix(e.Name(), ".lock") {
				continue
			}
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		h.t.Fatalf("lab: list the store of %s: %v", h.name, err)
	}
	return found
}

// Verify checks that the store is whole: every valid path is there with the
// contents that its hash says, and nothing lies beside them. (Nix 2.34 itself
// leaves the output of a fixed-output derivation whose hash was wrong.)
func (h *Host) Verify() error {
	h.t.Helper()
	out, err := h.local("nix-store", "--verify", "--check-contents").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	// Exits with 0 in some versions even when paths have disappeared.
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "disappeared") || strings.Contains(line, "was modified") {
			return fmt.Errorf("nix-store --verify on %s:\n%s", h.name, out)
		}
	}
	if litter := h.Litter(); len(litter) > 0 {
		return fmt.Errorf("in the store of %s without being valid: %s", h.name, strings.Join(litter, " "))
	}
	return nil
}

// Delete removes paths from the store whether or not they are in use. Paths
// that refer to them must be removed in the same call.
func (h *Host) Delete(paths ...string) {
	h.t.Helper()
	deadline := time.Now().Add(startTimeout)
	for batch := range slices.Chunk(paths, 2000) {
		for len(batch) > 0 {
			out, err := h.local(append([]string{"nix-store", "--delete", "--ignore-liveness"}, batch...)...).CombinedOutput()
			if err == nil {
				break
			}
			// A daemon whose client has just left keeps its temporary roots
			// for a moment.
			if !strings.Contains(string(out), "still alive") || time.Now().After(deadline) {
				h.t.Fatalf("%v\n%s", err, out)
			}
			<-time.After(50 * time.Millisecond)
			valid := h.Paths()
			batch = slices.DeleteFunc(slices.Clone(batch), func(p string) bool {
				_, ok := slices.BinarySearch(valid, p)
				return !ok
			})
		}
	}
}

// Closure lists the closure of paths, sorted.
func (h *Host) Closure(paths ...string) []string {
	h.t.Helper()
	out := strings.Fields(h.Must(h.local(append([]string{"nix-store", "--query", "--requisites"}, paths...)...)))
	slices.Sort(out)
	return out
}

// Key makes a Nix signing key in the host, owned by user, and returns the file
// of the secret key and the text of the public key.
func (h *Host) Key(user, name string) (secretFile, public string) {
	h.t.Helper()
	acc := h.users[user]
	secretFile = filepath.Join(acc.home, name+".secret")
	secret := h.Run(user, "nix", "key", "generate-secret", "--key-name", name)
	h.WriteSecret(user, secretFile, secret)
	return secretFile, h.Must(h.Command(user, "nix", "key", "convert-secret-to-public").WithStdin(secret))
}
