//go:build !js && !wasip1

package eval

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

const (
	// maxOutput bounds what Nix may print on its standard output.
	maxOutput = 64 << 20
	// stopDelay is how long Nix may take to end after an interrupt.
	stopDelay = 5 * time.Second
)

// run runs nix and returns its standard output.
func (cfg *Config) run(ctx context.Context, args []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, cmp.Or(cfg.Program, "nix"), args...) //nolint:gosec // the arguments are checked
	cmd.Env = slices.DeleteFunc(slices.Clone(cfg.Env), func(v string) bool { return strings.HasPrefix(v, "DRV_THRU_") })
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would be the process's own
	}
	cmd.Stdin = cfg.Stdin
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopDelay
	log := &logFilter{to: cfg.Stderr, color: cfg.Color, progress: cfg.Progress}
	out := &limited{}
	cmd.Stdout, cmd.Stderr = out, log
	err := cmd.Run()
	log.flush()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err == nil {
		return out.Bytes(), nil
	}
	name := "nix"
	for _, a := range args {
		if a == "build" || a == "show-config" || a == "config" {
			name += " " + a
			break
		}
	}
	var exit *exec.ExitError
	// A Nix that was killed, as where memory is short, has not said why.
	if errors.As(err, &exit) && exit.Exited() {
		return nil, &ExitError{Command: name, Code: exit.ExitCode(), Message: log.last}
	}
	return nil, fmt.Errorf("%s: %w", name, err)
}

// limited is a buffer with a bound.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxOutput {
		return 0, fmt.Errorf("nix printed more than %d bytes", maxOutput)
	}
	return l.Buffer.Write(p)
}

// ReadFrom hides that of the buffer, which has no bound.
func (l *limited) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{l}, r)
}
