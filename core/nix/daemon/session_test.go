package daemon

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

// recordFrom is the socket of a daemon with an empty store, whose builder may be
// /bin/sh and which does not trust this user. Its session replaces the
// transcript of its version in testdata.
var recordFrom = flag.String("record", "", "record the session with the daemon at this `socket`")

const (
	greetingText = "hello from the source\n"
	helloOut     = "/nix/store/cvw3bhzni4p2drxq79w0xdbla2mvjclf-hello"
	helloDev     = "/nix/store/20rq1yzg4zp04pnb6346ymx4d252q9hk-hello-dev"
	nowhere      = "/nix/store/00000000000000000000000000000000-nope"

	helloDrv = `Derive([("dev","/nix/store/20rq1yzg4zp04pnb6346ymx4d252q9hk-hello-dev","",""),("out","/nix/store/cvw3bhzni4p2drxq79w0xdbla2mvjclf-hello","","")],[],["/nix/store/mgha21z6gf15fg616rbpxv3ay09jr5vk-greeting.txt"],"x86_64-linux","/bin/sh",["-c","read -r l < /nix/store/mgha21z6gf15fg616rbpxv3ay09jr5vk-greeting.txt; echo \"building $l\"; printf 'a\\rX\\n\\n'; echo '@nix {\"action\":\"setPhase\",\"phase\":\"installPhase\"}'; printf 'no newline' >&2; echo \"$l\" > $out; echo more > $dev"],[("builder","/bin/sh"),("dev","/nix/store/20rq1yzg4zp04pnb6346ymx4d252q9hk-hello-dev"),("name","hello"),("out","/nix/store/cvw3bhzni4p2drxq79w0xdbla2mvjclf-hello"),("system","x86_64-linux")])`

	brokenDrv = `Derive([("out","/nix/store/hildcx35iqv0vv2zc8gxhyxfj02rxgm5-broken","","")],[],[],"x86_64-linux","/bin/sh",["-c","echo one; echo two; exit 3"],[("builder","/bin/sh"),("name","broken"),("out","/nix/store/hildcx35iqv0vv2zc8gxhyxfj02rxgm5-broken"),("system","x86_64-linux")])`
)

// textPath is a text: path and its NAR.
func textPath(t *testing.T, name, text string, refs ...nix.Path) (nix.PathInfo, string) {
	t.Helper()
	sum := nix.SumHash([]byte(text))
	ca := nix.CA{Method: nix.CAText, Algo: nix.SHA256, Digest: sum[:]}
	p, err := nix.PathFromCA(name, ca, refs, false)
	if err != nil {
		t.Fatal(err)
	}
	nar := s("nix-archive-1") + s("(") + s("type") + s("regular") + s("contents") + s(text) + s(")")
	return nix.PathInfo{
		Path: p, NarHash: nix.SumHash([]byte(nar)), NarSize: uint64(len(nar)), References: refs, CA: ca.String(),
	}, nar
}

// TestFrozenSessions plays what real daemons once answered: the client must send
// the same bytes again, and make the same of the answers.
func TestFrozenSessions(t *testing.T) {
	if *recordFrom != "" {
		record := &recorder{}
		session(t, func(ctx context.Context) (_ io.ReadWriteCloser, err error) {
			var d net.Dialer
			record.ReadWriteCloser, err = d.DialContext(ctx, "unix", *recordFrom)
			return record, err
		}, func(version string) { record.save(t, version) })
		return
	}
	files, err := filepath.Glob("testdata/session-*.txt")
	if err != nil || len(files) < 3 {
		t.Fatalf("transcripts %q, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			tape := load(t, file)
			session(t, func(context.Context) (io.ReadWriteCloser, error) { return tape, nil }, func(string) {})
			if !bytes.Equal(tape.sent.Bytes(), tape.want) {
				t.Errorf("sent\n%q, want\n%q", tape.sent.Bytes(), tape.want)
			}
		})
	}
}

func session(t *testing.T, dial Dialer, done func(version string)) {
	t.Helper()
	ctx := t.Context()
	c, err := Dial(ctx, Config{Dial: dial})
	check(t, err)
	defer c.Close()
	check(t, c.SetOptions(ctx, Options{
		Verbosity: LevelInfo, MaxJobs: 2, UseSubstitutes: true, KeepGoing: true,
		Overrides: map[string]string{"timeout": "600"},
	}))
	src, srcNar := textPath(t, "greeting.txt", greetingText)
	hello, helloNar := textPath(t, "hello.drv", helloDrv, src.Path)
	broken, brokenNar := textPath(t, "broken.drv", brokenDrv)
	all := nix.SortedPaths([]nix.Path{src.Path, hello.Path, broken.Path})

	for _, want := range [][]nix.Path{nil, all} {
		valid, err := c.QueryValidPaths(ctx, all, false)
		check(t, err)
		equal(t, "valid paths", valid, want)
		infos := []nix.PathInfo{src, hello, broken}
		nars := []string{srcNar, helloNar, brokenNar}
		check(t, c.AddMultipleToStore(ctx, 3, func() (i nix.PathInfo, r io.Reader, err error) {
			i, r = infos[0], strings.NewReader(nars[0])
			infos, nars = infos[1:], nars[1:]
			return i, r, nil
		}))
	}
	infos, err := c.QueryPathInfos(ctx, []nix.Path{hello.Path, helloOut, src.Path})
	check(t, err)
	equal(t, "info of what is not built", infos[1], (*nix.PathInfo)(nil))
	for i, want := range map[int]nix.PathInfo{0: hello, 2: src} {
		got := *infos[i]
		got.RegistrationTime = 0
		equal(t, "info", got, want)
	}
	missing, err := c.QueryMissing(ctx, []DerivedPath{{hello.Path, []string{AllOutputs}}, {Path: nowhere}})
	check(t, err)
	equal(t, "missing", missing, Missing{WillBuild: []nix.Path{hello.Path}, Unknown: []nix.Path{nowhere}})
	outputs := map[string]nix.Path{"out": helloOut, "dev": helloDev}
	check(t, c.AddTempRoots(ctx, all))

	sessionBuilds(t, c, hello.Path, broken.Path, outputs)

	infos, err = c.QueryPathInfos(ctx, []nix.Path{helloOut})
	check(t, err)
	equal(t, "deriver and ultimate", []any{infos[0].Deriver, infos[0].Ultimate}, []any{hello.Path, true})

	var remote *Error
	forged := nix.PathInfo{Path: nowhere, NarHash: src.NarHash, NarSize: src.NarSize}
	if err := addOne(ctx, c, forged, strings.NewReader(srcNar)); !errors.As(err, &remote) || !strings.Contains(err.Error(), "lacks a") {
		t.Errorf("forged path: %v", err)
	}
	wrong, wrongNar := textPath(t, "wrong.txt", "wrong\n")
	wrong.NarHash = nix.Hash{}
	if err := addOne(ctx, c, wrong, strings.NewReader(wrongNar)); !errors.As(err, &remote) || !strings.Contains(err.Error(), "hash mismatch") {
		t.Errorf("wrong hash: %v", err)
	}
	check(t, c.AddIndirectRoots(ctx, "/nix/var/nix/no-such-root"))
	valid, err := c.QueryValidPaths(ctx, []nix.Path{helloOut, nowhere}, false)
	check(t, err)
	equal(t, "valid", valid, []nix.Path{helloOut})
	for _, want := range []nix.Path{helloOut, ""} {
		got, err := c.QueryPathFromHashPart(ctx, cmp.Or(want, nowhere).Hash())
		check(t, err)
		equal(t, "path of a hash", got, want)
	}
	if !t.Failed() {
		done(c.Info().NixVersion)
	}
}

func addOne(ctx context.Context, c *Conn, info nix.PathInfo, nar io.Reader) error {
	return c.AddMultipleToStore(ctx, 1, func() (nix.PathInfo, io.Reader, error) { return info, nar, nil })
}

func sessionBuilds(t *testing.T, c *Conn, hello, broken nix.Path, outputs map[string]nix.Path) {
	t.Helper()
	var r record
	check(t, c.SetSink(&r))
	rs, err := c.BuildPathsWithResults(t.Context(), []DerivedPath{
		{hello, []string{"dev", "out"}}, {broken, []string{AllOutputs}},
	}, BuildNormal)
	check(t, err)
	slices.SortFunc(rs, func(a, b BuildResult) int { return strings.Compare(string(a.Path.Path), string(b.Path.Path)) })
	equal(t, "statuses", []Status{rs[0].Status, rs[1].Status}, []Status{Built, PermanentFailure})
	equal(t, "built outputs", rs[0].BuiltOutputs, outputs)
	if msg := StripANSI(rs[1].ErrorMsg); !strings.Contains(msg, "exit code 3") || !strings.Contains(msg, "> two") {
		t.Errorf("failure: %q", msg)
	}
	lines := slices.Sorted(slices.Values(r.lines))
	equal(t, "log", lines, []string{"", "X", "building hello from the source", "no newline", "one", "two"})
	phase := Field{IsString: true, Str: "installPhase"}
	if !slices.Contains(r.results, phase) {
		t.Errorf("no phase in %v", r.results)
	}
	building := slices.IndexFunc(r.started, func(a Activity) bool {
		return a.Type == ActivityBuild && len(a.Fields) > 0 && a.Fields[0].Str == string(hello)
	})
	if building < 0 || len(r.started) != len(r.stopped) {
		t.Errorf("activities %+v, stopped %v", r.started, r.stopped)
	}
	rs, err = c.BuildPathsWithResults(t.Context(), []DerivedPath{{hello, []string{"out"}}}, BuildCheck)
	check(t, err)
	equal(t, "check", rs[0].Status, Built)
	check(t, c.SetSink(nil))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\ngot  %+v\nwant %+v", what, got, want)
	}
}

// tape answers from a transcript.
type tape struct {
	sent   bytes.Buffer
	want   []byte
	answer *bytes.Reader
}

func (p *tape) Read(b []byte) (int, error)  { return p.answer.Read(b) }
func (p *tape) Write(b []byte) (int, error) { return p.sent.Write(b) }
func (p *tape) Close() error                { return nil }

// A transcript has two streams in hex, the client's and the daemon's: which
// bytes crossed which on the way is chance.
const (
	clientHead = "# client"
	daemonHead = "# daemon"
)

func load(t *testing.T, file string) *tape {
	t.Helper()
	f, err := os.Open(file)
	check(t, err)
	defer f.Close()
	streams := map[string][]byte{}
	head := ""
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if line := sc.Text(); strings.HasPrefix(line, "#") {
			head = line
		} else {
			b, err := hex.DecodeString(line)
			check(t, err)
			streams[head] = append(streams[head], b...)
		}
	}
	return &tape{want: streams[clientHead], answer: bytes.NewReader(streams[daemonHead])}
}

type recorder struct {
	io.ReadWriteCloser
	client, daemon bytes.Buffer
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.ReadWriteCloser.Read(b)
	r.daemon.Write(b[:n])
	return n, err
}

func (r *recorder) Write(b []byte) (int, error) {
	r.client.Write(b)
	return r.ReadWriteCloser.Write(b)
}

func (r *recorder) save(t *testing.T, version string) {
	t.Helper()
	var b strings.Builder
	for _, part := range []struct {
		head string
		data []byte
	}{{clientHead, r.client.Bytes()}, {daemonHead, r.daemon.Bytes()}} {
		fmt.Fprintln(&b, part.head)
		for chunk := range slices.Chunk(part.data, 64) {
			fmt.Fprintf(&b, "%x\n", chunk)
		}
	}
	check(t, os.MkdirAll("testdata", 0o755))
	check(t, os.WriteFile("testdata/session-"+version+".txt", []byte(b.String()), 0o644))
}
