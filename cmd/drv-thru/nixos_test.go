package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Keys that the NixOS module leaves alone: the socket has its place, and a
// machine that others build on gets no way around the two refusals.
var notInNixOS = []string{"admin_socket", "allow_trusted_daemon", "allow_unsandboxed"}

// nixosHost is a machine of nixos/tests/configs.json.
type nixosHost struct {
	Settings json.RawMessage
	Etc      map[string]string
	Services map[string]struct {
		RestartTriggers []string
	}
}

// nixosHosts are the machines of nixos/tests/configs.json, by their names.
func nixosHosts(t *testing.T) map[string]nixosHost {
	t.Helper()
	text, err := os.ReadFile("../../nixos/tests/configs.json")
	if err != nil {
		t.Fatal(err)
	}
	var hosts map[string]nixosHost
	if err := json.Unmarshal(text, &hosts); err != nil {
		t.Fatal(err)
	}
	return hosts
}

// nixosConfigs are the configurations that the NixOS module makes, which
// nixos/tests/configs.json has and e2e compares with the module.
func nixosConfigs(t *testing.T) map[string]*serveConfig {
	t.Helper()
	unset := make(map[string]bool)
	for field := range reflect.TypeFor[serveConfig]().Fields() {
		unset[field.Tag.Get("json")] = true
	}
	configs := make(map[string]*serveConfig)
	for name, host := range nixosHosts(t) {
		if string(host.Settings) == "null" {
			continue
		}
		path := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(path, host.Settings, 0o600); err != nil {
			t.Fatal(err)
		}
		c := defaultServeConfig()
		if err := c.readConfig(path); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := c.check(&app{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		configs[name] = &c
		var keys map[string]any
		if err := json.Unmarshal(host.Settings, &keys); err != nil {
			t.Fatal(err)
		}
		for key := range keys {
			delete(unset, key)
		}
		if name == "serverFull" {
			checkTriggers(t, host, keys)
		}
	}
	for _, key := range notInNixOS {
		if !unset[key] {
			t.Errorf("the module sets %s", key)
		}
		delete(unset, key)
	}
	for key := range unset {
		t.Errorf("no option of nixos/server.nix sets %s", key)
	}
	return configs
}

// checkTriggers wants a change of what serve reloads to reload the service, and of
// nothing else.
func checkTriggers(t *testing.T, host nixosHost, settings map[string]any) {
	t.Helper()
	var restarts map[string]any
	if err := json.Unmarshal([]byte(host.Services["drv-thru"].RestartTriggers[0]), &restarts); err != nil {
		t.Fatal(err)
	}
	for key := range settings {
		if _, restarts := restarts[key]; restarts == slices.Contains(reloadable, key) {
			t.Errorf("a change of %s restarts the service: %t", key, restarts)
		}
	}
}

// Every builders.json that the module writes can be read.
func TestNixOSBuilders(t *testing.T) {
	hosts := nixosHosts(t)
	for name, want := range map[string]string{"clientBuilders": "attic cellar", "original": "leviathan", "originalAddresses": "leviathan"} {
		path := filepath.Join(t.TempDir(), "builders.json")
		if err := os.WriteFile(path, []byte(hosts[name].Etc["drv-thru/builders.json"]), 0o600); err != nil {
			t.Fatal(err)
		}
		builders, err := readBuilders(path)
		if got := strings.Join(slices.Sorted(maps.Keys(builders)), " "); err != nil || got != want {
			t.Errorf("%s has the builders %s, want %s: %v", name, got, want, err)
		}
	}
}

// serve takes every configuration that the NixOS module makes, and the module's
// defaults are its own.
func TestNixOSConfigs(t *testing.T) {
	configs := nixosConfigs(t)
	got, want := configs["serverDefaults"], defaultServeConfig()
	if got == nil {
		t.Fatal("there is no serverDefaults")
	}
	want.DataDir = systemDataDir
	if err := want.check(&app{}); err != nil {
		t.Fatal(err)
	}
	// Those two have their defaults where they are used.
	if k, g := got.KeepOutputs.String(), got.ReattachGrace.String(); k != "1d" || g != "2m" {
		t.Errorf("keep_outputs = %s, reattach_grace = %s", k, g)
	}
	want.KeepOutputs, want.ReattachGrace = got.KeepOutputs, got.ReattachGrace
	want.TrustedClients, want.Relays, want.EmbeddedRelayURLs = got.TrustedClients, got.Relays, got.EmbeddedRelayURLs
	if len(got.TrustedClients)+len(got.Relays)+len(got.EmbeddedRelayURLs) > 0 || !reflect.DeepEqual(*got, want) {
		t.Errorf("the module's defaults are\n%+v\nserve's are\n%+v", *got, want)
	}

	clients, err := configs["serverFull"].clients()
	if err != nil || len(clients) != 2 {
		t.Fatalf("serverFull has the clients %v, %v", clients, err)
	}
	for id, client := range clients {
		if client.Name == "laptop" {
			bare := serveConfig{TrustedClients: map[string]trustedClient{"laptop": {PublicKey: id}}}
			if plain, err := bare.clients(); err != nil || !reflect.DeepEqual(plain[id], client) {
				t.Errorf("a client by default is %+v for the module, %+v for serve, %v", client, plain[id], err)
			}
		}
	}
	if got := configs["serverAtRelay"]; got.MinFree != 0 || got.EmbeddedRelay != "" || strings.Join(got.Relays, " ") != "https://relay.example.org" {
		t.Errorf("serverAtRelay is %+v", got)
	}
}
