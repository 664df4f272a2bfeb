//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
