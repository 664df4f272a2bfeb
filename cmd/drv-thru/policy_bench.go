package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/policy"
)

// maxBench bounds the decisions of a benchmark, whose times are all kept.
const maxBench = 1_000_000

func newPolicyBenchCommand(a *app) *ffcli.Command {
	var f policyRunFlags
	fs := a.flags("drv-thru policy bench")
	fs.Var((*usage.Word)(&f.input), "i", "`FILE` with the request, as for policy run")
	fs.Var((*usage.Word)(&f.settings), "settings", "`JSON` of the policy's settings, or @FILE")
	count := usage.Count(200)
	fs.Var(&count, "n", "`NUMBER` of decisions")
	return &ffcli.Command{
		Name:       "bench",
		ShortUsage: "drv-thru policy bench MODULE [flags]",
		ShortHelp:  "measure how long a module takes to load and to decide",
		FlagSet:    fs,
		Exec: func(ctx context.Context, args []string) error {
			operand, err := a.oneOperand(fs, args, moduleHelp)
			if err != nil {
				return err
			}
			if count > maxBench {
				return usagef("-n=%d: want at most %d", count, maxBench)
			}
			return a.policyBench(ctx, &f, operand, int(count))
		},
	}
}

func (a *app) policyBench(ctx context.Context, f *policyRunFlags, operand string, count int) error {
	r, err := a.readRequest(f)
	if err != nil {
		return err
	}
	code, err := moduleCode(operand)
	if err != nil {
		return err
	}
	began := time.Now()
	// Without a folder for compiled code.
	m, err := policy.NewHost(policy.Config{}).Load(ctx, code)
	if err != nil {
		return policyError(err)
	}
	defer m.Close()
	compiled := time.Since(began)
	cached := a.policyHost(0)
	var loaded time.Duration
	for range 2 { // the first may have to compile
		began = time.Now()
		again, err := cached.Load(ctx, code)
		if err != nil {
			return policyError(err)
		}
		loaded = time.Since(began)
		again.Close()
	}
	walls := make([]time.Duration, count)
	var last error
	for i := range walls {
		began = time.Now()
		_, last = m.Decide(ctx, r, r.Ticket.Limits.Native())
		walls[i] = time.Since(began)
	}
	slices.Sort(walls)
	at := func(share float64) string {
		return walls[min(count-1, int(share*float64(count)))].Round(time.Microsecond).String()
	}
	if last != nil {
		fmt.Fprintf(a.stderr, "the request is denied: %s\n", plain(policyError(last).Error()))
	}
	return table(
		a.stdout,
		[]string{"compile", compiled.Round(time.Microsecond).String()},
		[]string{"load from cache", loaded.Round(time.Microsecond).String()},
		[]string{"decide, median", at(0.5)},
		[]string{"decide, 99 %", at(0.99)},
		[]string{"decide, longest", at(1)},
	)
}
