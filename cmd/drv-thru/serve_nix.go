package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/eval"
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

// readNixSettings asks the nix command for what the daemon was configured with.
func readNixSettings(ctx context.Context, environ []string) (*nixSettings, error) {
	// The daemon does not heed what stands in this user's own nix.conf.
	config, err := eval.ShowConfig(ctx, eval.Config{Env: eval.SystemEnv(environ)})
	if err != nil {
		return nil, err
	}
	list := func(name string) []string { return strings.Fields(config[name]) }
	s := &nixSettings{
		sandbox:       config["sandbox"],
		systems:       append([]string{config["system"]}, list("extra-platforms")...),
		features:      list("system-features"),
		caDerivations: slices.Contains(list("experimental-features"), "ca-derivations"),
	}
	for _, text := range list("trusted-public-keys") {
		k, err := nix.ParsePublicKey(text)
		if err != nil {
			return nil, fmt.Errorf("read nix's trusted-public-keys: %w", err)
		}
		s.trustedKeys = append(s.trustedKeys, k)
	}
	jobs, _ := strconv.ParseUint(config["max-jobs"], 10, 16) // "auto" is printed as a number
	s.maxJobs = uint(jobs)
	s.cores, _ = strconv.Atoi(config["cores"])
	return s, nil
}
