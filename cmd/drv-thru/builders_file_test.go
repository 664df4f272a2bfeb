package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/drv-thru/drv-thru/core/key"
)

const someID = "nodle477gt6odhllqbhp6wr7k5d23jhkuixr2soadzjn3n4hlnfq"

func writeBuilders(t *testing.T, text string) *app {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "builders.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return &app{stderr: new(bytes.Buffer), environ: []string{"HOME=" + dir, buildersEnv + "=" + path}}
}

func TestResolveBuilder(t *testing.T) {
	a := writeBuilders(t, `{"builders": {"home": {"endpoint_id": "`+someID+`", "relay_urls": ["https://a.example", "https://b.example"],
		"public_key": "home-1:arnx6499M4j0+dWG9m6Z/VQIDfLERvDlhmiwnAihbdA="}}}`)
	r, err := a.resolveBuilder("home", "")
	if err != nil {
		t.Fatal(err)
	}
	if r.builder.String() != someID || strings.Join(r.relays, " ") != "https://a.example https://b.example" || r.ticket != nil {
		t.Errorf("the route is %+v", r)
	}
	own, err := key.LoadFile(filepath.Join(a.env("HOME"), ".config", "drv-thru", "secret.key"))
	if err != nil || own.ID() != r.identity.ID() {
		t.Errorf("the identity is not the user's: %v", err)
	}
	if err := r.checkKey("home-1:arnx6499M4j0+dWG9m6Z/VQIDfLERvDlhmiwnAihbdA="); err != nil {
		t.Error(err)
	}
	if err := r.checkKey("home-2:arnx6499M4j0+dWG9m6Z/VQIDfLERvDlhmiwnAihbdA="); err == nil {
		t.Error("another key passes")
	}
	if err := (&route{}).checkKey("any"); err != nil {
		t.Error(err)
	}
}

func TestBuildersFileErrors(t *testing.T) {
	for name, tt := range map[string]struct{ entry, want string }{
		"two IDs":        {`"endpoint_id": "` + someID + `", "endpoint_id_file": "/f"`, "not both"},
		"no ID":          {`"relay_url": "https://a.example"`, "endpoint_id or endpoint_id_file"},
		"bad ID":         {`"endpoint_id": "x"`, "endpoint_id"},
		"two relay keys": {`"endpoint_id": "` + someID + `", "relay_url": "https://a.example", "relay_urls": ["https://b.example"]`, "relay_url or relay_urls"},
		"bad relay":      {`"endpoint_id": "` + someID + `", "relay_url": "a.example"`, "relay URL"},
		"many relays":    {`"endpoint_id": "` + someID + `", "relay_urls": [` + strings.Repeat(`"https://a.example",`, 8) + `"https://a.example"]`, "at most 8"},
		"relative file":  {`"endpoint_id_file": "id"`, "absolute"},
		"bad key":        {`"endpoint_id": "` + someID + `", "public_key": "x"`, "public_key"},
		"unknown key":    {`"endpoint_id": "` + someID + `",` + "\n" + `"relay": "https://a.example"`, `unknown key "relay" in "builders.x" (line 2)`},
		"other type":     {`"endpoint_id": 1`, "line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := writeBuilders(t, `{"builders": {"x": {`+tt.entry+`}}}`).builders()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	for _, text := range []string{`{"builders": {"a b": {"endpoint_id": "` + someID + `"}}}`, `{"x": 1}`, `[]`, `{} {}`, ``} {
		if _, err := writeBuilders(t, text).builders(); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}

// The user's file can be a link, which it stays.
func TestReplaceFileFollowsLink(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(link, []byte("new")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(target)
	if to, lerr := os.Readlink(link); err != nil || string(text) != "new" || lerr != nil || to != target {
		t.Errorf("target has %q, %v; the link is to %q, %v", text, err, to, lerr)
	}
}

// Two that change builders.json at the same moment lose nothing of each other.
func TestChangesAtOnce(t *testing.T) {
	const n = 40
	a := writeBuilders(t, `{"builders": {}}`)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := a.changeBuilders(func(_ string, all map[string]builderEntry) error {
				all[strconv.Itoa(i)] = builderEntry{EndpointID: someID, RelayURL: "https://a.example"}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if all, err := a.builders(); err != nil || len(all) != n {
		t.Errorf("%d of %d are there, %v", len(all), n, err)
	}
}
