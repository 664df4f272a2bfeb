package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/policy"
	"github.com/drv-thru/drv-thru/policy/builtin"
)

func newPolicyCommand(a *app) *ffcli.Command {
	return group(&ffcli.Command{
		Name:       "policy",
		ShortUsage: "drv-thru policy new|run|test|inspect|bench|schema|list|log",
		ShortHelp:  "write and try programs that decide on tickets",
		LongHelp: "A policy is a WebAssembly program that decides what a ticket may do. Begin with:\n" +
			"drv-thru policy new --lang go DIR",
		FlagSet: a.flags("drv-thru policy"),
		Subcommands: []*ffcli.Command{
			newPolicyNewCommand(a), newPolicyRunCommand(a), newPolicyTestCommand(a), newPolicyInspectCommand(a),
			newPolicyBenchCommand(a), newPolicySchemaCommand(a), newPolicyListCommand(a), newPolicyLogCommand(a),
		},
	})
}

// moduleHelp names the operand of the commands that take a module.
const moduleHelp = "one module: a FILE.wasm, or " + builtin.Name + " for the built-in one"

// policyHost runs modules on the author's machine, with compiled code kept in
// the user's cache.
func (a *app) policyHost(wall time.Duration) *policy.Host {
	return policy.NewHost(policy.Config{CacheDir: a.policyCache(), Wall: wall})
}

// policyCache is where compiled code is kept, which is run as it is found; "" where
// there is no place for it.
func (a *app) policyCache() string {
	base, err := a.cacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(base, "policies")
}

// moduleCode reads the module that an operand names.
func moduleCode(operand string) ([]byte, error) {
	if _, err := os.Stat(operand); err != nil && operand == builtin.Name {
		return builtin.Limits, nil
	}
	return readModule(operand)
}

// loadPolicy compiles the module that an operand names.
func loadPolicy(ctx context.Context, h *policy.Host, operand string) (*policy.Module, error) {
	code, err := moduleCode(operand)
	if err != nil {
		return nil, err
	}
	m, err := h.Load(ctx, code)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operand, policyError(err))
	}
	return m, nil
}

// readSettings reads JSON, or the file after an @.
func readSettings(text string) (json.RawMessage, error) {
	data := []byte(text)
	if path, ok := strings.CutPrefix(text, "@"); ok {
		var err error
		if data, err = readBounded(path, policy.MaxSettings); err != nil {
			return nil, fmt.Errorf("read settings: %w", err)
		}
	}
	if err := policy.CheckSettings(data); err != nil {
		return nil, &usageError{text: err.Error(), hint: "settings are one JSON value, such as: '{\"ticket\":{\"builds_hour\":3}}'"}
	}
	return data, nil
}

// readModule reads a policy's module.
func readModule(path string) ([]byte, error) {
	module, err := policy.ReadModule(os.DirFS(filepath.Dir(path)), filepath.Base(path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, policyError(err))
	}
	return module, nil
}

// policyError shows everything to the owner.
func policyError(err error) error {
	var e *policy.Error
	if errors.As(err, &e) {
		return &ownersError{e}
	}
	return err
}

// ownersError is a policy's error in the words for its owner.
type ownersError struct{ err *policy.Error }

func (e *ownersError) Error() string { return e.err.Owner() }
func (e *ownersError) Unwrap() error { return e.err }

// costRows shows what a decision used of what it may use.
func costRows(c policy.Cost, wall time.Duration) [][]string {
	row := func(what, used, most string, share float64) []string {
		return []string{what, used, "of " + most, strconv.FormatFloat(100*share, 'f', 1, 64) + " %"}
	}
	bytes := func(what string, used, most uint64) []string {
		return row(what, term.Bytes(int64(used)), term.Bytes(int64(most)), float64(used)/float64(most))
	}
	return [][]string{
		row("time", c.Wall.Round(time.Microsecond).String(), wall.String(), float64(c.Wall)/float64(wall)),
		bytes("memory", c.Memory, policy.MaxMemory),
		bytes("request", uint64(c.Stdin), policy.MaxStdin),
		bytes("answer", uint64(c.Stdout), policy.MaxStdout),
		bytes("messages", uint64(c.Stderr), policy.MaxStderr),
	}
}

func newPolicyListCommand(a *app) *ffcli.Command {
	return a.asking(&ffcli.Command{
		Name:       "list",
		ShortUsage: "drv-thru policy list [flags]",
		ShortHelp:  "list the builder's policies",
	}, a.flags("drv-thru policy list"), "", func(ctx context.Context, client *admin.Client, _ string, asJSON bool) error {
		all, err := client.Policies(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			return term.WriteJSON(a.stdout, all)
		}
		rows := [][]string{{"NAME", "MODE", "HASH", "MODULE"}}
		for _, p := range all {
			rows = append(rows, []string{p.Name, string(p.Mode), cmp.Or(p.Hash[:min(8, len(p.Hash))], "-"), cmp.Or(p.Module, "built in")})
			if p.Error != "" {
				rows = append(rows, []string{"", "denies: " + p.Error})
			}
		}
		return table(a.stdout, rows...)
	})
}

func newPolicyLogCommand(a *app) *ffcli.Command {
	fs := a.flags("drv-thru policy log")
	n := usage.Count(20)
	fs.Var(&n, "n", "`NUMBER` of decisions")
	return a.asking(&ffcli.Command{
		Name:       "log",
		ShortUsage: "drv-thru policy log [flags]",
		ShortHelp:  "show what the builder's policies have decided",
		LongHelp:   "Shows the newest decisions, with all that the ticket's holder is not told.\nWhat the built-in policy allows is not recorded.",
	}, fs, "", func(ctx context.Context, client *admin.Client, _ string, asJSON bool) error {
		all, err := client.Decisions(ctx, int(n))
		if err != nil {
			return err
		}
		if asJSON {
			return term.WriteJSON(a.stdout, all)
		}
		return table(a.stdout, decisionRows(all, time.Now())...)
	})
}

// decisionRows are decisions for the builder's owner.
func decisionRows(all []state.Decision, now time.Time) [][]string {
	var rows [][]string
	for _, d := range all {
		verdict := d.Verdict
		if d.Monitor {
			verdict = "would " + verdict
		}
		text := plain(d.Reason)
		if d.Code != "" && d.Code != string(policy.CodeDenied) {
			text = d.Code + ": " + plain(d.Reason+": "+d.Detail)
		}
		if d.Stderr != "" {
			text += fmt.Sprintf(" (stderr: %q)", d.Stderr)
		}
		rows = append(rows, []string{
			"  " + cmp.Or(when(d.At.Truncate(time.Second), now), "now"), d.Policy, d.Event, verdict, cmp.Or(d.TicketName, d.Ticket, d.Client), text,
		})
	}
	return rows
}

func newPolicySchemaCommand(a *app) *ffcli.Command {
	fs := a.flags("drv-thru policy schema")
	return &ffcli.Command{
		Name:       "schema",
		ShortUsage: "drv-thru policy schema request|decision",
		ShortHelp:  "print the JSON Schema of what a policy reads or writes",
		FlagSet:    fs,
		Exec: func(_ context.Context, args []string) error {
			which, err := a.oneOperand(fs, args, "request or decision")
			if err != nil {
				return err
			}
			schemas := map[string]func() json.RawMessage{"request": policy.RequestSchema, "decision": policy.DecisionSchema}
			schema, ok := schemas[which]
			if !ok {
				return usagef("policy schema: %q is neither request nor decision", which)
			}
			_, err = a.stdout.Write(schema())
			return err
		},
	}
}
