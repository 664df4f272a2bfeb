// Package usagetest tests what a program tells about its commands.
package usagetest

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/internal/usage"
)

var update = flag.Bool("update", false, "write the golden texts of --help")

// dir has the texts of --help.
const dir = "testdata/help"

// Golden compares the --help of every command with the files in dir, named after
// the commands; with -update it writes them.
func Golden(t *testing.T, root *ffcli.Command) {
	want := make(map[string]bool)
	each(root, func(c *ffcli.Command) {
		name := strings.ReplaceAll(c.FlagSet.Name(), " ", "-") + ".txt"
		want[name] = true
		file, got := filepath.Join(dir, name), usage.Help(c)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		if old, err := os.ReadFile(file); err != nil || string(old) != got {
			t.Errorf("%s --help has changed (go test -update accepts that); it is now:\n%s", c.FlagSet.Name(), got)
		}
	})
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if want[f.Name()] {
			continue
		}
		if *update {
			_ = os.Remove(filepath.Join(dir, f.Name()))
			continue
		}
		t.Errorf("%s is of no command", f.Name())
	}
}

// Everywhere makes sure that every flag of every command says what it does, and
// is in the command's help, its manual page and what shells complete.
func Everywhere(t *testing.T, m *usage.Manual) {
	pages := m.Pages()
	completion := &usage.Completion{Root: m.Root, Values: func(context.Context, *usage.Line) (usage.Candidates, bool) { return usage.Candidates{}, false }}
	each(m.Root, func(c *ffcli.Command) {
		path := strings.Fields(c.FlagSet.Name())
		help := usage.Help(c)
		name := path[0] + ".1"
		if len(path) > 1 {
			name = path[0] + "-" + path[1] + ".1"
		}
		page := pages[name]
		if page == "" {
			t.Fatalf("%s: there is no page %s", c.FlagSet.Name(), name)
		}
		completed := completion.Complete(t.Context(), path[1:], "-").Words
		c.FlagSet.VisitAll(func(f *flag.Flag) {
			dashed := "--" + f.Name
			if len(f.Name) == 1 {
				dashed = "-" + f.Name
			}
			value, _ := flag.UnquoteUsage(f)
			switch {
			case f.Usage == "":
				t.Errorf("%s %s does not say what it does", c.FlagSet.Name(), dashed)
			case value != strings.ToUpper(value):
				t.Errorf("%s %s does not name its value: `VALUE` in its usage does", c.FlagSet.Name(), dashed)
			}
			if !strings.Contains(help, dashed) {
				t.Errorf("%s --help does not tell of %s", c.FlagSet.Name(), dashed)
			}
			if !strings.Contains(page, `\fB`+strings.ReplaceAll(dashed, "-", `\-`)+`\fR`) {
				t.Errorf("%s does not tell of %s", name, dashed)
			}
			if !slices.ContainsFunc(completed, func(i usage.Item) bool { return i.Name == dashed }) {
				t.Errorf("%s: %s is not completed", c.FlagSet.Name(), dashed)
			}
		})
	})
}

// each calls do for the commands that users are told of.
func each(c *ffcli.Command, do func(*ffcli.Command)) {
	if c.ShortHelp == "" {
		return
	}
	do(c)
	for _, s := range c.Subcommands {
		each(s, do)
	}
}
