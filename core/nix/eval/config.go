package eval

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// ShowConfig returns the settings of Nix by name, with their values as they would
// stand in nix.conf: lists with spaces between the elements, "true" and "false".
//
// They are what the nix command sees: /etc/nix/nix.conf, then the user's own
// nix.conf and NIX_CONFIG. A daemon sees the first only, as it was when the
// daemon was started, and there is no question in the protocol that would tell
// its settings: SystemEnv gives the closest view.
//
// What Nix says beside them is in its [ExitError], and nowhere if it did not fail.
func ShowConfig(ctx context.Context, cfg Config) (map[string]string, error) {
	// Nix ≥ 2.20 has the first; the second is gone or warns there.
	var said bytes.Buffer
	cfg.Stderr, cfg.Stdin = &said, nil
	out, err := cfg.run(ctx, showArgs("config", "show"))
	var exit *ExitError
	if errors.As(err, &exit) {
		said.Reset()
		out, err = cfg.run(ctx, showArgs("show-config"))
	}
	if errors.As(err, &exit) {
		exit.Message = strings.TrimSpace(said.String())
	}
	if err != nil {
		return nil, fmt.Errorf("read the configuration of Nix: %w", err)
	}
	settings, err := parseConfig(out)
	if err != nil {
		return nil, fmt.Errorf("read the configuration of Nix: %w", err)
	}
	return settings, nil
}

func showArgs(command ...string) []string {
	return slices.Concat([]string{"--extra-experimental-features", features}, command)
}

// SystemEnv is env without what makes the nix command's settings differ from
// those of a daemon on this machine: NIX_CONFIG and the user's nix.conf.
func SystemEnv(env []string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		return strings.HasPrefix(v, "NIX_CONFIG=") || strings.HasPrefix(v, "NIX_USER_CONF_FILES=")
	})
	return append(env, "NIX_USER_CONF_FILES=")
}

// setting is a line of the plain form: "name = value". Names have no spaces, and
// a value that begins with "=" still follows the first " = ".
var setting = regexp.MustCompile(`^([a-z0-9-]+) =(?: (.*))?$`)

// parseConfig reads the plain form. The JSON one differs between versions where
// this does not: experimental-features are numbers in Nix 2.8, sandbox-paths are
// objects in Nix 2.34.
func parseConfig(out []byte) (map[string]string, error) {
	settings := make(map[string]string)
	last := ""
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSuffix(line, "\n")
		if m := setting.FindStringSubmatch(line); m != nil {
			last = m[1]
			settings[last] = strings.TrimSpace(m[2])
		} else if last != "" && line != "" {
			settings[last] += "\n" + line
		}
	}
	if len(settings) == 0 {
		return nil, errors.New("no settings in what it printed")
	}
	return settings, nil
}
