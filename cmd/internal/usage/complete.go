package usage

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/peterbourgon/ff/v3/ffcli"
)

// Kind says what a shell does with a completion. The names are those of Nix's
// own completion.
type Kind string

const (
	// Normal words are followed by a space.
	Normal Kind = "normal"
	// Filenames are escaped and shown as such.
	Filenames Kind = "filenames"
	// Attrs go on: no space follows.
	Attrs Kind = "attrs"
)

// Candidates are what a word may become.
type Candidates struct {
	Kind  Kind
	Words []Item // Name is the word, Text what it means
}

// Line is a command line with a word to complete.
type Line struct {
	Command *ffcli.Command
	Path    string // of the command: "drv-thru ticket create"
	// Flag is the long name of the flag whose value is wanted, with the number of
	// that value from 0 on; "" for an operand.
	Flag string
	Nth  int
	// Operands are those before the word.
	Operands []string
	// Set are the values of flags before the word, each under its long name.
	Set map[string][]string
	// Typed are all words before the word that belong to the command.
	Typed []string
	Word  string
}

// Completion answers shells.
type Completion struct {
	Root *ffcli.Command
	// Values returns what a flag's value or an operand may be; it need not heed
	// what has been typed of the word. ok is false where it knows nothing: then
	// what is called FILE, PATH or DIR is completed as such.
	Values func(context.Context, *Line) (c Candidates, ok bool)
	Home   string
}

// WordVar is the environment variable that has a program answer with completions
// instead of running, as NIX_GET_COMPLETIONS does with Nix: its value is the index
// of the word to complete among the arguments, the program's name being 0.
func WordVar(program string) string {
	return strings.ToUpper(strings.ReplaceAll(program, "-", "_")) + "_GET_COMPLETIONS"
}

// Answer writes the completions of the word that index names: a line with their
// kind, then a word a line, with a tab before what it means.
func (c *Completion) Answer(ctx context.Context, w io.Writer, index string, args []string) error {
	n, err := strconv.Atoi(index)
	if err != nil || n < 1 || n > len(args)+1 {
		return fmt.Errorf("%s: there is no word %q to complete", WordVar(c.Root.Name), index)
	}
	word := ""
	if n <= len(args) {
		word = args[n-1]
	}
	got := c.Complete(ctx, args[:n-1], word)
	b := bufio.NewWriter(w)
	fmt.Fprintln(b, got.Kind)
	for _, i := range got.Words {
		fmt.Fprintf(b, "%s\t%s\n", oneLine(i.Name), oneLine(i.Text))
	}
	return b.Flush()
}

// oneLine keeps what others have named from looking like something else.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) { // those of C1, too: zsh prints them as they are
			return -1
		}
		return r
	}, s)
}

// Complete returns what word may become after the words before it.
func (c *Completion) Complete(ctx context.Context, before []string, word string) Candidates {
	line := &Line{Command: c.Root, Set: make(map[string][]string), Word: word}
	literal := false // after --
	var waiting *option
	for _, w := range before {
		switch {
		case waiting != nil:
			first, second, both := strings.Cut(w, "=")
			if both = both && waiting.words() == 2 && line.Nth == 0; both {
				// NAME=VALUE does for the two words.
				line.Set[waiting.long()] = append(line.Set[waiting.long()], first, second)
			} else {
				line.Set[waiting.long()] = append(line.Set[waiting.long()], w)
			}
			if line.Nth++; both || line.Nth == waiting.words() {
				waiting, line.Nth = nil, 0
			}
		case literal:
			line.Operands = append(line.Operands, w)
		case w == "--":
			literal = true
		case len(w) > 1 && w[0] == '-':
			name, value, both := strings.Cut(strings.TrimLeft(w, "-"), "=")
			if o := find(line.Command, name); o != nil {
				switch {
				case both:
					line.Set[o.long()] = append(line.Set[o.long()], value)
				case o.words() > 0:
					waiting = o
				}
			}
		default:
			if next := Find(line.Command, []string{w}); next != line.Command && len(line.Operands) == 0 {
				line.Command, line.Typed = next, nil
				continue
			}
			line.Operands = append(line.Operands, w)
		}
		line.Typed = append(line.Typed, w)
	}
	line.Path = path(line.Command)
	switch {
	case waiting != nil:
		return c.value(ctx, line, waiting)
	case !literal && strings.HasPrefix(word, "-"):
		name, value, both := strings.Cut(word, "=")
		if !both {
			return matching(flagWords(line.Command), Normal, word)
		}
		o := find(line.Command, strings.TrimLeft(name, "-"))
		if o == nil {
			return Candidates{Kind: Normal}
		}
		line.Word = value
		got := c.value(ctx, line, o)
		for i := range got.Words {
			got.Words[i].Name = name + "=" + got.Words[i].Name
		}
		return got
	case len(line.Command.Subcommands) > 0:
		if len(line.Operands) > 0 {
			return Candidates{Kind: Normal}
		}
		var words []Item
		for _, s := range subcommands(line.Command) {
			words = append(words, Item{s.Name, s.ShortHelp})
		}
		return matching(words, Normal, word)
	}
	return c.operand(ctx, line)
}

func find(c *ffcli.Command, name string) *option {
	for _, o := range options(c) {
		if slices.Contains(o.names, name) {
			return o
		}
	}
	return nil
}

func flagWords(c *ffcli.Command) []Item {
	var out []Item
	for _, o := range options(c) {
		for _, n := range o.names {
			out = append(out, Item{dashed(n), o.described()})
		}
	}
	return append(out, Item{"--help", "show what the command does"})
}

func (c *Completion) value(ctx context.Context, line *Line, o *option) Candidates {
	line.Flag = o.long()
	if got, ok := c.Values(ctx, line); ok {
		return matching(got.Words, got.Kind, line.Word)
	}
	fields := strings.Fields(o.value)
	if line.Nth < len(fields) {
		return c.files(fields[line.Nth], line.Word)
	}
	return Candidates{Kind: Normal}
}

func (c *Completion) operand(ctx context.Context, line *Line) Candidates {
	if got, ok := c.Values(ctx, line); ok {
		return matching(got.Words, got.Kind, line.Word)
	}
	// The last word of the usage is the operand's.
	fields := strings.Fields(line.Command.ShortUsage)
	return c.files(fields[len(fields)-1], line.Word)
}

// matching keeps the words that begin with prefix.
func matching(words []Item, kind Kind, prefix string) Candidates {
	return Candidates{kind, slices.DeleteFunc(words, func(i Item) bool { return !strings.HasPrefix(i.Name, prefix) })}
}

// files completes what a placeholder calls a file or a directory.
func (c *Completion) files(placeholder, word string) Candidates {
	switch placeholder {
	case "FILE", "PATH", "MODULE":
		return Files(c.Home, word, false)
	case "DIR", "DIRECTORY":
		return Files(c.Home, word, true)
	}
	return Candidates{Kind: Normal}
}

// Files completes the name of a file, or of a directory alone.
func Files(home, word string, dirsOnly bool) Candidates {
	dir, base := filepath.Split(word)
	at := dir
	if rest, ok := strings.CutPrefix(dir, "~/"); ok && home != "" {
		at = filepath.Join(home, rest)
	}
	entries, err := os.ReadDir(cmp.Or(at, "."))
	got := Candidates{Kind: Filenames}
	if err != nil {
		return got
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), base) || e.Name()[0] == '.' && !strings.HasPrefix(base, ".") {
			continue
		}
		isDir := e.IsDir()
		if info, err := os.Stat(filepath.Join(at, e.Name())); err == nil {
			isDir = info.IsDir() // also behind a link
		}
		switch {
		case isDir:
			got.Words = append(got.Words, Item{dir + e.Name() + "/", ""})
		case !dirsOnly:
			got.Words = append(got.Words, Item{dir + e.Name(), ""})
		}
	}
	return got
}
