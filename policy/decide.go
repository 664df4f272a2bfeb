package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/sys"
	"github.com/zeebo/blake3"

	"github.com/drv-thru/drv-thru/core/ticket"
)

// unknownCost is what a module's first decision is expected to take.
const unknownCost = 25 * time.Millisecond

// Cost is what a decision used, to be shown beside the constants of this package.
type Cost struct {
	Wall   time.Duration
	Memory uint64 // bytes of linear memory at its largest
	Stdin  int    // bytes of the request
	Stdout int    // bytes written
	Stderr int    // bytes written
}

// Result is what came of a decision, as far as it came.
type Result struct {
	Decision Decision
	Limits   ticket.Limits // current, or narrower
	Cost     Cost
	Stderr   string // for the owner
}

// Decide asks the policy about r under the limits that hold now, which replace
// r.Ticket.Limits. There is permission only if the error is nil; otherwise it is
// an [*Error], with [CodeDenied] where the policy itself said no. Result.Limits
// is the zero value then, and must not be used.
func (m *Module) Decide(ctx context.Context, r Request, current ticket.Limits) (Result, error) {
	r.Ticket.Limits = LimitsOf(current)
	stdin, err := r.Encode()
	if err != nil {
		return Result{}, err
	}
	if err := m.host.gate.enter(ctx, time.Duration(m.cost.Load())); err != nil {
		return Result{}, err
	}
	defer m.host.gate.leave()
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return Result{}, &Error{Code: CodeMissing, Detail: errClosed.Error(), Err: errClosed}
	}
	run := m.run(ctx, stdin, r.Time())
	m.cost.Store((3*m.cost.Load() + int64(run.cost.Wall)) / 4)
	res := Result{Cost: run.cost, Stderr: run.stderr.String()}
	if err = run.err; err == nil {
		res.Decision, err = DecodeDecision(run.stdout.data)
	}
	if err == nil {
		res.Limits, err = res.Decision.settle(current)
	}
	if failed := (*Error)(nil); errors.As(err, &failed) {
		failed.Stderr = res.Stderr
	}
	return res, err
}

// settle returns the limits that a decision leaves.
func (d Decision) settle(current ticket.Limits) (ticket.Limits, error) {
	switch d.Decision {
	case Allow:
		return current, nil
	case Narrow:
		return d.Limits.Apply(current)
	}
	return ticket.Limits{}, &Error{Code: CodeDenied, Reason: d.Reason}
}

// run is one instance from start to end.
type run struct {
	stdout, stderr output
	memory         memory
	clock          clock
	random         io.Reader
	cost           Cost
	err            error
}

// run runs a fresh instance.
func (m *Module) run(ctx context.Context, stdin []byte, now time.Time) *run {
	r := &run{random: rand.NewChaCha8(blake3.Sum256(stdin))}
	wall, stop := context.WithTimeout(ctx, m.host.cfg.Wall)
	defer stop()
	wall, kill := context.WithCancelCause(wall)
	defer kill(nil)
	r.stdout = output{name: "standard output", limit: MaxStdout, kill: kill}
	r.stderr = output{name: "standard error", limit: MaxStderr, kill: kill}
	r.memory = memory{kill: kill, spare: &m.host.spare}

	began := m.host.cfg.Clock()
	err := m.start(wall, r, stdin, now)
	r.cost = Cost{
		Wall: m.host.cfg.Clock().Sub(began), Memory: r.memory.largest,
		Stdin: len(stdin), Stdout: r.stdout.written, Stderr: r.stderr.written,
	}
	r.err = m.judge(ctx, wall, err)
	return r
}

func (m *Module) start(ctx context.Context, r *run, stdin []byte, now time.Time) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the runtime panicked: %v", p)
		}
	}()
	cfg := wazero.NewModuleConfig().WithName("").
		WithStdin(bytes.NewReader(stdin)).WithStdout(&r.stdout).WithStderr(&r.stderr).
		WithWalltime(func() (int64, int32) { return now.Unix(), int32(now.Nanosecond()) }, sys.ClockResolution(time.Millisecond)).
		WithNanotime(r.clock.read, sys.ClockResolution(time.Microsecond)).
		WithNanosleep(r.clock.sleep).WithOsyield(func() {})
	ctx = context.WithValue(experimental.WithMemoryAllocator(ctx, &r.memory), runKey{}, r)
	instance, err := m.runtime.InstantiateModule(ctx, m.compiled, cfg)
	if instance != nil {
		_ = instance.Close(context.WithoutCancel(ctx))
	}
	return err
}

// judge names the failure of an instance that ended with err. What killed it
// comes first: a module that ignores that it was refused memory or output is
// stopped by it all the same, however it ends.
func (m *Module) judge(ctx, wall context.Context, err error) error {
	var killed *Error
	var exit *sys.ExitError
	switch {
	case errors.As(context.Cause(wall), &killed):
		return killed
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return &Error{Code: CodeCanceled, Detail: ctx.Err().Error(), Err: ctx.Err()}
	case wall.Err() != nil:
		return &Error{Code: CodeTimeout, Detail: fmt.Sprintf("stopped after %s", m.host.cfg.Wall), Err: wall.Err()}
	case errors.As(err, &exit) && exit.ExitCode() == 0: // in the start function
		return nil
	case exit != nil:
		return errorf(CodeExit, "exit code %d", exit.ExitCode())
	}
	return &Error{Code: CodeTrap, Detail: err.Error(), Err: err}
}
