//go:build !js && !wasip1

package eval

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

// fakeNix is the variable that makes the test's own program play nix: the name
// of a JSON file that says what to answer.
const fakeNix = "FAKE_NIX"

// play is a fake nix: the answers in turn, and where to write what was asked.
type play struct {
	Answers []answer
	// Asked is a file that gets a line of JSON for each call.
	Asked string
}

type answer struct {
	Stdout, Stderr string
	Code           int
	// Hang makes nix wait for the interrupt.
	Hang bool
	// Killed makes it end as where the kernel has no more memory.
	Killed bool
}

type call struct {
	Args  []string
	Env   []string
	Stdin string
}

func TestMain(m *testing.M) {
	file := os.Getenv(fakeNix)
	if file == "" {
		os.Exit(m.Run())
	}
	os.Exit(fakeMain(file))
}

func fakeMain(file string) int {
	var p play
	text, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(text, &p) != nil {
		return 90
	}
	asked, _ := os.ReadFile(p.Asked)
	n := bytes.Count(asked, []byte("\n"))
	if n >= len(p.Answers) {
		return 91
	}
	var stdin bytes.Buffer
	if _, err := stdin.ReadFrom(os.Stdin); err != nil {
		return 92
	}
	line, _ := json.Marshal(call{os.Args[1:], os.Environ(), stdin.String()})
	if os.WriteFile(p.Asked, append(asked, append(line, '\n')...), 0o600) != nil {
		return 93
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	fmt.Print(p.Answers[n].Stdout)
	fmt.Fprint(os.Stderr, p.Answers[n].Stderr)
	if p.Answers[n].Killed {
		if self, err := os.FindProcess(os.Getpid()); err == nil && self.Kill() == nil {
			select {}
		}
	}
	if p.Answers[n].Hang {
		<-interrupted
		fmt.Fprintln(os.Stderr, "interrupted")
	}
	return p.Answers[n].Code
}

// fake returns a configuration that answers so, and what was asked.
func fake(t *testing.T, answers ...answer) (Config, func() []call) {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := play{answers, filepath.Join(dir, "asked")}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "play.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Program: self,
		Env:     []string{fakeNix + "=" + file, "GORACE=atexit_sleep_ms=0", "HOME=/home/me", "DRV_THRU_TICKET=drvthrusecret"},
		ReadFile: func(name string) ([]byte, error) {
			if name != helloDrv {
				return nil, os.ErrNotExist
			}
			return []byte(helloText), nil
		},
	}
	return cfg, func() []call {
		text, err := os.ReadFile(p.Asked)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		var calls []call
		for line := range strings.Lines(string(text)) {
			var c call
			if err := json.Unmarshal([]byte(line), &c); err != nil {
				t.Fatal(err)
			}
			calls = append(calls, c)
		}
		return calls
	}
}

const (
	helloDrv  = "/nix/store/845hdsjsawwbdl0bj1jmz4dwzigxkzzi-hello.drv"
	helloOut  = "/nix/store/cvw3bhzni4p2drxq79w0xdbla2mvjclf-hello"
	helloDev  = "/nix/store/20rq1yzg4zp04pnb6346ymx4d252q9hk-hello-dev"
	otherDrv  = "/nix/store/00000000000000000000000000000000-other.drv"
	somePath  = "/nix/store/00000000000000000000000000000000-some"
	helloText = `Derive([("dev","` + helloDev + `","",""),("out","` + helloOut + `","","")],[],[],"x86_64-linux","/bin/sh",["-c","x"],[("dev","` + helloDev + `"),("name","hello"),("out","` + helloOut + `")])`

	helloEntry = `{"drvPath":"` + helloDrv + `","outputs":{"out":"` + helloOut + `"}}`
	caEntry    = `{"drvPath":"` + otherDrv + `","outputs":{"lib":null,"out":null}}`
)

var (
	head = []string{
		"--extra-experimental-features", "nix-command flakes", "build",
		"--dry-run", "--json", "--no-link", "--log-format", "internal-json",
	}
	hello = Target{Drv: helloDrv, Outputs: []string{"out"}, OutPaths: map[string]nix.Path{"out": helloOut}}
	other = Target{Drv: otherDrv, Outputs: []string{"lib", "out"}, OutPaths: map[string]nix.Path{}}
)

func of(t Target, installable string) Target {
	t.Installable = installable
	return t
}

func all(installable string) Target {
	return Target{
		Installable: installable, Drv: helloDrv, Outputs: []string{"dev", "out"},
		OutPaths: map[string]nix.Path{"dev": helloDev, "out": helloOut},
	}
}

func TestEvaluate(t *testing.T) {
	version := func(v string) answer { return answer{Stdout: "nix (Nix) " + v + "\n"} }
	build := func(entries ...string) answer { return answer{Stdout: "[" + strings.Join(entries, ",") + "]\n"} }
	args := func(more ...string) []string { return append(append([]string{}, head...), more...) }
	isVersion := []string{"--version"}
	for name, tt := range map[string]struct {
		req     Request
		answers []answer
		asked   [][]string
		want    []Target
	}{
		"default": {
			Request{}, []answer{build(helloEntry)}, [][]string{args("--", ".")},
			[]Target{of(hello, ".")},
		},
		"several": {
			Request{Installables: []string{".#hello", "nixpkgs#other"}},
			[]answer{build(helloEntry, caEntry)}, [][]string{args("--", ".#hello", "nixpkgs#other")},
			[]Target{of(hello, ".#hello"), of(other, "nixpkgs#other")},
		},
		"every option": {
			Request{
				Installables: []string{"a"}, File: "x.nix", Args: [][2]string{{"n", "1"}},
				ArgStrs: [][2]string{{"s", "-x"}}, Impure: true, Refresh: true,
				OverrideInputs: [][2]string{{"nixpkgs", "path:/x"}}, System: "riscv64-linux", NoSubstitute: true,
			},
			[]answer{build(helloEntry)},
			[][]string{args("--impure", "--refresh", "--option", "substitute", "false",
				"--system", "riscv64-linux", "--override-input", "nixpkgs", "path:/x", "--arg", "n", "1",
				"--argstr", "s", "-x", "--file", "x.nix", "--", "a")},
			[]Target{of(hello, "a")},
		},
		"whole expression": {
			Request{Expr: "{ }"}, []answer{build(helloEntry, caEntry)}, [][]string{args("--expr", "{ }", "--")},
			[]Target{hello, other},
		},
		"one installable, two derivations": {
			Request{Expr: "{ }", Installables: []string{"set"}}, []answer{build(helloEntry, caEntry)},
			[][]string{args("--expr", "{ }", "--", "set")}, []Target{of(hello, "set"), of(other, "set")},
		},
		"store paths": {
			Request{Installables: []string{helloDrv, somePath, helloDrv + "^dev", helloDrv + "^*"}}, nil, nil,
			[]Target{
				all(helloDrv),
				{Installable: somePath, Path: somePath},
				{
					Installable: helloDrv + "^dev", Drv: helloDrv, Outputs: []string{"dev"},
					OutPaths: map[string]nix.Path{"dev": helloDev},
				},
				all(helloDrv + "^*"),
			},
		},
		"mixed": {
			Request{Installables: []string{"./result", somePath, ".#x", "./old"}},
			[]answer{build(`"`+helloOut+`"`, caEntry, `{"path":"`+helloDrv+`"}`)},
			[][]string{args("--", "./result", ".#x", "./old")},
			[]Target{
				{Installable: "./result", Path: helloOut}, {Installable: somePath, Path: somePath},
				of(other, ".#x"), all("./old"),
			},
		},
		"outputs": {
			Request{Installables: []string{".#hello^dev,out", ".#other"}},
			[]answer{version("2.34.8"), build(`{"drvPath":"`+helloDrv+`","outputs":{"out":"`+helloOut+`","dev":"`+helloDev+`"}}`, caEntry)},
			[][]string{isVersion, args("--", ".#hello^dev,out", ".#other")},
			[]Target{all(".#hello^dev,out"), of(other, ".#other")},
		},
		"outputs, Nix 2.8": {
			Request{Installables: []string{".#hello^dev,out", ".#other", ".#hello^*"}},
			[]answer{version("2.8.0pre1_dirty"), build(helloEntry, caEntry, helloEntry)},
			[][]string{isVersion, args("--", ".#hello", ".#other", ".#hello")},
			[]Target{all(".#hello^dev,out"), of(other, ".#other"), all(".#hello^*")},
		},
		"no outputs after all": {
			Request{Installables: []string{"path:/a^b/c"}}, []answer{build(helloEntry)},
			[][]string{args("--", "path:/a^b/c")}, []Target{of(hello, "path:/a^b/c")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, asked := fake(t, tt.answers...)
			got, err := Evaluate(t.Context(), cfg, tt.req)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
			var args [][]string
			for _, c := range asked() {
				args = append(args, c.Args)
			}
			if !reflect.DeepEqual(args, tt.asked) {
				t.Errorf("asked %q\nwant  %q", args, tt.asked)
			}
		})
	}
}

func TestEvaluateRefuses(t *testing.T) {
	for name, req := range map[string]Request{
		"option":             {Installables: []string{"--impure"}},
		"dash":               {Installables: []string{"-"}},
		"empty":              {Installables: []string{""}},
		"zero byte":          {Installables: []string{"a\x00b"}},
		"zero byte in expr":  {Expr: "a\x00b"},
		"both":               {File: "x", Expr: "y"},
		"override option":    {OverrideInputs: [][2]string{{"nixpkgs", "--x"}}},
		"many":               {Installables: make([]string, maxInstallables+1)},
		"outputs of a path":  {Installables: []string{somePath + "^out"}},
		"no such output":     {Installables: []string{helloDrv + "^doc"}},
		"no such derivation": {Installables: []string{otherDrv}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, asked := fake(t)
			_, err := Evaluate(t.Context(), cfg, req)
			if !errors.Is(err, ErrRequest) && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("got %v", err)
			}
			if len(asked()) > 0 {
				t.Error("nix was run")
			}
		})
	}
}

func TestEvaluateBadAnswers(t *testing.T) {
	missing := `{"drvPath":"` + helloDrv + `","outputs":{"out":null}}`
	cfg, _ := fake(t, answer{Stdout: "nix (Nix) 2.34.8"}, answer{Stdout: "[" + missing + "]"})
	_, err := Evaluate(t.Context(), cfg, Request{Installables: []string{".#hello^doc,out"}})
	if !errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), `no output "doc", only dev, out`) {
		t.Errorf("an output that is not there: %v", err)
	}
	cfg, _ = fake(t, answer{Stdout: "nix"})
	if _, err := Evaluate(t.Context(), cfg, Request{Installables: []string{".#hello^out"}}); !errors.Is(err, errVersion) {
		t.Errorf("no version: %v", err)
	}
	for name, out := range map[string]string{
		"no JSON":        "hello",
		"no list":        "{}",
		"number":         "[1]",
		"not in store":   `["/etc/passwd"]`,
		"drv not a path": `[{"drvPath":"/etc/passwd","outputs":{"out":null}}]`,
		"no drv":         `[{"outputs":{"out":null}}]`,
		"no outputs":     `[{"drvPath":"` + helloDrv + `"}]`,
		"dynamic":        `[{"drvPath":{"drvPath":"` + helloDrv + `","output":"out"},"outputs":{"out":null}}]`,
		"bad output":     `[{"drvPath":"` + helloDrv + `","outputs":{"a/b":null}}]`,
		"bad out path":   `[{"drvPath":"` + helloDrv + `","outputs":{"out":"/etc/passwd"}}]`,
		"too much":       "[" + strings.Repeat(" ", maxOutput) + "]",
	} {
		t.Run(name, func(t *testing.T) {
			if len(out) > 1<<20 {
				var l limited
				if _, err := l.ReadFrom(strings.NewReader(out)); err == nil {
					t.Error("no bound")
				}
				return
			}
			cfg, _ := fake(t, answer{Stdout: out})
			if got, err := Evaluate(t.Context(), cfg, Request{}); err == nil {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestSurroundings(t *testing.T) {
	cfg, asked := fake(t, answer{Stdout: "[]"})
	cfg.Stdin = strings.NewReader("{ }")
	if _, err := Evaluate(t.Context(), cfg, Request{File: "-"}); err != nil {
		t.Fatal(err)
	}
	c := asked()[0]
	if c.Stdin != "{ }" {
		t.Errorf("stdin %q", c.Stdin)
	}
	env := strings.Join(c.Env, "\n")
	if strings.Contains(env, "drvthrusecret") || !strings.Contains(env, "HOME=/home/me") || strings.Contains(env, "PATH=") {
		t.Errorf("environment %s", env)
	}
}

func TestFailureAndMessages(t *testing.T) {
	log := "warning: not JSON\n" +
		`@nix {"action":"start","id":1,"level":4,"text":"evaluating derivation '.#x'","type":0}` + "\n" +
		`@nix {"action":"start","id":2,"level":6,"text":"too detailed","type":0}` + "\n" +
		`@nix {"action":"msg","level":1,"msg":"\u001b[35;1mwarning:\u001b[0m ignoring the client-specified setting 'system', because"}` + "\n" +
		`@nix {"action":"msg","level":0,"msg":"these 2 derivations will be built:"}` + "\n" +
		`@nix {"action":"msg","level":0,"msg":"  /nix/store/x.drv"}` + "\n" +
		`@nix {"action":"msg","level":0,"msg":"  /nix/store/y.drv"}` + "\n" +
		`@nix {"action":"msg","level":0,"msg":"  /not/of/the/list"}` + "\n" +
		`@nix {"action":"msg","level":0,"msg":"  /nix/store/neither"}` + "\n" +
		`@nix {"action":"result","fields":["IFD log"],"id":2,"type":101}` + "\n" +
		`@nix {"action":"stop","id":1}` + "\n" +
		`@nix {broken` + "\n" +
		`@nix {"action":"msg","level":0,"msg":"\u001b[31;1merror:\u001b[0m attribute 'x' missing","raw_msg":"attribute '\u001b[35;1mx\u001b[0m' missing"}` + "\n" +
		"last words"
	for _, color := range []bool{false, true} {
		cfg, _ := fake(t, answer{Stderr: log, Code: 7})
		var stderr bytes.Buffer
		var progress []string
		cfg.Stderr, cfg.Color = &stderr, color
		cfg.Progress = func(text string) { progress = append(progress, text) }
		_, err := Evaluate(t.Context(), cfg, Request{})
		var exit *ExitError
		if !errors.As(err, &exit) || !reflect.DeepEqual(*exit, ExitError{"nix build", 7, "attribute 'x' missing"}) {
			t.Fatalf("got %#v", err)
		}
		e := "error:"
		if color {
			e = "\x1b[31;1merror:\x1b[0m"
		}
		want := "warning: not JSON\n  /not/of/the/list\n  /nix/store/neither\n@nix {broken\n" + e + " attribute 'x' missing\nlast words\n"
		if stderr.String() != want {
			t.Errorf("stderr %q\nwant   %q", stderr.String(), want)
		}
		if !reflect.DeepEqual(progress, []string{"evaluating derivation '.#x'"}) {
			t.Errorf("progress %q", progress)
		}
	}
}

func TestKilled(t *testing.T) {
	cfg, asked := fake(t, answer{Killed: true}, answer{Killed: true})
	const want = "nix build: signal: killed"
	if _, err := Evaluate(t.Context(), cfg, Request{}); err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want …%s", err, want)
	}
	// That is no Nix that lacks the newer command.
	if _, err := ShowConfig(t.Context(), cfg); err == nil || len(asked()) != 2 {
		t.Errorf("configuration: %v after %d calls", err, len(asked()))
	}
}

func TestLogFilterPieces(t *testing.T) {
	var out bytes.Buffer
	f := &logFilter{to: &out}
	long := strings.Repeat("x", maxLogLine+10)
	input := "one\n" + `@nix {"action":"msg","level":1,"msg":"two"}` + "\n" + long + "\nthree\n"
	for len(input) > 0 {
		n := min(len(input), 7001)
		if _, err := f.Write([]byte(input[:n])); err != nil {
			t.Fatal(err)
		}
		input = input[n:]
	}
	f.flush()
	if out.String() != "one\ntwo\n"+long+"\nthree\n" {
		t.Errorf("got %d bytes", out.Len())
	}
}

func TestCancelInterrupts(t *testing.T) {
	cfg, _ := fake(t, answer{Stderr: "waiting\n", Hang: true})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("user pressed Ctrl-C")
	var stderr writerFunc = func(p []byte) (int, error) {
		cancel(why)
		return len(p), nil
	}
	cfg.Stderr = stderr
	if _, err := Evaluate(ctx, cfg, Request{}); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestNoNix(t *testing.T) {
	_, err := Evaluate(t.Context(), Config{Program: filepath.Join(t.TempDir(), "nix")}, Request{})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	_, err = Evaluate(t.Context(), Config{Program: "drv-thru-test-has-no-such-program"}, Request{})
	if !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestShowConfig(t *testing.T) {
	plain := "sandbox = true\nsystem = x86_64-linux\ntrusted-public-keys = cache.nixos.org-1:6NCH= k:v=\n" +
		"access-tokens =  github.com=a=b x=y\nsubstituters = \nempty =\nodd = = x\nhook = one\n  two\n\n"
	want := map[string]string{
		"sandbox": "true", "system": "x86_64-linux", "trusted-public-keys": "cache.nixos.org-1:6NCH= k:v=",
		"access-tokens": "github.com=a=b x=y", "substituters": "", "empty": "", "odd": "= x", "hook": "one\n  two",
	}
	old := answer{Stderr: "error: 'config' is not a recognised command\n", Code: 1}
	for name, answers := range map[string][]answer{
		"new": {{Stdout: plain}}, "old": {old, {Stdout: plain}},
	} {
		cfg, asked := fake(t, answers...)
		var stderr bytes.Buffer
		cfg.Stderr = &stderr
		got, err := ShowConfig(t.Context(), cfg)
		if err != nil || !reflect.DeepEqual(got, want) || stderr.Len() > 0 {
			t.Errorf("%s: got %q, %v, %q", name, got, err, &stderr)
		}
		last := asked()[len(answers)-1].Args
		if cmd := strings.Join(last[2:], " "); cmd != "config show" && cmd != "show-config" {
			t.Errorf("%s: asked %q", name, last)
		}
	}
	cfg, _ := fake(t, old, answer{Stderr: "error: bad nix.conf\n", Code: 1})
	var exit *ExitError
	if _, err := ShowConfig(t.Context(), cfg); !errors.As(err, &exit) || exit.Message != "error: bad nix.conf" {
		t.Errorf("got %v", err)
	}
}

func TestSystemEnv(t *testing.T) {
	got := SystemEnv([]string{"A=1", "NIX_CONFIG=x = y", "NIX_USER_CONF_FILES=/x", "NIX_CONF_DIR=/y"})
	if want := []string{"A=1", "NIX_CONF_DIR=/y", "NIX_USER_CONF_FILES="}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
}

func FuzzDryRun(f *testing.F) {
	f.Add([]byte("[" + helloEntry + "," + caEntry + `,"` + somePath + `",{"path":"` + helloDrv + `"}]`))
	cfg := Config{ReadFile: func(string) ([]byte, error) { return []byte(helloText), nil }}
	f.Fuzz(func(t *testing.T, out []byte) {
		targets, err := cfg.parseDryRun(out)
		if err != nil {
			return
		}
		for _, target := range targets {
			if (target.Drv == "") == (target.Path == "") || target.Drv != "" && len(target.Outputs) != len(slices.Compact(target.Outputs)) {
				t.Errorf("accepted %+v", target)
			}
		}
	})
}

// FuzzLog: what evaluated code has Nix write comes in pieces of any size, and comes
// out the same.
func FuzzLog(f *testing.F) {
	f.Add([]byte("@nix {\"action\":\"msg\",\"level\":0,\"msg\":\"error: \\u001b[31mx\"}\n\n@nix {\nfatal: git\r"), uint8(3))
	f.Add([]byte("@nix {\"action\":\"msg\",\"level\":0,\"msg\":\"this derivation will be built:\"}\n"+
		"@nix {\"action\":\"msg\",\"level\":0,\"msg\":\"  "+helloDrv+"\"}\n@nix {\"action\":\"start\",\"level\":4,\"text\":\"a\"}"), uint8(1))
	f.Fuzz(func(t *testing.T, text []byte, size uint8) {
		filter := func(size int) string {
			var out strings.Builder
			f := &logFilter{to: &out, progress: func(s string) { out.WriteString("<" + s + ">") }}
			for piece := range slices.Chunk(text, max(1, size)) {
				if n, err := f.Write(piece); n != len(piece) || err != nil {
					t.Fatal(n, err)
				}
			}
			f.flush()
			return out.String() + "|" + f.last
		}
		if whole, pieces := filter(len(text)), filter(int(size)); whole != pieces {
			t.Errorf("%q and %q", whole, pieces)
		}
	})
}
