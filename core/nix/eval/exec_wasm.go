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
