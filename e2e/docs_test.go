//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// docsElsewhere are the pages whose commands TestDocs does not run, and why.
var docsElsewhere = map[string]string{
	"docs/policies.md": "TestPolicyTemplates and TestPolicyExamples run its commands, in every language",
	"docs/relay.md":    "its relays have names and certificates of their own; TestRelayBehindProxies and the tests of cmd/drv-thru-relay have them",
	"docs/install.md":  "it is about packages on machines with systemd, which a host of the lab is not",
	"docs/original.md": "it sets commands of two programs beside each other",
}

// pages are README.md and what is in docs, in the order in which a reader comes to
// them.
func pages(t *testing.T) []string {
	t.Helper()
	docs, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	all := []string{"README.md", "docs/quickstart.md"}
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

// A docBlock is a fenced block of a page, and the comment in the line above it.
type docBlock struct {
	page     string
	line     int // of the fence
	language string
	comment  string
	text     string
}

// runs reports whether it is commands, and nothing above says why they cannot be run.
func (b docBlock) runs() bool {
	return (b.language == "sh" || b.language == "console") && !notRun.MatchString(b.comment)
}

func (b docBlock) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

// notRun is a comment that says why not.
var notRun = regexp.MustCompile(`(^|, )not run: .{10}`)

var comment = regexp.MustCompile(`^<!-- (.*) -->$`)

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
				open.comment = m[1]
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

// A reader follows the pages: on a builder and a client that have nothing but Nix
// and the programs, with a relay for both.
type reader struct {
	relay           *lab.Relay
	builder, client *lab.Host
	exports         map[*lab.Host]string
	serving         map[string]*lab.Process // by user
	ticket          string                  // made last
	id, key         string                  // of the builder that was started last
	keys            []string                // of all of them
	mine            string                  // the client's ID
}

var (
	placeTicket  = regexp.MustCompile(`drvthru[a-z2-7]*…`)
	placeKey     = regexp.MustCompile(`drv-thru-…-1:…`)
	placeRelay   = regexp.MustCompile(`https://relay\.example\.org|http://127\.0\.0\.1:[0-9]+`)
	madeTicket   = regexp.MustCompile(`(?m)^drvthru[a-z2-7]+$`)
	servedID     = regexp.MustCompile(`endpoint ID +(\S+)`)
	servedKey    = regexp.MustCompile(`signing key +(\S+)`)
	startsServer = regexp.MustCompile(`^(sudo (-u \S+ )?)?drv-thru serve `)
	promptLine   = regexp.MustCompile(`^(builder|client)\$ (.*)$`)
	onHost       = regexp.MustCompile(`^on (builder|client)( as root)?$`)
)

// sudo is what the lab's hosts have for it.
const sudo = `#!/bin/sh
[ "$1" = -u ] || exec "$@"
user=$2
shift 2
cd "$(getent passwd "$user" | cut -d: -f6)"
exec setpriv --reuid="$user" --regid="$user" --init-groups env HOME="$PWD" NIX_REMOTE=daemon "$@"
`

func newReader(t *testing.T) *reader {
	r := &reader{
		builder: lab.NewHost(t, lab.Trixie, lab.WithName("builder")),
		client:  lab.NewHost(t, lab.Trixie, lab.WithName("client")),
		exports: make(map[*lab.Host]string), serving: make(map[string]*lab.Process),
	}
	r.relay = lab.StartRelay(t, r.client)
	r.builder.StartDaemon()
	// The home of the lab's own user for services, which the README's has.
	r.builder.Run(lab.RootUser, "rm", "-r", "/var/lib/drv-thru")
	r.client.StartDaemon()
	r.builder.WriteFile(lab.RootUser, "/usr/bin/sudo", sudo)
	r.builder.Run(lab.RootUser, "chmod", "+x", "/usr/bin/sudo")
	r.client.WriteFile(lab.Alice, "/home/alice/src/flake.nix", lab.Flake(map[string]lab.Expr{
		"hello": lab.Hello("from another machine"), "again": lab.Hello("docs"),
	}))
	r.mine = r.client.Run(lab.Alice, "drv-thru", "key", "show")
	return r
}

// fill puts what there is in the place of what the pages say.
func (r *reader) fill(script string) string {
	script = placeTicket.ReplaceAllString(script, r.ticket)
	script = placeKey.ReplaceAllString(script, r.key)
	script = placeRelay.ReplaceAllString(script, r.relay.URL)
	return strings.NewReplacer("ENDPOINT_ID", r.id, "CLIENT_ID", r.mine).Replace(script)
}

// run runs commands on a host, those that serve in the background.
func (r *reader) run(t *testing.T, at docBlock, host *lab.Host, user, script string) {
	t.Helper()
	var before []string
	for _, line := range strings.Split(strings.TrimSpace(script), "\n") {
		if startsServer.MatchString(line + " ") {
			r.shell(t, at, host, user, strings.Join(before, "\n"))
			before = nil
			r.serve(t, host, user, line)
			continue
		}
		before = append(before, line)
	}
	r.shell(t, at, host, user, strings.Join(before, "\n"))
}

func (r *reader) shell(t *testing.T, at docBlock, host *lab.Host, user, script string) {
	t.Helper()
	if script == "" {
		return
	}
	c := host.Command(user, "bash", "-euo", "pipefail", "-c", r.exports[host]+r.fill(script))
	if host == r.client && user == lab.Alice {
		c = c.In("/home/alice/src")
	}
	var output bytes.Buffer
	c.Stdout, c.Stderr = &output, &output
	if err := c.Run(); err != nil {
		t.Fatalf("%v: on %s: %s\n%v\n%s", at, host.Name(), script, err, &output)
	}
	if ticket := madeTicket.FindString(output.String()); ticket != "" && host == r.builder {
		r.ticket = ticket
	}
	for _, line := range strings.Split(script, "\n") {
		if strings.HasPrefix(line, "export ") {
			r.exports[host] += r.fill(line) + "\n"
		}
	}
}

// serve starts a builder, in the place of an older one of the same user. The client's
// administrator trusts it.
func (r *reader) serve(t *testing.T, host *lab.Host, user, line string) {
	t.Helper()
	if old := r.serving[user]; old != nil {
		if err := old.Stop(longest); err != nil {
			t.Fatal(err)
		}
	}
	p := host.StartCmd(host.Command(user, "bash", "-c", "exec "+r.fill(line)))
	p.WaitFor(`ready +make a ticket`, longest)
	r.serving[user] = p
	r.id = servedID.FindStringSubmatch(p.Output())[1]
	r.key = servedKey.FindStringSubmatch(p.Output())[1]
	if r.keys = append(r.keys, r.key); slices.Index(r.keys, r.key) == len(r.keys)-1 {
		r.client.StopDaemon()
		r.client.StartDaemon("trusted-public-keys = " + strings.Join(r.keys, " "))
	}
}

// host is a host by its name, where alice follows the pages.
func (r *reader) host(name string) *lab.Host {
	if name == "client" {
		return r.client
	}
	return r.builder
}

// Every block of commands in README.md and docs does what the page says, in order;
// or says why it cannot be run here.
func TestDocs(t *testing.T) {
	r := newReader(t)
	for _, name := range pages(t) {
		if docsElsewhere[name] != "" {
			continue
		}
		for _, b := range blocks(t, name) {
			on := onHost.FindStringSubmatch(b.comment)
			switch {
			case !b.runs():
			case b.language == "console":
				for _, line := range strings.Split(b.text, "\n") {
					if m := promptLine.FindStringSubmatch(line); m != nil {
						r.run(t, b, r.host(m[1]), lab.Alice, m[2])
					}
				}
			case on == nil:
				t.Errorf("%v: a comment above has to say where it is run, or why not: <!-- on client -->, <!-- not run: why -->", b)
			default:
				user := lab.Alice
				if on[2] != "" {
					user = lab.RootUser
				}
				r.run(t, b, r.host(on[1]), user, b.text)
			}
		}
	}
}

// Most commands of the pages that a newcomer reads are run, and every block says
// what it is.
func TestDocsAreRun(t *testing.T) {
	least := map[string]int{"README.md": 5, "docs/quickstart.md": 5}
	for _, name := range pages(t) {
		ran := 0
		for _, b := range blocks(t, name) {
			if b.runs() {
				ran++
			}
			if b.language == "" && docsElsewhere[name] == "" {
				t.Errorf("%v: the block has no language: sh, console, nix or text", b)
			}
		}
		if ran < least[name] {
			t.Errorf("%s: %d blocks are run, want %d", name, ran, least[name])
		}
	}
}

// The tests that the pages name are there, and links of the pages lead somewhere.
func TestDocsHold(t *testing.T) {
	tests, err := exec.Command("grep", "-rhoE", "--include=*_test.go", `^func (Test|Benchmark)\w+`, "..").Output()
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)#]*)(#[^)]*)?\)`)
	named := regexp.MustCompile("`(Test[A-Z]\\w+)`")
	for _, name := range pages(t) {
		text := page(t, name)
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(string(tests), "func "+m[1]+"\n") {
				t.Errorf("%s names %s, and there is no such test", name, m[1])
			}
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target := m[1]
			if strings.Contains(target, "://") {
				continue
			}
			file := name
			if target != "" {
				file = filepath.Join(filepath.Dir(name), target)
			}
			if _, err := os.Stat(filepath.Join("..", file)); err != nil {
				t.Errorf("%s links to %s, which is not there", name, file)
			} else if anchor := strings.TrimPrefix(m[2], "#"); anchor != "" && strings.HasSuffix(file, ".md") && !slices.Contains(anchors(page(t, file)), anchor) {
				t.Errorf("%s links to %s#%s, which has no such heading", name, file, anchor)
			}
		}
	}
}

// anchors are what a page's headings are called in links.
func anchors(text string) (all []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		plain := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(plain, " ", "-"))
	}
	return all
}
