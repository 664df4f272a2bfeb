//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// Every block of commands in README.md and docs does what the page says, in order;
// those that a newcomer reads do on Debian 12 as well.
func TestDocs(t *testing.T) {
	for _, root := range []lab.Root{lab.Bookworm, lab.Trixie} {
		names := pages(t)
		if root == lab.Bookworm {
			names = names[:2]
		}
		t.Run(string(root), func(t *testing.T) {
			r := newReader(t, root)
			for _, name := range names {
				for _, b := range blocks(t, name) {
					switch {
					case b.file != "":
						r.file(t, b)
					case b.host != "" || name == "README.md" && b.language == "console":
						r.follow(t, b)
					}
				}
			}
		})
	}
}

// Every block of the pages says what it is, and one of commands where it is run, or
// why it cannot be; that one is at least a script. A test that is said to run it is
// there, and what a newcomer reads is mostly run.
func TestDocsAreRun(t *testing.T) {
	tests := testNames(t)
	ran := make(map[string]int)
	for _, name := range pages(t) {
		for _, b := range blocks(t, name) {
			switch {
			case b.language == "":
				t.Errorf("%v: the block has no language: sh, console, nix, json or text", b)
			case b.wrong != "":
				t.Errorf("%v: %q does not %s", b, b.wrong, ownComment)
			case name == "README.md" && b.language == "console":
				ran[name]++ // its prompts name the host
			case b.language == "text" || b.language == "nix": // TestNixOSReadme evaluates this
			case b.where == where{}:
				t.Errorf("%v: the comment above has to %s", b, ownComment)
			case b.test != "" && !tests[b.test]:
				t.Errorf("%v: there is no %s", b, b.test)
			case b.not != "":
				if out, err := exec.Command("bash", "-n", "-c", b.text).CombinedOutput(); err != nil {
					t.Errorf("%v: %v\n%s", b, err, out)
				}
			default:
				ran[name]++
			}
		}
	}
	for name, least := range map[string]int{
		"README.md": 10, "docs/quickstart.md": 8, "docs/install.md": 5, "docs/relay.md": 8, "docs/policies.md": 10,
	} {
		if ran[name] < least {
			t.Errorf("%s: %d blocks are run, want %d", name, ran[name], least)
		}
	}
}

// testNames are the tests and benchmarks of the repository.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	out, err := exec.Command("grep", "-rhoE", "--include=*_test.go", `^func (Test|Benchmark)\w+`, "..").Output()
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for line := range strings.Lines(string(out)) {
		names[strings.TrimPrefix(strings.TrimSpace(line), "func ")] = true
	}
	return names
}

// The tests that the pages name are there, and links of the pages lead somewhere.
func TestDocsHold(t *testing.T) {
	tests := testNames(t)
	link := regexp.MustCompile(`\]\(([^)#]*)(#[^)]*)?\)`)
	named := regexp.MustCompile("`(Test[A-Z]\\w+)`")
	for _, name := range pages(t) {
		text := page(t, name)
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			if !tests[m[1]] {
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
