package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"

	"github.com/drv-thru/drv-thru/core/nix"
)

func (a *app) evaluate(ctx context.Context, f *buildFlags, installables []string) ([]target, error) {
	args := []string{"--extra-experimental-features", "nix-command flakes", "build", "--dry-run", "--json", "--no-link"}
	if f.file != "" {
		args = append(args, "-f", f.file)
	}
	if f.expr != "" {
		args = append(args, "--expr", f.expr)
	}
	if f.impure {
		args = append(args, "--impure")
	}
	args = append(args, installables...)
	cmd := exec.CommandContext(ctx, "nix", args...)
	cmd.Env = a.nixEnv()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("evaluate: %w\n%s", err, stderr.String())
	}
	var raw []struct {
		Drv     nix.Path            `json:"drvPath"`
		Outputs map[string]nix.Path `json:"outputs"`
	}
	if err := json.Unmarshal(out, &raw); err != nil {
		return nil, err
	}
	var ts []target
	for i, r := range raw {
		t := target{installable: strings.Join(installables, " "), drv: r.Drv}
		if i < len(installables) {
			t.installable = installables[i]
		}
		for name, p := range r.Outputs {
			t.outputs = append(t.outputs, output{name, p})
		}
		ts = append(ts, t)
	}
	return ts, nil
}

func (a *app) machineConfig(ctx context.Context) (map[string]string, error) {
	for _, sub := range [][]string{{"config", "show"}, {"show-config"}} {
		cmd := exec.CommandContext(ctx, "nix", append([]string{"--extra-experimental-features", "nix-command"}, sub...)...)
		cmd.Env = append(a.nixEnv(), "NIX_USER_CONF_FILES=", "NIX_CONFIG=")
		out, err := cmd.Output()
		if err != nil {
			continue
		}
		m := make(map[string]string)
		for line := range strings.Lines(string(out)) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), " = ")
			m[k] = v
		}
		return m, nil
	}
	return nil, fmt.Errorf("nix show-config failed")
}
