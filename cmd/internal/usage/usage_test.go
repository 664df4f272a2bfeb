package usage

import (
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/peterbourgon/ff/v3"
	"github.com/peterbourgon/ff/v3/ffcli"
)

func program() *ffcli.Command {
	flags := func(name string) *flag.FlagSet { return flag.NewFlagSet(name, flag.ContinueOnError) }
	root, do, group, leaf, hidden := flags("prog"), flags("prog do"), flags("prog group"), flags("prog group leaf"), flags("prog hidden")
	var file string
	do.StringVar(&file, "f", "", "read `FILE`")
	do.StringVar(&file, "file", "", "same as -f `FILE`")
	do.Var(new(List), "pair", "`NAME VALUE`: set NAME to VALUE")
	do.String("way", "auto", "`WAY` to do it")
	do.Func("sum", "`N` to add", func(string) error { return nil })
	do.Bool("fast", false, "do it fast")
	leaf.Int("n", 3, "`NUMBER` of leaves")
	return &ffcli.Command{
		Name: "prog", ShortUsage: "prog COMMAND", ShortHelp: "a program", FlagSet: root,
		Subcommands: []*ffcli.Command{
			{Name: "do", ShortUsage: "prog do [flags] FILE", ShortHelp: "do it", FlagSet: do,
				LongHelp: "Does it - at once.\n\n  prog do 'x'\n\n.Done \\ said."},
			{Name: "group", ShortUsage: "prog group leaf", ShortHelp: "a group", FlagSet: group, Subcommands: []*ffcli.Command{
				{Name: "leaf", ShortUsage: "prog group leaf", ShortHelp: "a leaf", FlagSet: leaf},
			}},
			{Name: "hidden", ShortUsage: "prog hidden DIR", FlagSet: hidden},
		},
	}
}

func TestHelpText(t *testing.T) {
	const want = `prog do: do it

USAGE
  prog do [flags] FILE

Does it - at once.

  prog do 'x'

.Done \ said.

FLAGS
  --fast                  do it fast
  -f, --file FILE         read FILE
  --pair NAME VALUE       set NAME to VALUE
  --sum N                 N to add
  --way WAY               WAY to do it (default auto)
`
	if got := Help(program().Subcommands[0]); got != want {
		t.Errorf("got:\n%s", got)
	}
	if got := Help(program()); strings.Contains(got, "hidden") {
		t.Errorf("the hidden command is told of:\n%s", got)
	}
}

func TestManual(t *testing.T) {
	m := &Manual{Root: program(), Release: "1.2", SeeAlso: []string{"nix(1)"}, Sections: []Section{{"FILES", []Item{{"~/x", "a file"}}}}}
	dir := filepath.Join(t.TempDir(), "man1")
	if err := m.Write(dir); err != nil {
		t.Fatal(err)
	}
	pages := m.Pages()
	for name, text := range pages {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != text {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(pages) != 3 {
		t.Errorf("%d pages", len(pages))
	}
	for page, want := range map[string][]string{
		"prog.1":       {`.TH PROG 1 "" "prog 1.2" ""`, "prog \\- a program\n", "see prog\\-group(1)", ".SH FILES\n.TP\n\\fB\\(ti/x\\fR\na file\n", ".SH SEE ALSO\nnix(1)\n"},
		"prog-do.1":    {"Does it \\- at once.\n.P\n.nf\n  prog do \\(aqx\\(aq\n.fi\n.P\n\\&.Done \\e said.\n", `\fB\-f\fR, \fB\-\-file\fR \fIFILE\fR`},
		"prog-group.1": {".SH GROUP LEAF\nA leaf.\n", "NUMBER of leaves (default 3)"},
	} {
		for _, w := range want {
			if !strings.Contains(pages[page], w) {
				t.Errorf("%s lacks %q:\n%s", page, w, pages[page])
			}
		}
	}
}

func TestComplete(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"one", "other", ".hidden", "sub/x"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	for _, c := range []struct {
		line string // the word to complete is last
		want string
	}{
		{"", "normal do group"},
		{"g", "normal group"},
		{"x", "normal"},
		{"x d", "normal"},
		{"do -", "normal --fast -f --file --pair --sum --way --help"},
		{"do --f", "normal --fast --file"},
		{"do --file ", "filenames one other sub/"},
		{"do --file=o", "filenames --file=one --file=other"},
		{"do -f o", "filenames one other"},
		{"do -f=o", "filenames -f=one -f=other"},
		{"do --way ", "normal auto slow"},
		{"do --way=s", "normal --way=slow"},
		{"do --way slow --fast s", "filenames sub/"},
		{"do --unknown=s", "normal"},
		{"do --pair ", "normal"},
		{"do --pair a ", "normal"},
		{"do --pair a b o", "filenames one other"},
		{"do --pair a=b o", "filenames one other"},
		{"do .", "filenames .hidden"},
		{"do sub/", "filenames sub/x"},
		{"do ~/o", "filenames ~/one ~/other"},
		{"do " + dir + "/on", "filenames " + dir + "/one"},
		{"do -- -", "filenames"},
		{"do none/", "filenames"},
		{"group ", "normal leaf"},
		{"group leaf -", "normal -n --help"},
		{"hidden ", "filenames sub/"},
	} {
		completion := &Completion{Root: program(), Home: dir, Values: func(_ context.Context, l *Line) (Candidates, bool) {
			if l.Flag == "way" && l.Path == "prog do" {
				return Candidates{Normal, []Item{{"auto", ""}, {"slow", "not fast"}}}, true
			}
			return Candidates{}, false
		}}
		words := strings.Split(c.line, " ")
		got := completion.Complete(t.Context(), words[:len(words)-1], words[len(words)-1])
		text := []string{string(got.Kind)}
		for _, w := range got.Words {
			text = append(text, w.Name)
		}
		if got := strings.Join(text, " "); got != c.want {
			t.Errorf("%q: got %q, want %q", c.line, got, c.want)
		}
	}
}

func TestAnswer(t *testing.T) {
	completion := &Completion{Root: program(), Values: func(context.Context, *Line) (Candidates, bool) {
		return Candidates{Normal, []Item{{"a\x1b[2Jb", "more\nlines\tof\u009b2J text"}}}, true
	}}
	for _, c := range []struct {
		index string
		args  []string
		want  string
	}{
		{"1", nil, "normal\ndo\tdo it\ngroup\ta group\n"},
		{"1", []string{"d", "later"}, "normal\ndo\tdo it\n"},
		// What others have named cannot steer the shell or the terminal.
		{"2", []string{"do"}, "normal\na[2Jb\tmorelinesof2J text\n"},
	} {
		var out strings.Builder
		if err := completion.Answer(t.Context(), &out, c.index, c.args); err != nil || out.String() != c.want {
			t.Errorf("%s %q: %q, %v", c.index, c.args, out.String(), err)
		}
	}
	for _, index := range []string{"0", "-1", "3", "x", ""} {
		if err := completion.Answer(t.Context(), new(strings.Builder), index, []string{"do"}); err == nil {
			t.Errorf("index %q is answered", index)
		}
	}
}

func TestScript(t *testing.T) {
	for _, shell := range Shells {
		text, err := Script("my-prog", shell)
		if err != nil {
			t.Fatal(err)
		}
		for _, left := range []string{"PROGRAM", "FUNCTION", "VARIABLE"} {
			if strings.Contains(text, left) {
				t.Errorf("%s: %s is left", shell, left)
			}
		}
		if !strings.Contains(text, "MY_PROG_GET_COMPLETIONS=") {
			t.Errorf("%s does not ask the program", shell)
		}
	}
	if _, err := Script("my-prog", "csh"); err == nil || !strings.Contains(err.Error(), "bash, zsh, fish") {
		t.Errorf("csh: %v", err)
	}
}

func TestFind(t *testing.T) {
	root := program()
	for args, want := range map[string]string{"": "prog", "group leaf --n 4": "prog group leaf", "group other": "prog group", "--x do": "prog"} {
		if got := Find(root, strings.Fields(args)).FlagSet.Name(); got != want {
			t.Errorf("%q: %s", args, got)
		}
	}
}

func TestParseError(t *testing.T) {
	for _, c := range []struct {
		args, environ []string
		want          string
	}{
		{args: []string{"-nothing"}, want: "there is no flag --nothing"},
		{args: []string{"--name"}, want: "--name needs a value"},
		{args: []string{"--name="}, want: "--name=: it is empty"},
		{args: []string{"--fast=maybe"}, want: "--fast=maybe: want true or false"},
		{args: []string{"--rate", "much"}, want: "--rate=much: want a number"},
		{args: []string{"--rate", "1e999"}, want: "--rate=1e999: want a number"},
		{args: []string{"-n", "x"}, want: "-n=x: want a number of at least 1"},
		{environ: []string{"PROG_FAST=maybe"}, want: "PROG_FAST: want true or false"},
		{environ: []string{"PROG_NAME=,"}, want: "PROG_NAME: it is empty"},
	} {
		fs := flag.NewFlagSet("prog", flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		fs.Bool("fast", false, "")
		fs.Float64("rate", 0, "")
		fs.Var(new(Count), "n", "")
		fs.Var(new(Names), "name", "")
		for _, v := range c.environ {
			name, value, _ := strings.Cut(v, "=")
			t.Setenv(name, value)
		}
		err := ff.Parse(fs, c.args, ff.WithEnvVarPrefix("PROG"))
		if err == nil {
			t.Errorf("%q %q is understood", c.args, c.environ)
		} else if got := ParseError(fs, err).Error(); got != c.want {
			t.Errorf("%q %q: %s, want %s", c.args, c.environ, got, c.want)
		}
		for _, v := range c.environ {
			name, _, _ := strings.Cut(v, "=")
			t.Setenv(name, "")
		}
	}
}
