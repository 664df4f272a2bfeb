//go:build js || wasip1

package eval

import (
	"context"
	"errors"
	"fmt"
)

// run cannot run anything here.
func (cfg *Config) run(context.Context, []string) ([]byte, error) {
	return nil, fmt.Errorf("nix: %w", errors.ErrUnsupported)
}

func (cfg *Config) readFile(name string) ([]byte, error) {
	if cfg.ReadFile != nil {
		return cfg.ReadFile(name)
	}
	return nil, fmt.Errorf("%s: %w", name, errors.ErrUnsupported)
}
