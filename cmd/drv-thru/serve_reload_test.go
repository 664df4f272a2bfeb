package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/ticket"
)

func configured(t *testing.T, dir, text string) *serveConfig {
	t.Helper()
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := (&serveFlags{config: path, dataDir: dir}).configure(&app{})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestMergeConfig(t *testing.T) {
	dir := t.TempDir()
	was := configured(t, dir, `{"relays": ["https://a.example"], "trusted_clients": {"a": {"public_key": "`+someID+`", "max_build_time": "1h"}}}`)
	same := configured(t, dir, `{"trusted_clients": {"a": {"max_build_time": "1h", "public_key": "`+someID+`"}}, "relays": ["https://a.example"]}`)
	if changed, kept := was.merge(same); len(changed)+len(kept) > 0 {
		t.Errorf("the same: %q, %q", changed, kept)
	}
	next := configured(t, dir, `{"relays": ["https://b.example"], "max_concurrent_builds": 4, "systems": ["x86_64-linux"],
		"admin_socket": "/run/other.sock", "trusted_clients": {"a": {"public_key": "`+someID+`", "max_build_time": "2h"}}}`)
	changed, kept := was.merge(next)
	if want := []string{"max_concurrent_builds", "trusted_clients", "relays"}; !slices.Equal(changed, want) {
		t.Errorf("changed %q, want %q", changed, want)
	}
	if want := []string{"admin_socket", "systems"}; !slices.Equal(kept, want) {
		t.Errorf("kept %q, want %q", kept, want)
	}
	if next.AdminSocket != was.AdminSocket || next.Systems != nil || next.MaxConcurrent != 4 {
		t.Errorf("in effect: %+v", next)
	}
}

// Every reloadable key is one of the configuration.
func TestReloadableKeys(t *testing.T) {
	var keys []string
	for field := range reflect.TypeFor[serveConfig]().Fields() {
		keys = append(keys, field.Tag.Get("json"))
	}
	for _, key := range reloadable {
		if !slices.Contains(keys, key) {
			t.Errorf("%q is no key; there are %s", key, strings.Join(keys, " "))
		}
	}
}

// At the start and at a reload.
func TestRelaysThatTicketsDoNotName(t *testing.T) {
	var log strings.Builder
	r := &reloader{log: slog.New(slog.NewTextHandler(&log, nil))}
	r.setRelays(make([]string, ticket.MaxRelays))
	if log.Len() > 0 {
		t.Errorf("as many as there is room for: %s", &log)
	}
	r.setRelays(make([]string, ticket.MaxRelays+1))
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "there are 9 relays") {
		t.Errorf("one more: %q", &log)
	}
}

// A machine's addresses change while the relay inside runs, and tickets say those of today.
func TestTicketsSayAddressesOfToday(t *testing.T) {
	address := "http://192.0.2.1:7411"
	r := &reloader{log: slog.New(slog.DiscardHandler), embedded: &embeddedRelay{urls: func() []string { return []string{address} }}}
	r.setRelays([]string{"https://a.example"})
	for _, address = range []string{"http://192.0.2.1:7411", "http://192.0.2.2:7411"} {
		if got, want := r.tickets(), []string{"https://a.example", address}; !slices.Equal(got, want) {
			t.Errorf("tickets say %v, want %v", got, want)
		}
	}
}

// A ticket has room for few relays, and one that is named twice needs it once.
func TestRelaysNamedTwice(t *testing.T) {
	cfg := configured(t, t.TempDir(), `{"relays": ["https://a.example", "https://b.example/relay", "https://A.example:443/"],
		"embedded_relay": ":0", "embedded_relay_urls": ["http://c.example", "http://c.example:80"]}`)
	r := &reloader{log: slog.New(slog.DiscardHandler), embedded: &embeddedRelay{urls: func() []string { return cfg.EmbeddedRelayURLs }}}
	r.setRelays(cfg.Relays)
	if got := r.tickets(); !slices.Equal(got, []string{"https://a.example", "https://b.example/relay", "http://c.example"}) {
		t.Errorf("tickets name %q", got)
	}
}

// Taking the last relay away would leave a builder that nobody finds.
func TestReloadKeepsARelay(t *testing.T) {
	dir := t.TempDir()
	was := configured(t, dir, `{"relays": ["https://a.example"]}`)
	r := &reloader{cfg: was}
	if err := r.apply(t.Context(), configured(t, dir, `{}`)); err == nil || !strings.Contains(err.Error(), "relay") || r.cfg != was {
		t.Errorf("got %v", err)
	}
}

// What the configuration does not say is as nix.conf has it.
func TestTuningLeftToNix(t *testing.T) {
	dir := t.TempDir()
	s := &nixSettings{cores: 3, maxSilent: time.Hour}
	for text, want := range map[string]builder.Tuning{
		`{}`:                                    {Cores: 3, MaxSilentTime: time.Hour},
		`{"cores": 2, "max_silent_time": "5m"}`: {Cores: 2, MaxSilentTime: 5 * time.Minute},
	} {
		if got := configured(t, dir, text).tuning(s); got.Cores != want.Cores || got.MaxSilentTime != want.MaxSilentTime {
			t.Errorf("%s: %d cores, %v of silence", text, got.Cores, got.MaxSilentTime)
		}
	}
}
