package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/nix/eval"
)

// signalTime is how much later than Nix this program may hear of Ctrl-C.
const signalTime = 2 * time.Second

// evaluate finds out what the installables are. The evaluator gets the whole
// environment: impure expressions may ask for any variable.
func (r *buildRun) evaluate(ctx context.Context, installables []string) error {
	messages := &lineWriter{p: r.printer}
	defer messages.Flush()
	found, err := eval.Evaluate(ctx, eval.Config{
		Env: r.app.environ, Stdin: r.app.stdin, Stderr: messages, Color: r.printer.Colour,
		Progress: r.view.Doing,
	}, eval.Request{
		Installables: installables, File: r.flags.file, Expr: r.flags.expr,
		Args: r.flags.args.list, ArgStrs: r.flags.argstrs.list, OverrideInputs: r.flags.overrides.list,
		Impure: r.flags.impure, Refresh: r.flags.refresh, System: r.flags.system, NoSubstitute: r.flags.noSubstitute,
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *eval.ExitError
	if errors.As(err, &exit) {
		if strings.Contains(exit.Message, "interrupted") {
			// Ctrl-C goes to Nix too, which may have ended before it was heard of here.
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(signalTime):
			}
		}
		return fmt.Errorf("%s failed with exit code %d; it says why above", exit.Command, exit.Code)
	}
	if errors.Is(err, exec.ErrNotFound) {
		return &hintError{err, needsNix}
	}
	if err != nil {
		return err
	}
	for _, f := range found {
		t := target{installable: f.Installable, drv: f.Drv, nth: len(r.targets)}
		for _, name := range f.Outputs {
			t.outputs = append(t.outputs, output{name, f.OutPaths[name]})
		}
		if f.Drv == "" {
			t.outputs = []output{{"", f.Path}}
		}
		if t.installable == "" {
			t.installable = r.flags.expression()
		}
		r.targets = append(r.targets, t)
	}
	return nil
}

// expression names what installables are attribute paths in.
func (f *buildFlags) expression() string {
	switch {
	case f.file != "":
		return "-f " + f.file
	case f.expr != "":
		return "--expr"
	}
	return "."
}

// lineWriter prints what is written to it, line by line.
type lineWriter struct {
	p    *term.Printer
	mu   sync.Mutex
	rest []byte
}

// maxMessage bounds a line that is still open.
const maxMessage = 1 << 20

func (w *lineWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, b...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 {
			break
		}
		w.p.Line(string(w.rest[:i]))
		w.rest = w.rest[i+1:]
	}
	if len(w.rest) > maxMessage {
		w.flush()
	}
	return len(b), nil
}

// Flush prints a last line that has no end.
func (w *lineWriter) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
}

func (w *lineWriter) flush() {
	if len(w.rest) > 0 {
		w.p.Line(string(w.rest))
		w.rest = nil
	}
}
