package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

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
	// machines are those that the daemon sends builds to, as far as that could
	// be read.
	machines    []nixMachine
	machinesErr error
	cores       int
	maxSilent   time.Duration // 0: no limit
	substitute  bool
	netrc       string // the file with logins that Nix's own downloads have
	// only are the systems that are offered whatever Nix says, if there are any.
	only []string
	// caDerivations says that the experimental feature is on.
	caDerivations bool
}

// readNixSettings asks the nix command for what the daemon was configured with.
func readNixSettings(ctx context.Context, environ []string) (*nixSettings, error) {
	// The daemon does not heed what stands in this user's own nix.conf.
	config, err := eval.ShowConfig(ctx, eval.Config{Env: eval.SystemEnv(environ)})
	if errors.Is(err, exec.ErrNotFound) {
		return nil, &hintError{err, needsNix}
	}
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
	jobs, err := strconv.ParseUint(config["max-jobs"], 10, 32) // "auto" is printed as a number
	if err != nil {
		jobs = 1 // 0 says something
	}
	s.maxJobs = uint(jobs)
	s.cores, _ = strconv.Atoi(config["cores"])
	silent, _ := strconv.ParseUint(config["max-silent-time"], 10, 32)
	s.maxSilent = time.Duration(silent) * time.Second
	s.substitute = config["substitute"] != "false"
	s.netrc = config["netrc-file"]
	s.machines, s.machinesErr = readMachines(config["builders"], s.systems[0])
	return s, nil
}

// delegates tells that the daemon builds nothing on this machine.
func (s *nixSettings) delegates() bool { return s.maxJobs == 0 }

// offered are the systems and features that this machine or one of the daemon's
// others can build, or only those systems that the configuration names. Machines of
// which nothing could be read are taken to be like this one.
func (s *nixSettings) offered() (systems, features []string) {
	if !s.delegates() || len(s.machines) == 0 {
		systems, features = slices.Clone(s.systems), slices.Clone(s.features)
	}
	for _, m := range s.machines {
		systems, features = append(systems, m.systems...), append(features, m.features...)
	}
	if len(s.only) > 0 {
		systems = slices.Clone(s.only)
	}
	return distinct(systems), distinct(features)
}

// distinct drops what was there before.
func distinct(all []string) []string {
	seen := make(map[string]bool, len(all))
	return slices.DeleteFunc(all, func(s string) bool {
		was := seen[s]
		seen[s] = true
		return was
	})
}
