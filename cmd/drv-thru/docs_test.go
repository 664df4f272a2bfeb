package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/policy"
)

// README.md has a row for every key of serve's configuration, and for none that
// there is not; where it states a default, that is the one.
func TestServeConfigKeys(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "| key | default | meaning |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var listed []string
	rows := make(map[string]string)
	for line := range strings.Lines(table) {
		for _, m := range code.FindAllStringSubmatch(strings.Split(line, "|")[1], -1) {
			name, _, _ := strings.Cut(m[1], ".")
			listed, rows[name] = append(listed, name), line
		}
	}
	keys := jsonKeys(reflect.TypeFor[serveConfig]())
	if slices.Sort(listed); !slices.Equal(listed, keys) {
		t.Errorf("README.md has the keys\n%q, and there are\n%q", listed, keys)
	}
	for _, name := range jsonKeys(reflect.TypeFor[trustedClient]()) {
		if !strings.Contains(rows["trusted_clients"], "`"+name+"`") {
			t.Errorf("README.md does not have %s of trusted_clients", name)
		}
	}
	c := defaultServeConfig()
	for name, want := range map[string]string{
		"max_concurrent_builds": fmt.Sprint(c.MaxConcurrent), "recent_builds_limit": fmt.Sprint(c.RecentBuilds), "min_free": c.MinFree.String(),
		"max_index_bytes": c.MaxIndexBytes.String(), "max_log_bytes": c.MaxLogBytes.String(), "embedded_relay": "`" + defaultEmbeddedRelay + "`",
	} {
		if cell := strings.Split(rows[name]+"||", "|")[2]; !strings.HasPrefix(cell, " "+want) {
			t.Errorf("README.md says %q of %s, and the default is %s", cell, name, want)
		}
	}
	// A default that is a value can be written down.
	path := filepath.Join(t.TempDir(), "serve.json")
	for name, row := range rows {
		value := strings.TrimSpace(strings.Split(row, "|")[2])
		if value != "unlimited" && !quantity.MatchString(value) {
			continue
		}
		if !number.MatchString(value) {
			value = strconv.Quote(value)
		}
		if err := os.WriteFile(path, fmt.Appendf(nil, "{%q: %s}", name, value), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.readConfig(path); err != nil {
			t.Errorf("README.md has a default that the configuration cannot have: %v", err)
		}
	}
}

var (
	number   = regexp.MustCompile(`^[0-9]+$`)
	quantity = regexp.MustCompile(`^[0-9]+[A-Za-z]?$`)
)

// jsonKeys are the keys that a struct has in JSON, sorted.
func jsonKeys(of reflect.Type) []string {
	return slices.Sorted(maps.Keys(fieldsOf(of)))
}

// The ordinary request in docs/policies.md is the one that is asked.
func TestPolicyRequestInDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := policy.Sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "An ordinary request")
	_, rest, _ = strings.Cut(rest, "```json\n")
	shown, _, _ := strings.Cut(rest, "```")
	var got bytes.Buffer
	if err := json.Compact(&got, []byte(shown)); err != nil || got.String() != string(want) {
		t.Errorf("docs/policies.md shows (%v)\n%s\nand it is\n%s", err, got.String(), want)
	}
}

// docs/policies.md has every code that a policy's failure may have for the owner, and
// no other.
func TestPolicyCodesInDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("../../policy/errors.go")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "## What goes wrong\n")
	var listed, codes []string
	for _, m := range regexp.MustCompile("`(policy\\.\\w+)`").FindAllStringSubmatch(table, -1) {
		listed = append(listed, m[1])
	}
	for _, m := range regexp.MustCompile(`Code = "(policy\.\w+)"`).FindAllStringSubmatch(string(source), -1) {
		if m[1] != string(policy.CodeCanceled) { // of which no record is kept
			codes = append(codes, m[1])
		}
	}
	slices.Sort(listed)
	if slices.Sort(codes); len(codes) == 0 || !slices.Equal(listed, codes) {
		t.Errorf("docs/policies.md has the codes\n%q, and there are\n%q", listed, codes)
	}
}

// The picture in docs/concepts.md is that of its source: "just picture" notes the
// source's hash in it. Pictures themselves differ by version and fonts.
func TestPicture(t *testing.T) {
	source, err := os.ReadFile("../../docs/build.dot")
	if err != nil {
		t.Fatal(err)
	}
	picture, err := os.ReadFile("../../docs/build.svg")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("<!-- docs/build.dot: sha256 %x -->\n", sha256.Sum256(source)); !strings.HasSuffix(string(picture), want) {
		t.Errorf("docs/build.svg does not end in %q: make it anew with \"just picture\"", want)
	}
}

// What the pages say in passing of commands and flags is so: each "drv-thru …" is a
// command with the flags that stand behind it, and each flag that stands alone is
// one of some command, or of the relay.
func TestPagesNameWhatThereIs(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	relay, err := os.ReadFile("../drv-thru-relay/run.go")
	if err != nil {
		t.Fatal(err)
	}
	root := new(app).root()
	known := flagsBelow(root)
	known["builders"] = true // of Nix, which docs/comparison.md speaks of
	checked := 0
	for _, name := range append(pages, "../../README.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range code.FindAllStringSubmatch(fenced.ReplaceAllString(string(text), ""), -1) {
			words := strings.Fields(m[1])
			command := root
			if i := slices.Index(words, "drv-thru"); i >= 0 {
				words = words[i:]
				if command = usage.Find(root, words[1:]); command == root && len(words) > 1 && !strings.HasPrefix(words[1], "-") && words[1] != "COMMAND" {
					t.Errorf("%s: there is no command %s", name, m[1])
				}
			}
			for _, w := range words {
				flag, _, _ := strings.Cut(strings.TrimLeft(w, "-"), "=")
				if !strings.HasPrefix(w, "--") || len(words) > 1 && command == root {
					continue // such as another program's
				}
				checked++
				switch {
				case flag == "help" || command != root && command.FlagSet.Lookup(flag) != nil:
				case command != root:
					t.Errorf("%s: %s has no flag %s: %s", name, command.FlagSet.Name(), w, m[1])
				case !known[flag] && !strings.Contains(string(relay), `"`+flag+`"`):
					t.Errorf("%s: nothing has the flag %s", name, w)
				}
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d flags were found", checked)
	}
}

// fenced are the blocks of a page, which e2e runs.
var fenced = regexp.MustCompile("(?ms)^```.*?^```$")

func flagsBelow(c *ffcli.Command) map[string]bool {
	all := make(map[string]bool)
	c.FlagSet.VisitAll(func(f *flag.Flag) { all[f.Name] = true })
	for _, sub := range c.Subcommands {
		maps.Copy(all, flagsBelow(sub))
	}
	return all
}
