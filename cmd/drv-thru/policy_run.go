package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/policy"
)

type policyRunFlags struct {
	input    string
	settings string
	event    string
	wall     time.Duration
	json     bool
}

func newPolicyRunCommand(a *app) *ffcli.Command {
	var f policyRunFlags
	fs := a.flags("drv-thru policy run")
	fs.Var((*usage.Word)(&f.input), "i", "`FILE` with the request, or the part of it that differs from an ordinary one; - is standard input")
	fs.Var((*usage.Word)(&f.settings), "settings", "`JSON` of the policy's settings, or @FILE")
	fs.Var((*usage.Word)(&f.event), "event", "`EVENT`: create, build or start")
	usage.DurationVar(fs, &f.wall, "time", policy.MaxWall, "`TIME` that it may take; a builder gives no other")
	fs.BoolVar(&f.json, "json", false, "print the decision, the limits that it leaves and the cost as JSON")
	return &ffcli.Command{
		Name:       "run",
		ShortUsage: "drv-thru policy run MODULE [-i request.json] [flags]",
		ShortHelp:  "ask a policy once",
		LongHelp: "Runs a module as a builder would and shows its decision, and what it cost of what\n" +
			"it may cost. MODULE is a FILE.wasm, or limits for the built-in policy. Without -i it\n" +
			"is asked an ordinary request. The exit code is 0 for allow and narrow, 3 for a denial.",
		FlagSet: fs,
		Exec: func(ctx context.Context, args []string) error {
			module, err := a.oneOperand(fs, args, moduleHelp)
			if err != nil {
				return err
			}
			return a.policyRun(ctx, &f, module)
		},
	}
}

func (a *app) policyRun(ctx context.Context, f *policyRunFlags, operand string) error {
	r, err := a.readRequest(f)
	if err != nil {
		return err
	}
	m, err := loadPolicy(ctx, a.policyHost(f.wall), operand)
	if err != nil {
		return err
	}
	defer m.Close()
	res, err := m.Decide(ctx, r, r.Ticket.Limits.Native())
	var failed *policy.Error
	if err != nil && !errors.As(err, &failed) {
		return err
	}
	if failed != nil && failed.Code == policy.CodeBadRequest {
		return policyError(err)
	}
	if f.json {
		if err := term.WriteJSON(a.stdout, runResultOf(res, failed)); err != nil {
			return err
		}
	} else {
		if failed == nil || failed.Code == policy.CodeDenied {
			if err := term.WriteJSON(a.stdout, res.Decision); err != nil {
				return err
			}
		}
		if res.Stderr != "" {
			fmt.Fprintf(a.stderr, "stderr: %q\n", res.Stderr)
		}
		if err := table(a.stderr, costRows(res.Cost, f.wall)...); err != nil {
			return err
		}
	}
	if failed == nil {
		return nil
	}
	failed.Stderr = "" // shown above
	return &exitError{failed.Owner(), wire.ExitDenied}
}

// runResult is what --json prints.
type runResult struct {
	Decision policy.Verdict `json:"decision"`
	Code     policy.Code    `json:"code,omitempty"` // of a denial
	Reason   string         `json:"reason,omitempty"`
	Detail   string         `json:"detail,omitempty"`
	Stderr   string         `json:"stderr,omitempty"`
	Limits   *policy.Limits `json:"limits,omitempty"` // that it leaves
	Nanos    int64          `json:"wall_nanos"`
	Memory   uint64         `json:"memory_bytes"`
}

func runResultOf(res policy.Result, failed *policy.Error) runResult {
	out := runResult{
		Decision: res.Decision.Decision, Reason: res.Decision.Reason, Stderr: res.Stderr,
		Nanos: int64(res.Cost.Wall), Memory: res.Cost.Memory,
	}
	if failed != nil {
		out.Decision, out.Code, out.Reason, out.Detail = policy.Deny, failed.Code, failed.Error(), failed.Detail
		return out
	}
	limits := policy.LimitsOf(res.Limits)
	out.Limits = &limits
	return out
}

// readRequest reads the request that -i names, on top of the sample.
func (a *app) readRequest(f *policyRunFlags) (policy.Request, error) {
	var patch []byte
	var err error
	switch f.input {
	case "":
	case "-":
		patch, err = readAtMost(a.stdin, "standard input", policy.MaxStdin)
	default:
		patch, err = readBounded(f.input, policy.MaxStdin)
	}
	if err != nil {
		return policy.Request{}, fmt.Errorf("read request: %w", err)
	}
	r, err := policy.Sample().Patch(patch)
	if err != nil {
		return r, &hintError{policyError(err), "see: drv-thru policy schema request"}
	}
	if f.settings != "" {
		if r.Settings, err = readSettings(f.settings); err != nil {
			return r, err
		}
	}
	if f.event != "" {
		switch r.Event = policy.Event(f.event); r.Event {
		case policy.EventCreate, policy.EventBuild, policy.EventStart:
		default:
			return r, usagef("--event is create, build or start, not %q", f.event)
		}
	}
	return r, nil
}

// casesFile is an author's table in the policy's folder.
const casesFile = "cases.json"

func newPolicyTestCommand(a *app) *ffcli.Command {
	fs := a.flags("drv-thru policy test")
	var module string
	fs.Var((*usage.Word)(&module), "module", "`FILE` of the module (default DIR/policy.wasm)")
	var wall time.Duration
	usage.DurationVar(fs, &wall, "time", policy.MaxWall, "`TIME` that a decision may take; a builder gives no other")
	return &ffcli.Command{
		Name:       "test",
		ShortUsage: "drv-thru policy test [flags] DIR",
		ShortHelp:  "compare a policy's decisions with a table of what they should be",
		LongHelp: "Asks DIR/policy.wasm every request of DIR/" + casesFile + ":\n\n" +
			`  {"cases": [{"name": "at night", "request": {"now": 1767657600},` + "\n" +
			`              "expect": {"decision": "deny", "reason": "night"}}]}` + "\n\n" +
			"A request is what differs from an ordinary one (see: drv-thru policy schema request).\n" +
			"What is expected may also name limits, and the code of a failure.",
		FlagSet: fs,
		Exec: func(ctx context.Context, args []string) error {
			dir, err := a.oneOperand(fs, args, "one folder")
			if err != nil {
				return err
			}
			if module == "" {
				module = filepath.Join(dir, "policy.wasm")
			}
			return a.policyTest(ctx, filepath.Join(dir, casesFile), module, wall)
		},
	}
}

func (a *app) policyTest(ctx context.Context, path, module string, wall time.Duration) error {
	data, err := readBounded(path, policy.MaxCases)
	if err != nil {
		return err
	}
	cases, err := policy.ParseCases(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(cases) == 0 {
		return fmt.Errorf("%s has no cases", path)
	}
	m, err := loadPolicy(ctx, a.policyHost(wall), module)
	if err != nil {
		return err
	}
	defer m.Close()
	var most policy.Cost
	failed := 0
	for _, c := range cases {
		res, err := m.Check(ctx, c)
		most.Wall, most.Memory = max(most.Wall, res.Cost.Wall), max(most.Memory, res.Cost.Memory)
		most.Stdin, most.Stdout, most.Stderr = max(most.Stdin, res.Cost.Stdin), max(most.Stdout, res.Cost.Stdout), max(most.Stderr, res.Cost.Stderr)
		if err == nil {
			fmt.Fprintf(a.stdout, "ok    %s\n", plain(c.Name))
			continue
		}
		failed++
		fmt.Fprintf(a.stdout, "FAIL  %s: %s\n", plain(c.Name), plain(err.Error()))
		if res.Stderr != "" {
			fmt.Fprintf(a.stdout, "      stderr: %q\n", res.Stderr)
		}
	}
	fmt.Fprintf(a.stdout, "%d passed, %d failed; the most that one took:\n", len(cases)-failed, failed)
	if err := table(a.stdout, costRows(most, wall)...); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d cases failed", failed, len(cases))
	}
	return nil
}
