package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/cmd/internal/usage"
)

var (
	code     = regexp.MustCompile("`([^`]+)`")
	testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	subtest  = regexp.MustCompile(`\.Run\("([^"]+)"`)
)

// docs/original.md names tests, commands and flags: all of them exist.
func TestOriginal(t *testing.T) {
	tests, subtests := repoTests(t)
	text, err := os.ReadFile("../../docs/original.md")
	if err != nil {
		t.Fatal(err)
	}
	root := new(app).root()
	module := nixosText(t)
	rows, inModule := 0, false
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "## ") {
			inModule = strings.Contains(line, "NixOS")
		}
		cells := strings.Split(strings.Trim(line, "|\n"), "|")
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| original") {
			continue
		}
		rows++
		if len(cells) != 3 {
			t.Errorf("a row of %d cells: %s", len(cells), line)
			continue
		}
		proofs := code.FindAllStringSubmatch(cells[2], -1)
		if len(proofs) == 0 {
			t.Errorf("nothing proves: %s", line)
		}
		for _, m := range proofs {
			name, sub, _ := strings.Cut(m[1], "/")
			if !tests[name] || sub != "" && !subtests[name+"/"+sub] {
				t.Errorf("there is no test %s: %s", m[1], line)
			}
		}
		ours := code.FindAllStringSubmatch(cells[1], -1)
		if inModule {
			for _, m := range ours {
				name := m[1][strings.LastIndexByte(m[1], '.')+1:]
				if !regexp.MustCompile(`\b` + name + ` =|\b` + name + `\b.*\bmk`).MatchString(module) {
					t.Errorf("the module has no option %s: %s", m[1], line)
				}
			}
			continue
		}
		command := root
		for _, m := range ours {
			words := strings.Fields(m[1])
			if words[0] == "drv-thru" {
				command = usage.Find(root, words[1:])
				if command == root {
					t.Errorf("there is no command %s: %s", m[1], line)
				}
			}
			for _, w := range words {
				if strings.HasPrefix(w, "-") && w != "-" && command.FlagSet.Lookup(strings.TrimLeft(w, "-")) == nil {
					t.Errorf("%s has no flag %s: %s", command.FlagSet.Name(), w, line)
				}
			}
		}
	}
	if rows < 90 {
		t.Errorf("only %d rows were found", rows)
	}
}

// repoTests finds the tests of the repository and their subtests, scripts among
// these.
func repoTests(t *testing.T) (tests, subtests map[string]bool) {
	tests, subtests = make(map[string]bool), make(map[string]bool)
	err := filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && e.Name() != ".." && strings.HasPrefix(e.Name(), ".") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := testFunc.FindAllStringSubmatchIndex(string(text), -1)
		for i, m := range at {
			name, end := string(text[m[2]:m[3]]), len(text)
			if i+1 < len(at) {
				end = at[i+1][0]
			}
			tests[name] = true
			for _, s := range subtest.FindAllStringSubmatch(string(text[m[0]:end]), -1) {
				subtests[name+"/"+strings.ReplaceAll(s[1], " ", "_")] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scripts {
		subtests["TestScripts/"+strings.TrimSuffix(filepath.Base(s), ".txtar")] = true
	}
	return tests, subtests
}

// nixosText is the source of the NixOS module.
func nixosText(t *testing.T) string {
	files, err := filepath.Glob("../../nixos/*.nix")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
