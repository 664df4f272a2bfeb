//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/drv-thru/drv-thru/core/nix/nar"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

const (
	// realBytes of ELF files and scripts of this machine, none larger than
	// realMost, are what is rebuilt, as so many packages.
	realBytes = 310 << 20
	realMost  = 8 << 20
	packages  = 10
	// uplink is what is counted at: an ordinary home's bytes a second. On a link
	// that is faster than compression, chunks are sent as they are.
	uplink = 2.5e6
	// sourceFiles of sourceFile bytes are a source tree.
	sourceFiles = 5000
	sourceFile  = 100_000
)

// BenchmarkRebuild counts the bytes between client and relay, in both directions
// and with all that TLS, HTTP/2 and WebSocket add, when something is built again
// after a small change, and compares them with what whole NARs would take,
// compressed with zstd.
func BenchmarkRebuild(b *testing.B) {
	r := newRebuilder(b)
	b.Run("references", func(b *testing.B) {
		r.files(b)
		r.twice(b, r.mass, func(size int64) int64 { return size / 200 })
	})
	b.Run("one-file", func(b *testing.B) {
		r.files(b)
		// The builder has it already: what is counted is how it comes back.
		r.build(b, r.sent("changed-2"))
		changed := packed(b, r.dir+"/changed-2")
		r.twice(b, r.copied, func(size int64) int64 { return changed + size/200 })
	})
	b.Run("source-line", r.source)
}

// rebuilder is a builder and a client with a valve between client and relay.
type rebuilder struct {
	pair   *lab.Pair
	valve  *valve
	ticket string
	dir    string // on this machine; both hosts see it as /data
}

func newRebuilder(b *testing.B) *rebuilder {
	r := &rebuilder{dir: b.TempDir()}
	if err := os.Chmod(r.dir, 0o755); err != nil {
		b.Fatal(err)
	}
	see := lab.WithBind(r.dir, "/data")
	bh := lab.NewHost(b, lab.Trixie, lab.WithName("builder"))
	ch := lab.NewHost(b, lab.Trixie, lab.WithName("client"), see)
	bh.StartDaemon()
	r.pair = lab.Join(b, bh, ch, lab.BuilderConfig{})
	ch.Run(lab.RootUser, "install", "-d", "-o", lab.Alice, clientCache)
	r.valve = newValve(b, r.pair.Relay)
	r.ticket = r.valve.ticket(b, r.pair.Builder.Ticket("--uses", "unlimited"))
	return r
}

// files gathers what is rebuilt, and the program that does it, unless it has.
func (r *rebuilder) files(b *testing.B) {
	if _, err := os.Stat(r.dir + "/stamp"); err == nil {
		return
	}
	cmd := exec.Command("go", "build", "-o", r.dir+"/stamp", "./cmd/stamp")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	var size int64
	n := 0
	err := filepath.WalkDir("/usr", func(name string, d fs.DirEntry, err error) error {
		if err != nil || size > realBytes {
			return err
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() > realMost || !isProgram(name) {
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil
		}
		size += int64(len(data))
		n++
		dir := fmt.Sprintf("%s/files/%d", r.dir, n%packages)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return os.WriteFile(fmt.Sprintf("%s/%d-%s", dir, n, filepath.Base(name)), data, 0o755)
	})
	if err != nil {
		b.Fatal(err)
	}
	if size < realBytes {
		b.Fatalf("this machine has %d bytes of programs only", size)
	}
	b.Logf("%d programs of %d MB", n, size>>20)
	// The file that changes is one real program and then another.
	large, err := filepath.Glob(r.dir + "/files/*/*")
	if err != nil {
		b.Fatal(err)
	}
	slices.SortFunc(large, func(x, y string) int { return int(sizeOf(b, y) - sizeOf(b, x)) })
	for i := range 2 {
		data, err := os.ReadFile(large[i])
		if err == nil {
			err = os.WriteFile(fmt.Sprintf("%s/changed-%d", r.dir, i+1), data, 0o644)
		}
		if err == nil {
			err = os.Remove(large[i])
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func sizeOf(b *testing.B, name string) int64 {
	info, err := os.Stat(name)
	if err != nil {
		b.Fatal(err)
	}
	return info.Size()
}

func isProgram(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	var head [4]byte
	n, _ := io.ReadFull(f, head[:])
	return string(head[:n]) == "\x7fELF" || strings.HasPrefix(string(head[:n]), "#!")
}

// mass are packages of programs that all refer to dependencies which change with
// the generation.
func (r *rebuilder) mass(generation int) string {
	return fmt.Sprintf(`let
	  make = name: args: derivation ({ inherit name; system = %q; builder = "/bin/sh"; } // args);
	  dep = i: make "dependency-${toString i}" { args = [ "-c" "echo %d ${toString i} > $out" ]; };
	  deps = map dep [ 1 2 3 4 5 ];
	  stamp = builtins.path { path = /data/stamp; name = "stamp"; };
	  package = i: make "package-${toString i}" {
	    builder = stamp;
	    args = [ (builtins.path { path = /data/files + "/${toString i}"; name = "files"; }) ] ++ deps;
	  };
	in make "system" { packages = map package (builtins.genList (i: i) %d); args = [ "-c" "echo $packages > $out" ]; }`,
		lab.System, generation, packages)
}

// copied is one output of all programs, and a file that changes with the
// generation.
func (r *rebuilder) copied(generation int) string {
	return fmt.Sprintf(`derivation {
	  name = "copied"; system = %q; builder = "/bin/sh";
	  files = builtins.path { path = /data/files; name = "all-files"; };
	  changed = builtins.path { path = /data/changed-%d; name = "changed"; };
	  args = [ "-euc" "mkdir $out; cp -r $files $out/files; cp $changed $out/changed" ];
	}`, lab.System, generation)
}

// sent has a file sent to the builder.
func (r *rebuilder) sent(name string) string {
	return fmt.Sprintf(`derivation { name = "sent"; system = %q; builder = "/bin/sh";
		src = builtins.path { path = /data/%s; name = "changed"; }; args = [ "-c" "echo > $out" ]; }`, lab.System, name)
}

// build builds an expression and returns the closure of its output.
func (r *rebuilder) build(b *testing.B, expr string) []string {
	b.Helper()
	ch := r.pair.Client.Host
	ch.WriteFile(lab.Alice, "/home/alice/rebuild.nix", expr)
	out := ch.Must(r.pair.Client.BuildCmd(r.ticket, "--no-link", "--print-out-paths", "-f", "/home/alice/rebuild.nix").
		AddEnv("XDG_CACHE_HOME=" + clientCache))
	return ch.Closure(strings.Fields(out)...)
}

// once runs what is counted: bytes are the same every time, so once is enough.
func once(b *testing.B, count func()) {
	for done := false; b.Loop(); done = true {
		if !done {
			count()
		}
	}
}

// twice builds the first generation and counts what the second one moves.
func (r *rebuilder) twice(b *testing.B, expr func(generation int) string, most func(size int64) int64) {
	once(b, func() {
		before := r.build(b, expr(1))
		r.valve.slow(uplink)
		r.valve.count()
		after := r.build(b, expr(2))
		r.valve.slow(0)
		moved := r.valve.passed(down) + r.valve.passed(up)
		var size, whole int64
		for _, p := range after {
			if !slices.Contains(before, p) {
				n, z := packedNar(b, rootOf(r.pair.Client.Host)+p)
				size, whole = size+n, whole+z
			}
		}
		if size < 235<<20 {
			b.Fatalf("the new NARs have %d bytes only", size)
		}
		r.report(b, size, whole, moved, most(size))
	})
}

func (r *rebuilder) report(b *testing.B, size, whole, moved, most int64) {
	b.Helper()
	b.ReportMetric(0, "ns/op") // means nothing
	b.ReportMetric(float64(size)/1e6, "NAR-MB")
	b.ReportMetric(float64(whole)/1e6, "whole-NAR-zstd-MB")
	b.ReportMetric(float64(r.valve.passed(up))/1e6, "up-MB")
	b.ReportMetric(float64(r.valve.passed(down))/1e6, "down-MB")
	b.ReportMetric(100*float64(moved)/float64(size), "%of-NAR")
	b.ReportMetric(100*float64(whole)/float64(size), "%whole-zstd")
	if moved > most {
		b.Errorf("%d bytes moved (%d up, %d down) for NARs of %d, want %d at most; whole NARs take %d with zstd",
			moved, r.valve.passed(up), r.valve.passed(down), size, most, whole)
	}
}

// source counts what one changed line of a source tree sends.
func (r *rebuilder) source(b *testing.B) {
	tree := r.dir + "/source"
	for i := range sourceFiles {
		dir := fmt.Sprintf("%s/%d", tree, i%100)
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = os.WriteFile(fmt.Sprintf("%s/%d.txt", dir, i), []byte(lines(fmt.Sprint("source", i), sourceFile)), 0o644)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	expr := fmt.Sprintf(`derivation { name = "reader"; system = %q; builder = "/bin/sh";
		src = builtins.path { path = /data/source; name = "source"; }; args = [ "-euc" "ls $src > $out" ]; }`, lab.System)
	r.build(b, expr)
	once(b, func() {
		name := tree + "/42/42.txt"
		text, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(name, bytes.Replace(text, []byte("\n"), []byte("\na changed line\n"), 1), 0o644); err != nil {
			b.Fatal(err)
		}
		r.valve.slow(uplink)
		r.valve.count()
		r.build(b, expr)
		r.valve.slow(0)
		size, whole := packedNar(b, tree)
		r.report(b, size, whole, r.valve.passed(up), size/100)
	})
}

// packed is what a file takes when it is compressed.
func packed(b *testing.B, name string) int64 {
	b.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	e, err := zstd.NewWriter(nil)
	if err != nil {
		b.Fatal(err)
	}
	return int64(len(e.EncodeAll(data, nil)))
}

// packedNar returns the size of a path's NAR, and what it takes compressed.
func packedNar(b *testing.B, path string) (size, packed int64) {
	b.Helper()
	l, err := nar.Scan(context.Background(), path)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	var n counter
	e, err := zstd.NewWriter(&n)
	if err == nil {
		_, err = io.Copy(e, io.NewSectionReader(l, 0, l.Size()))
	}
	if err == nil {
		err = e.Close()
	}
	if err != nil {
		b.Fatal(err)
	}
	return l.Size(), int64(n)
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
