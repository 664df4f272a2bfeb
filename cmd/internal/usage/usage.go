// Package usage turns the definitions of a program's commands into everything
// that tells about them: the text of --help, manual pages, and what a shell
// completes. All three walk the same tree of commands and their flag sets, so a
// flag that exists is in each of them.
//
// The usage text of a flag names its value in backquotes, as package flag has it;
// two words there ("`NAME EXPR`") mean that the flag takes two. A command without
// a ShortHelp is told of nowhere.
package usage

import (
	"errors"
	"flag"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/peterbourgon/ff/v3/ffcli"
)

// option is a flag under all its names.
type option struct {
	names []string // without dashes, short ones first
	value string   // what stands for the value; empty: takes none
	// optional values are written --name=VALUE or not at all.
	optional bool
	text     string
	def      string
}

// options returns a command's flags. Flags that set the same variable are one.
func options(c *ffcli.Command) []*option {
	if c.FlagSet == nil {
		return nil
	}
	var all []*option
	byValue := make(map[flag.Value]*option)
	c.FlagSet.VisitAll(func(f *flag.Flag) {
		name, text := flag.UnquoteUsage(f)
		text = strings.TrimPrefix(text, name+": ")
		var o *option
		same := reflect.TypeOf(f.Value).Comparable() // that of FlagSet.Func is not
		if same {
			o = byValue[f.Value]
		}
		if o == nil {
			o = &option{value: name}
			all = append(all, o)
			if same {
				byValue[f.Value] = o
			}
		}
		o.names = append(o.names, f.Name)
		// The other names say only which one they are the same as.
		if !strings.HasPrefix(text, "same as ") {
			o.text, o.def = text, defaultText(f)
		}
		if isBool(f) && strings.Contains(f.Usage, "`") {
			o.optional = true
		}
	})
	for _, o := range all {
		slices.SortFunc(o.names, func(a, b string) int { return len(a) - len(b) })
	}
	slices.SortFunc(all, func(a, b *option) int { return strings.Compare(a.long(), b.long()) })
	return all
}

func isBool(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// defaultText returns a default that the usage text does not tell itself.
func defaultText(f *flag.Flag) string {
	switch {
	case f.DefValue == "", f.DefValue == "0", f.DefValue == "false", strings.Contains(f.Usage, "default"):
		return ""
	}
	return f.DefValue
}

// long is the name that says most.
func (o *option) long() string { return o.names[len(o.names)-1] }

// words is how many words follow the flag on the command line.
func (o *option) words() int {
	if o.optional {
		return 0
	}
	return len(strings.Fields(o.value))
}

// dashed writes a flag's name as it is typed.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// spelled is all names with the value: "-f, --file FILE".
func (o *option) spelled() string {
	var b strings.Builder
	for i, n := range o.names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(dashed(n))
	}
	switch {
	case o.optional:
		b.WriteString("[=" + o.value + "]")
	case o.value != "":
		b.WriteString(" " + o.value)
	}
	return b.String()
}

// described is what the flag does, with its default.
func (o *option) described() string {
	if o.def != "" {
		return o.text + " (default " + o.def + ")"
	}
	return o.text
}

// subcommands returns those that users are told of.
func subcommands(c *ffcli.Command) []*ffcli.Command {
	return slices.DeleteFunc(slices.Clone(c.Subcommands), func(s *ffcli.Command) bool { return s.ShortHelp == "" })
}

// path is a command's name with those above it: "drv-thru ticket create". Its flag
// set has it.
func path(c *ffcli.Command) string { return c.FlagSet.Name() }

// Find returns the command that args are for.
func Find(root *ffcli.Command, args []string) *ffcli.Command {
	for len(args) > 0 {
		i := slices.IndexFunc(root.Subcommands, func(c *ffcli.Command) bool { return c.Name == args[0] })
		if i < 0 {
			break
		}
		root, args = root.Subcommands[i], args[1:]
	}
	return root
}

// ParseError says what is wrong with a command line that fs was to read. ff and
// package flag put words before it that say nothing, write every flag with one dash,
// and of values that are no number or truth they only say that they do not parse.
func ParseError(fs *flag.FlagSet, err error) error {
	text := err.Error()
	for _, prefix := range []string{"error parsing commandline arguments: ", "error parsing environment variables: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		return &UnknownFlagError{name}
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		text = dashed(name) + " needs a value"
	}
	if m := badValue.FindStringSubmatch(text); m != nil {
		text = dashed(m[2]) + "=" + m[1] + ": " + wanted(fs, m[2], m[3])
	}
	if m := badVariable.FindStringSubmatch(text); m != nil {
		// Without the value, which may be a secret.
		text = m[2] + ": " + wanted(fs, m[1], m[3])
	}
	return errors.New(text)
}

// UnknownFlagError is a flag that there is not, by its name without dashes.
type UnknownFlagError struct{ Name string }

func (e *UnknownFlagError) Error() string { return "there is no flag " + dashed(e.Name) }

// badValue is what package flag says of a value: the value, the flag and why.
var badValue = regexp.MustCompile(`^invalid (?:boolean )?value "(.*)" for (?:flag )?-(\S+): ((?s:.*))$`)

// badVariable is what ff says of a variable: the flag, the variable and why.
var badVariable = regexp.MustCompile(`^error setting flag "(\S+)" from environment variable "(\S+)": ((?s:.*))$`)

// wanted is why the flag does not take a value. Flags that do not say it themselves
// are those of package flag, for truths and numbers.
func wanted(fs *flag.FlagSet, name, why string) string {
	switch f := fs.Lookup(name); {
	case why != "parse error" && why != "value out of range" || f == nil:
		return why
	case isBool(f):
		return "want true or false"
	}
	return "want a number"
}
