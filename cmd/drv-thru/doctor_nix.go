package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/core/nix/eval"
	"github.com/drv-thru/drv-thru/fusecache"
)

// A flaw is what is known to be wrong with some releases of Nix.
type flaw struct {
	from, before string // of one release series, or of all below
	text         string
	grave        bool // importing what a builder sends is not safe
}

// flaws are the ones that matter for what drv-thru does with Nix.
var flaws = []flaw{
	{"2.24.0", "2.24.6", "unpacks hostile archives outside of the store (CVE-2024-45593)", true},
	{"2.19.0", "2.19.4", "fixed-output builds can leave the sandbox (CVE-2024-27297)", false},
	{"2.20.0", "2.20.5", "fixed-output builds can leave the sandbox (CVE-2024-27297)", false},
	{"0", "2.18.2", "fixed-output builds can leave the sandbox (CVE-2024-27297), unless the distribution has fixed it", false},
}

// flawsOf returns what is known of a version of Nix.
func flawsOf(version string) []flaw {
	var out []flaw
	for _, f := range flaws {
		if !olderNix(version, f.from) && olderNix(version, f.before) {
			out = append(out, f)
		}
	}
	return out
}

// olderNix compares versions by their numbers: "2.24.6", "2.25pre1".
func olderNix(a, b string) bool {
	x, y := numbers(a), numbers(b)
	for i := range max(len(x), len(y)) {
		var m, n int
		if i < len(x) {
			m = x[i]
		}
		if i < len(y) {
			n = y[i]
		}
		if m != n {
			return m < n
		}
	}
	return false
}

func numbers(version string) []int {
	var out []int
	for part := range strings.SplitSeq(version, ".") {
		end := strings.IndexFunc(part, func(r rune) bool { return r < '0' || r > '9' })
		if end < 0 {
			end = len(part)
		}
		n, err := strconv.Atoi(part[:end])
		if err != nil {
			break
		}
		out = append(out, n)
		if end < len(part) {
			break
		}
	}
	return out
}

// nix checks this machine's Nix.
func (e *examination) nix(ctx context.Context) {
	store, err := e.app.dialStore(ctx)
	if err != nil {
		e.add("nix", broken, cmp.Or(hintOf(err), "install Nix, or start its daemon: systemctl start nix-daemon.socket"), "%v", err)
		return
	}
	defer store.Close()
	info := store.conn.Info()
	v, fix, text := fine, "", "Nix "+info.NixVersion+", protocol "+info.Protocol.String()
	for _, f := range flawsOf(info.NixVersion) {
		text += "; " + f.text
		fix = "update Nix"
		if v = slow; f.grave {
			v = broken
		}
	}
	e.add("nix", v, fix, "%s", text)
	e.nixCommand(ctx)
	trust, err := e.app.userTrust(ctx, store)
	switch {
	case err != nil:
		e.add("trust", slow, "", "whether Nix trusts this user is not known: %v", err)
	case trust.UserTrusted:
		e.add("trust", fine, "", "Nix trusts %s, who may import what any builder signs", trust.User)
	default:
		e.add("trust", known, "", "Nix does not trust %s: it imports what keys in its trusted-public-keys have signed", trust.User)
	}
}

// nixCommand checks what evaluates and imports: the daemon may be there and it not, or
// it may have another store.
func (e *examination) nixCommand(ctx context.Context) {
	config, err := eval.ShowConfig(ctx, eval.Config{Env: e.app.environ})
	switch store := config["store"]; {
	case errors.Is(err, exec.ErrNotFound):
		e.add("nix command", broken, needsNix, "%v", err)
	case err != nil:
		e.add("nix command", broken, "see nix.conf, and NIX_CONFIG", "%v", err)
	case elsewhere(store):
		e.add("nix command", broken, "see NIX_REMOTE, and store in nix.conf", "it has its store elsewhere: %s", store)
	}
}

// elsewhere tells that a URL of a store is not this machine's own in /nix/store.
func elsewhere(store string) bool {
	base, settings, _ := strings.Cut(store, "?")
	return strings.Contains(settings, "root=") ||
		!slices.Contains([]string{"", "auto", "daemon", "local", "local://"}, base) && !strings.HasPrefix(base, "unix://")
}

// fuse checks whether outputs can be mounted while they come.
func (e *examination) fuse() {
	if err := fusecache.Available(); err != nil {
		e.add("fuse", slow, "mounting takes the fuse module, /dev/fuse open to this user, and fuse3; as root, CAP_SYS_ADMIN",
			"outputs come by a local HTTP server instead of a mount: %v", err)
		return
	}
	e.add("fuse", fine, "", "outputs can be mounted")
}

// helper checks the helper that imports for users whom Nix does not trust.
func (e *examination) helper() {
	socket := e.app.importHelperSocket()
	if _, err := os.Stat(socket); err != nil {
		e.add("import helper", known, "", "not installed; it is of use where builders' keys are not in trusted-public-keys")
		return
	}
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		e.add("import helper", slow, "join the socket's group, or: systemctl start drv-thru-import-helper.socket", "%s does not answer: %v", socket, err)
		return
	}
	conn.Close()
	e.add("import helper", fine, "", "answers at %s", socket)
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
