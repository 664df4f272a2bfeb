package usage

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/peterbourgon/ff/v3/ffcli"
)

const (
	// helpWidth is what fits into every terminal.
	helpWidth = 80
	// helpColumn is where the texts of flags and commands begin.
	helpColumn = 26
)

// Help is the text of --help.
func Help(c *ffcli.Command) string {
	var b strings.Builder
	if c.ShortHelp != "" {
		fmt.Fprintf(&b, "%s: %s\n\n", path(c), c.ShortHelp)
	}
	fmt.Fprintf(&b, "USAGE\n  %s\n", c.ShortUsage)
	if c.LongHelp != "" {
		fmt.Fprintf(&b, "\n%s\n", c.LongHelp)
	}
	if len(subcommands(c)) > 0 {
		b.WriteString("\nCOMMANDS\n")
		for _, s := range subcommands(c) {
			item(&b, s.Name, s.ShortHelp)
		}
	}
	if all := options(c); len(all) > 0 {
		b.WriteString("\nFLAGS\n")
		for _, o := range all {
			item(&b, o.spelled(), o.described())
		}
	}
	return b.String()
}

// item writes a name, and beside or below it what it is.
func item(b *strings.Builder, name, text string) {
	line := "  " + name
	if utf8.RuneCountInString(line)+2 > helpColumn {
		b.WriteString(line + "\n")
		line = ""
	}
	for _, t := range wrap(text, helpWidth-helpColumn) {
		fmt.Fprintf(b, "%-*s%s\n", helpColumn, line, t)
		line = ""
	}
}

// wrap breaks a text into lines of at most width characters, unless a word is
// longer.
func wrap(text string, width int) []string {
	var lines []string
	var line string
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}
