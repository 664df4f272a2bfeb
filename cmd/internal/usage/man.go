package usage

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/peterbourgon/ff/v3/ffcli"
)

// Section is a further part of a program's first manual page.
type Section struct {
	Title string
	Items []Item
}

// Item is one thing that a section explains.
type Item struct{ Name, Text string }

// Manual makes a program's manual pages.
type Manual struct {
	Root     *ffcli.Command
	Release  string
	Sections []Section // of the page about the program
	SeeAlso  []string  // further pages: "nix(1)"
}

// Write writes the pages into dir, which is made: NAME.1 for the program and
// NAME-COMMAND.1 for each command, with its subcommands.
func (m *Manual) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write manual pages: %w", err)
	}
	for name, text := range m.Pages() {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write manual pages: %w", err)
		}
	}
	return nil
}

// Pages returns the pages by file name, in the language of man(7).
func (m *Manual) Pages() map[string]string {
	pages := map[string]string{m.Root.Name + ".1": m.first()}
	for _, c := range subcommands(m.Root) {
		pages[pageName(c)+".1"] = m.page(c)
	}
	return pages
}

// pageName is the name of a command's page.
func pageName(c *ffcli.Command) string { return strings.ReplaceAll(path(c), " ", "-") }

// first is the page about the program itself.
func (m *Manual) first() string {
	r := m.begin(m.Root)
	r.options(m.Root)
	if len(subcommands(m.Root)) > 0 {
		r.heading("COMMANDS")
		for _, c := range subcommands(m.Root) {
			r.item(`\fB`+roffText(c.Name)+`\fR`, c.ShortHelp+"; see "+pageName(c)+"(1)")
		}
	}
	for _, s := range m.Sections {
		r.heading(s.Title)
		for _, i := range s.Items {
			r.item(`\fB`+roffText(i.Name)+`\fR`, i.Text)
		}
	}
	r.seeAlso(m.SeeAlso)
	return r.String()
}

// page is the page about a command.
func (m *Manual) page(c *ffcli.Command) string {
	r := m.begin(c)
	r.options(c)
	for _, s := range subcommands(c) {
		r.heading(strings.ToUpper(strings.TrimPrefix(path(s), m.Root.Name+" ")))
		r.paragraph(upper(s.ShortHelp) + ".")
		r.request(".P")
		r.synopsis(s)
		if s.LongHelp != "" {
			r.long(s.LongHelp)
		}
		for _, o := range options(s) {
			r.option(o)
		}
	}
	r.seeAlso([]string{m.Root.Name + "(1)"})
	return r.String()
}

func (m *Manual) begin(c *ffcli.Command) *roff {
	r := new(roff)
	r.request(`.\" Made from the definitions of the commands; do not edit.`)
	r.request(fmt.Sprintf(`.TH %s 1 "" "%s %s" ""`, strings.ToUpper(roffText(pageName(c))), roffText(m.Root.Name), roffText(m.Release)))
	r.heading("NAME")
	r.text(pageName(c))
	r.b.WriteString(" \\- ")
	r.text(c.ShortHelp)
	r.b.WriteString("\n")
	r.heading("SYNOPSIS")
	r.synopsis(c)
	if c.LongHelp != "" {
		r.heading("DESCRIPTION")
		r.long(c.LongHelp)
	}
	return r
}

// roff is a page that is being written.
type roff struct {
	b    strings.Builder
	last string // request
}

func (r *roff) String() string { return r.b.String() }

func (r *roff) request(line string) {
	r.b.WriteString(line + "\n")
	r.last = line
}

func (r *roff) heading(title string) { r.request(".SH " + roffText(title)) }

func (r *roff) text(s string) { r.b.WriteString(roffText(s)) }

// paragraph writes lines that may be filled.
func (r *roff) paragraph(s string) {
	r.text(s)
	r.b.WriteString("\n")
}

// synopsis writes a command line, its words as typed in bold.
func (r *roff) synopsis(c *ffcli.Command) {
	rest := strings.TrimPrefix(c.ShortUsage, path(c))
	r.b.WriteString(`\fB` + roffText(path(c)) + `\fR` + roffText(rest) + "\n")
}

// long writes a help text. What is indented in it stays as it is.
func (r *roff) long(text string) {
	verbatim, begun := false, strings.HasPrefix(r.last, ".SH")
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		indented := strings.HasPrefix(line, "  ")
		switch {
		case line == "":
			begun = false
			continue
		case indented && !verbatim:
			r.request(".P")
			r.request(".nf")
			verbatim, begun = true, true
		case !indented && verbatim:
			r.request(".fi")
			verbatim, begun = false, false
		}
		if !begun {
			r.request(".P")
			begun = true
		}
		r.paragraph(line)
		r.last = ""
	}
	if verbatim {
		r.request(".fi")
	}
}

func (r *roff) options(c *ffcli.Command) {
	all := options(c)
	if len(all) == 0 {
		return
	}
	r.heading("OPTIONS")
	for _, o := range all {
		r.option(o)
	}
}

func (r *roff) option(o *option) {
	var tag strings.Builder
	for i, n := range o.names {
		if i > 0 {
			tag.WriteString(", ")
		}
		tag.WriteString(`\fB` + roffText(dashed(n)) + `\fR`)
	}
	switch {
	case o.optional:
		tag.WriteString(`[=\fI` + roffText(o.value) + `\fR]`)
	case o.value != "":
		tag.WriteString(` \fI` + roffText(o.value) + `\fR`)
	}
	r.item(tag.String(), o.described())
}

// item writes a tagged paragraph; tag is in roff.
func (r *roff) item(tag, text string) {
	r.request(".TP\n" + tag)
	r.paragraph(text)
}

func (r *roff) seeAlso(pages []string) {
	if len(pages) == 0 {
		return
	}
	r.heading("SEE ALSO")
	r.paragraph(strings.Join(pages, ", "))
}

var roffEscapes = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", `\[u2026]`, "'", `\(aq`, "`", `\(ga`, "~", `\(ti`, "^", `\(ha`)

// roffText escapes what means something to roff.
func roffText(s string) string {
	s = roffEscapes.Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
