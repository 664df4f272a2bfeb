//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// The shells themselves take the completion scripts and ask the programs, and
// mandoc finds nothing wrong with the manual pages.
func TestCompletionInShells(t *testing.T) {
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-o", dir+"/", "../cmd/drv-thru", "../cmd/drv-thru-relay")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	run := func(t *testing.T, argv ...string) string {
		t.Helper()
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir, "TERM=dumb")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
		return string(out)
	}
	for _, program := range []string{"drv-thru", "drv-thru-relay"} {
		for _, shell := range []string{"bash", "zsh", "fish"} {
			t.Run(shell+" "+program, func(t *testing.T) {
				script := filepath.Join(dir, program+"."+shell)
				if err := os.WriteFile(script, []byte(run(t, filepath.Join(dir, program), "completion", shell)), 0o644); err != nil {
					t.Fatal(err)
				}
				run(t, shell, "-n", script)
			})
		}
		run(t, filepath.Join(dir, program), "man", "man1")
	}

	t.Run("fish asks", func(t *testing.T) {
		for line, want := range map[string]string{
			"drv-thru tick":              "ticket\tmake and manage tickets",
			"drv-thru build --import ":   "auto",
			"drv-thru build --import=f":  "--import=fuse",
			"drv-thru-relay --access to": "token",
		} {
			program, _, _ := strings.Cut(line, " ")
			out := run(t, "fish", "--no-config", "-c", `source `+program+`.fish; complete -C "`+line+`"`)
			if !strings.Contains(out, want) {
				t.Errorf("%q: %q lacks %q", line, out, want)
			}
		}
	})
	t.Run("zsh asks", func(t *testing.T) {
		// The completion system hands its words to compadd, which here only tells.
		out := run(t, "zsh", "-f", "-c", `
			compdef() { :; }
			compadd() { print -r -- "$@"; print -rl -- "$values[@]" "$shown[@]"; }
			source drv-thru.zsh
			words=(drv-thru ticket cre) CURRENT=3
			_drv_thru
			words=(drv-thru mount ./ma) CURRENT=3
			_drv_thru`)
		for _, want := range []string{"create  -- make a ticket\n", "./man1/\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q lacks %q", out, want)
			}
		}
	})

	pages, err := filepath.Glob(dir + "/man1/*.1")
	if err != nil || len(pages) < 10 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	t.Run("mandoc", func(t *testing.T) {
		cmd := exec.Command("mandoc", append([]string{"-T", "lint", "-W", "warning"}, pages...)...)
		out, _ := cmd.CombinedOutput()
		for line := range strings.Lines(string(out)) {
			// A date would make each build another one.
			if !strings.Contains(line, "missing date") {
				t.Error(line)
			}
		}
	})
}

// Who presses Tab in bash gets installables from the Nix of the machine.
func TestCompletionByNix(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		h := lab.NewHost(t, root)
		h.StartDaemon()
		lab.NewClient(t, h)
		const dir = "/home/alice/tab"
		h.WriteFile(lab.Alice, dir+"/flake/flake.nix", lab.Flake(map[string]lab.Expr{"hello": lab.Hello("tab"), "multi": lab.MultiOutput("tab")}))
		h.WriteFile(lab.Alice, dir+"/two files.nix", lab.Attrs(map[string]lab.Expr{"one": lab.Hello("one"), "other": lab.Hello("other")}))
		h.WriteFile(lab.Alice, dir+"/rc", "PS1='ready> '\nsource <(drv-thru completion bash)\n")
		bash := newDialogue(t, h.Command(lab.Alice, "bash", "--noprofile", "--rcfile", "rc", "-i").In(dir).AddEnv("TERM=dumb", "INPUTRC=/dev/null"), "ready> ")
		for typed, want := range map[string]string{
			"drv-thru build path:./flake#he":                  "drv-thru build path:./flake#hello",
			"drv-thru build -o x --import=ht":                 "drv-thru build -o x --import=http",
			"drv-thru build ./flake#mul":                      "drv-thru build ./flake#multi",
			"drv-thru build -f 'two files.nix' ot":            "drv-thru build -f two files.nix other",
			`drv-thru build --no-link -f "two files.nix" 'on`: "drv-thru build --no-link -f two files.nix one",
			"drv-thru build ./fl":                             "drv-thru build ./flake",
		} {
			// Tab; to the beginning of the line, to have it shown and not run.
			shown := bash.say(typed + "\t\x01echo \r")
			if !strings.Contains(shown, "\n"+want+"\r\n") && !strings.Contains(shown, "\n"+want+"/\r\n") {
				t.Errorf("%s, and Tab: %q, want %q", typed, shown, want)
			}
		}
	})
}

// A dialogue is with a program on a terminal that asks for lines.
type dialogue struct {
	t      *testing.T
	prompt string
	in     *os.File
	out    chan []byte
}

func newDialogue(t *testing.T, c *lab.Cmd, prompt string) *dialogue {
	t.Helper()
	master, slave := terminal(t)
	c.Stdin, c.Stdout, c.Stderr = slave, slave, slave
	d := &dialogue{t: t, prompt: prompt, in: master, out: make(chan []byte)}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(d.out)
		for {
			buf := make([]byte, 4<<10)
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			d.out <- buf[:n]
		}
	}()
	t.Cleanup(func() {
		c.Process.Kill()
		for range d.out {
		}
		<-read
		_ = c.Wait() // it was killed
		master.Close()
	})
	d.answer()
	return d
}

// say types, and returns what is shown until the program asks again.
func (d *dialogue) say(text string) string {
	d.t.Helper()
	if _, err := d.in.WriteString(text); err != nil {
		d.t.Fatal(err)
	}
	return d.answer()
}

// answer reads until the program has asked, and nothing stands behind that.
func (d *dialogue) answer() string {
	d.t.Helper()
	shown := ""
	for timeout := time.After(longest); ; {
		select {
		case piece, ok := <-d.out:
			if shown += string(piece); !ok {
				d.t.Fatalf("it has ended:\n%q", shown)
			}
			// A line that is typed is drawn after the prompt of before.
			if i := strings.LastIndex(shown, "\r\n"); strings.HasSuffix(shown, d.prompt) && i+len("\r\n"+d.prompt) >= len(shown) {
				return shown
			}
		case <-timeout:
			d.t.Fatalf("it does not ask again:\n%q", shown)
		}
	}
}
