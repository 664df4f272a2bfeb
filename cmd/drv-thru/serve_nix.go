package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/drv-thru/drv-thru/core/nix"
)

// nixSettings is the part of Nix's configuration that a builder must know.
type nixSettings struct {
	sandbox     string
	systems     []string // the machine's own first
	features    []string
	trustedKeys []nix.PublicKey
	maxJobs     uint
	cores       int
	// caDerivations says that the experimental feature is on.
	caDerivations bool
}

// readNixSettings asks the nix command, which reads the same files as the daemon.
func readNixSettings(ctx context.Context) (*nixSettings, error) {
	var text []byte
	var failed error
	// The name changed with Nix 2.20; the old one still warns today.
	for _, args := range [][]string{{"config", "show"}, {"show-config"}} {
		args = append([]string{"--extra-experimental-features", "nix-command"}, append(args, "--json")...)
		out, err := exec.CommandContext(ctx, "nix", args...).Output()
		if err == nil {
			text, failed = out, nil
			break
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		failed = errors.Join(failed, err)
	}
	if failed != nil {
		return nil, fmt.Errorf("ask nix for its configuration: %w", failed)
	}
	var settings map[string]struct {
		Value json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal(text, &settings); err != nil {
		return nil, fmt.Errorf("read nix's configuration: %w", err)
	}
	get := func(name string) string { return settingText(settings[name].Value) }
	list := func(name string) []string { return settingList(settings[name].Value) }
	s := &nixSettings{sandbox: get("sandbox"), features: list("system-features")}
	s.systems = append([]string{get("system")}, list("extra-platforms")...)
	for _, text := range list("trusted-public-keys") {
		k, err := nix.ParsePublicKey(text)
		if err != nil {
			return nil, fmt.Errorf("read nix's trusted-public-keys: %w", err)
		}
		s.trustedKeys = append(s.trustedKeys, k)
	}
	jobs, _ := strconv.ParseUint(get("max-jobs"), 10, 16) // "auto" is printed as a number
	s.maxJobs = uint(jobs)
	s.cores, _ = strconv.Atoi(get("cores"))
	for _, f := range list("experimental-features") {
		s.caDerivations = s.caDerivations || f == "ca-derivations"
	}
	return s, nil
}

// settingText reads a setting's value, which is a string, number or boolean
// depending on the setting and on Nix's version.
func settingText(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}

func settingList(raw json.RawMessage) []string {
	var list []string
	if json.Unmarshal(raw, &list) == nil {
		return list
	}
	return strings.Fields(settingText(raw))
}
