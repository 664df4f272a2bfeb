//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pages are README.md and what is in docs, in the order in which they are
// followed: a newcomer's first, then that of the relay, which leaves one running.
func pages(t *testing.T) []string {
	t.Helper()
	docs, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	all := []string{"README.md", "docs/quickstart.md", "docs/relay.md"}
	for _, path := range docs {
		if name := strings.TrimPrefix(path, "../"); !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A docBlock is a fenced block of a page, and what the comment in the line above
// says of it.
type docBlock struct {
	page     string
	line     int // of the fence
	language string
	text     string

	where // as the comment says
}

// where is what a comment says of the block below it.
//
//	<!-- on client -->                     commands, run by TestDocs on that host as alice
//	<!-- on builder as root -->
//	<!-- on relay, file /etc/relay.conf --> the block is that file
//	<!-- packages: install -->             commands, run by TestPackages as root, where it comes to that
//	<!-- TestDemo runs it -->
//	<!-- not run: there is no macOS here -->
type where struct {
	host, user, file string // of TestDocs; user is "root" or ""
	purpose          string // of TestPackages
	test             string // which runs it otherwise
	not              string // why it is not run
	wrong            string // the comment, if it is none of these
}

var (
	comment    = regexp.MustCompile(`^<!-- (.*) -->$`)
	onHost     = regexp.MustCompile(`^on (builder|client|relay|author|source)(?: as (root))?(?:, file (\S+))?$`)
	onMachine  = regexp.MustCompile(`^packages: (.+)$`)
	byTest     = regexp.MustCompile(`^(Test\w+) runs it$`)
	notRun     = regexp.MustCompile(`^not run: (.{10}.*)$`)
	ownComment = "say where it is run, or why not: <!-- on client -->, <!-- packages: install -->, <!-- TestX runs it -->, <!-- not run: why -->"
)

func parseWhere(text string) (w where) {
	switch {
	case onHost.MatchString(text):
		m := onHost.FindStringSubmatch(text)
		w.host, w.user, w.file = m[1], m[2], m[3]
	case onMachine.MatchString(text):
		w.purpose = onMachine.FindStringSubmatch(text)[1]
	case byTest.MatchString(text):
		w.test = byTest.FindStringSubmatch(text)[1]
	case notRun.MatchString(text):
		w.not = notRun.FindStringSubmatch(text)[1]
	default:
		w.wrong = text
	}
	return w
}

func (b docBlock) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

// blocks are the fenced blocks of a page.
func blocks(t *testing.T, name string) (all []docBlock) {
	t.Helper()
	var open *docBlock
	above := ""
	for i, line := range strings.Split(page(t, name), "\n") {
		switch {
		case open == nil && strings.HasPrefix(line, "```"):
			open = &docBlock{page: name, line: i + 1, language: strings.TrimPrefix(line, "```")}
			if m := comment.FindStringSubmatch(above); m != nil {
				open.where = parseWhere(m[1])
			}
		case open != nil && line == "```":
			all, open = append(all, *open), nil
		case open != nil:
			open.text += line + "\n"
		}
		if strings.TrimSpace(line) != "" {
			above = line
		}
	}
	if open != nil {
		t.Errorf("%v: the block has no end", open)
	}
	return all
}

// A docStep is a command of a block, and what the page shows of its output.
type docStep struct {
	host, command string
	output        []string
}

var prompt = regexp.MustCompile(`^(?:(builder|client))?\$ (.*)$`)

// steps are the commands of a block: those behind the prompts of a console, or each
// line of a script, in which a line that ends in a backslash goes on.
func (b docBlock) steps() (all []docStep) {
	goesOn := false
	for line := range strings.Lines(b.text) {
		line = strings.TrimSuffix(line, "\n")
		m := prompt.FindStringSubmatch(line)
		switch last := len(all) - 1; {
		case goesOn:
			all[last].command += "\n" + line
		case b.language == "sh":
			all = append(all, docStep{host: b.host, command: line})
		case m != nil:
			all = append(all, docStep{host: m[1] + b.host, command: m[2]})
			line = m[2]
		case last >= 0:
			all[last].output = append(all[last].output, line)
			continue
		}
		goesOn = strings.HasSuffix(line, `\`)
	}
	return all
}
