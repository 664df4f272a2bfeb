package nixstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/nix/nar"
)

// ErrUnsandboxed means that a build saw what a sandbox would have hidden.
var ErrUnsandboxed = errors.New("builds are not sandboxed: a probe build saw a store path that is none of its inputs")

// ErrRoot means that a build ran as root, from which Nix's sandbox does not protect: the
// kernel lets it write /proc/sys.
var ErrRoot = errors.New("builds run as root: a probe build had user ID 0 outside of its sandbox")

const (
	probeTime = time.Minute
	// probeSaw is what the probe prints when it is not sandboxed.
	probeSaw = "drv-thru: not sandboxed"
	// probeRoot is what it prints when it is root.
	probeRoot = "drv-thru: root"
	probeSh   = "/bin/sh"
)

// ProbeSandbox builds a derivation that looks for a store path which is not
// among its inputs: in Nix's sandbox it is not there, without one it is. It also
// looks for whom it runs as. random makes each probe a build of its own. What it
// leaves in the store is garbage of a few bytes.
//
// The builder is /bin/sh. A sandbox without one (sandbox-paths says what is in
// it) shows itself by failing to start what this machine has.
func (s *Store) ProbeSandbox(ctx context.Context, random io.Reader, system string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	var nonce [16]byte
	if _, err := io.ReadFull(random, nonce[:]); err != nil {
		return fmt.Errorf("probe the sandbox: %w", err)
	}
	text := []byte("drv-thru " + hex.EncodeToString(nonce[:]) + "\n")
	canary, err := nix.TextInfo("drv-thru-canary", text, nil)
	if err != nil {
		return fmt.Errorf("probe the sandbox: %w", err)
	}
	drvText := probeDerivation(system, canary.Path)
	drv, err := nix.TextInfo("drv-thru-probe.drv", drvText, nil)
	if err != nil {
		return fmt.Errorf("probe the sandbox: %w", err)
	}
	session, err := s.Session(ctx)
	if err != nil {
		return fmt.Errorf("probe the sandbox: %w", err)
	}
	defer session.Close()
	if err := session.AddTempRoots(ctx, []nix.Path{canary.Path, drv.Path}); err != nil {
		return fmt.Errorf("probe the sandbox: %w", err)
	}
	items := []builder.ImportItem{{Info: canary, Nar: fileNar(text)}, {Info: drv, Nar: fileNar(drvText)}}
	if err := session.Import(ctx, items); err != nil {
		return fmt.Errorf("probe the sandbox: %w", err)
	}
	said := &probeSink{}
	results, err := session.Build(ctx, []daemon.DerivedPath{{Path: drv.Path, Outputs: []string{"out"}}}, builder.BuildOptions{}, said)
	if err != nil {
		return fmt.Errorf("probe the sandbox: %w", err)
	}
	return probeVerdict(results, said.String())
}

func probeVerdict(results []daemon.BuildResult, said string) error {
	if len(results) != 1 {
		return fmt.Errorf("probe the sandbox: the daemon reported on %d builds of one", len(results))
	}
	message := daemon.StripANSI(results[0].ErrorMsg)
	all := said + "\n" + message
	_, hostErr := os.Stat(probeSh)
	switch {
	case strings.Contains(all, probeSaw):
		return ErrUnsandboxed
	case strings.Contains(all, probeRoot):
		return ErrRoot
	case results[0].Status == daemon.Built:
		return nil
	case hostErr == nil && strings.Contains(all, probeSh) && strings.Contains(all, "No such file or directory"):
		return nil
	}
	return fmt.Errorf("probe the sandbox: the probe build ended as %s: %s", results[0].Status, strings.TrimSpace(message))
}

func fileNar(contents []byte) io.Reader {
	var b bytes.Buffer
	_ = nar.WriteFile(&b, contents, false) // a buffer takes everything
	return &b
}

// probeDerivation is an input-addressed derivation without inputs, as Nix writes
// it (libstore/derivations.cc, Derivation::unparse). Its canary is named in the
// environment only, so it is not an input.
func probeDerivation(system string, canary nix.Path) []byte {
	// In a user namespace root goes by another number, which uid_map tells.
	const script = `if [ -e "$canary" ]; then echo "` + probeSaw + `"; exit 1; fi
if [ -r /proc/self/uid_map ]; then
	while read key user rest; do if [ "$key" = Uid: ]; then break; fi; done < /proc/self/status
	while read inside outside rest; do
		if [ "$inside $outside" = "$user 0" ]; then echo "` + probeRoot + `"; exit 1; fi
	done < /proc/self/uid_map
fi
echo sandboxed > $out`
	// It is this machine that is asked, not one that Nix sends builds to.
	write := func(out nix.Path) []byte {
		var b strings.Builder
		fmt.Fprintf(&b, `Derive([("out",%s,"","")],[],[],%s,%s,["-c",%s],[("canary",%s),("name","drv-thru-probe"),("out",%s),("preferLocalBuild","1")])`,
			aterm(string(out)), aterm(system), aterm(probeSh), aterm(script), aterm(string(canary)), aterm(string(out)))
		return []byte(b.String())
	}
	// The output's path comes from the hash of the derivation without it.
	return write(nix.OutputPath(sha256.Sum256(write("")), "drv-thru-probe"))
}

var atermEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`)

func aterm(s string) string { return `"` + atermEscapes.Replace(s) + `"` }

// probeSink keeps what the probe and the daemon say, in bounds.
type probeSink struct {
	daemon.Discard
	mu   sync.Mutex
	text []byte
}

func (p *probeSink) keep(piece []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.text) < 64<<10 {
		p.text = append(append(p.text, piece...), '\n')
	}
}

func (p *probeSink) Message(piece []byte, _ bool)                                { p.keep(piece) }
func (p *probeSink) LogLine(_ uint64, _ daemon.ResultType, piece []byte, _ bool) { p.keep(piece) }

func (p *probeSink) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return daemon.StripANSI(string(p.text))
}
