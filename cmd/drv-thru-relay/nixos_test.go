package main

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"strconv"
	"strings"
	"testing"
)

// The relay takes every command line that the NixOS module makes, as
// nixos/tests/configs.json has them and e2e compares them with the module. Every
// flag has an option, and the defaults are the same.
func TestNixOSFlags(t *testing.T) {
	text, err := os.ReadFile("../../nixos/tests/configs.json")
	if err != nil {
		t.Fatal(err)
	}
	var hosts map[string]struct {
		Services map[string]struct {
			ServiceConfig struct{ ExecStart string }
		}
	}
	if err := json.Unmarshal(text, &hosts); err != nil {
		t.Fatal(err)
	}
	var defaults flags
	defaults.set()
	unset := map[string]bool{}
	defaults.set().VisitAll(func(f *flag.Flag) { unset[f.Name] = f.Name != "version" })
	for name, host := range hosts {
		line, ok := strings.CutPrefix(host.Services["drv-thru-relay"].ServiceConfig.ExecStart, "/drv-thru/bin/drv-thru-relay ")
		if !ok {
			continue
		}
		var f flags
		set := f.set()
		if err := set.Parse(systemdWords(t, line)); err != nil || set.NArg() > 0 {
			t.Errorf("%s: %v, %q", name, err, set.Args())
		}
		set.Visit(func(f *flag.Flag) { unset[f.Name] = false })
		switch name {
		case "relayDefaults":
			if f.limits != defaults.limits || f.listen != defaults.listen || f.drain != defaults.drain || f.access != defaults.access || f.logLevel != defaults.logLevel {
				t.Errorf("the module's defaults are\n%+v\nthe relay's are\n%+v", f, defaults)
			}
		case "relayQuoted":
			if got, want := f.hosts.String(), `%n $HOME "q" \`; got != want {
				t.Errorf("a flag in quotes arrives as %s, want %s", got, want)
			}
		}
	}
	for name := range maps.Keys(unset) {
		if unset[name] {
			t.Errorf("no option of nixos/relay.nix sets --%s", name)
		}
	}
}

// systemdWords splits a line of ExecStart= as systemd.service(5) says, as far as
// the module quotes.
func systemdWords(t *testing.T, line string) (words []string) {
	t.Helper()
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		word, _, _ := strings.Cut(line, " ")
		rest := strings.TrimPrefix(line, word)
		if quoted, err := strconv.QuotedPrefix(line); err == nil {
			rest = strings.TrimPrefix(line, quoted)
			if word, err = strconv.Unquote(quoted); err != nil {
				t.Fatal(err)
			}
		}
		words = append(words, strings.NewReplacer("%%", "%", "$$", "$").Replace(word))
		line = rest
	}
	return words
}
