package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/core/ticket"
)

// doctorFlags are the flags of doctor.
type doctorFlags struct {
	routeFlags
	json bool
}

func newDoctorCommand(a *app) *ffcli.Command {
	var f doctorFlags
	fs := a.flags("drv-thru doctor")
	fs.Var((*usage.Word)(&f.ticket), "ticket", "also check the way to the builder of this `TICKET`; - reads it from standard input")
	fs.Var((*usage.Word)(&f.builder), "builder", "also check the way to the builder of this `NAME` in builders.json")
	fs.Var((*usage.Word)(&f.keyFile), "key-file", "this client's secret key `FILE` for --builder (default ~/.config/drv-thru/secret.key)")
	fs.Var(&f.relays, "relay-url", "also check the relay at `URL` (repeatable, or separated by commas)")
	fs.Var(&f.stun, "stun", "`HOST:PORT` of a STUN server (repeatable, or separated by commas; default: the relays)")
	fs.BoolVar(&f.json, "json", false, "print the findings as JSON")
	return &ffcli.Command{
		Name:       "doctor",
		ShortUsage: "drv-thru doctor [--ticket TICKET | --builder NAME] [--json]",
		ShortHelp:  "find out what keeps builds from working, or from being fast",
		LongHelp: "Checks this machine's Nix, its network, and with a ticket or a name the way to that\n" +
			"builder, and says what to do about what it finds. It builds nothing and spends no use of the\n" +
			"ticket. The exit code is 1 when something is broken.",
		FlagSet: fs,
		Options: fromEnvironment,
		Exec: func(ctx context.Context, args []string) error {
			if err := noOperands(fs, args); err != nil {
				return err
			}
			return a.doctor(ctx, &f)
		},
	}
}

// verdict is how a finding is to be taken.
type verdict string

const (
	fine   verdict = "ok"
	slow   verdict = "slow"   // works, but could be better
	broken verdict = "broken" // builds fail
	known  verdict = "info"   // to know, neither good nor bad
)

// finding is one line of the doctor's.
type finding struct {
	Check   string  `json:"check"`
	Verdict verdict `json:"verdict"`
	Text    string  `json:"text"`
	Fix     string  `json:"fix,omitempty"`
}

// examination collects findings.
type examination struct {
	app      *app
	flags    *doctorFlags
	route    *route // nil without a ticket or a name
	findings []finding
	stun     []string // where relays answer STUN
}

func (e *examination) add(check string, v verdict, fix, format string, args ...any) {
	e.findings = append(e.findings, finding{check, v, fmt.Sprintf(format, args...), fix})
}

func (a *app) doctor(ctx context.Context, f *doctorFlags) error {
	e := &examination{app: a, flags: f}
	if f.ticket != "" && f.builder != "" {
		return a.twoWays("--ticket and --builder exclude each other")
	}
	for _, u := range f.relays {
		if err := ticket.CheckRelayURL(u); err != nil {
			return usagef("%v", err)
		}
	}
	if err := checkSTUN(f.stun); err != nil {
		return err
	}
	var err error
	if e.route, err = a.route(&f.routeFlags, a.note); err != nil {
		return err
	}
	e.nix(ctx)
	e.fuse()
	e.helper()
	e.proxies()
	e.relays(ctx)
	e.network(ctx)
	if e.route != nil {
		e.builder(ctx)
	}
	if err := e.print(); err != nil {
		return err
	}
	bad := 0
	for _, x := range e.findings {
		if x.Verdict == broken {
			bad++
		}
	}
	switch bad {
	case 0:
		return nil
	case 1:
		return errors.New("one thing is broken")
	}
	return fmt.Errorf("%d things are broken", bad)
}

func (e *examination) print() error {
	if e.flags.json {
		return term.WriteJSON(e.app.stdout, struct {
			OK       bool      `json:"ok"`
			Findings []finding `json:"findings"`
		}{!slices.ContainsFunc(e.findings, func(f finding) bool { return f.Verdict == broken }), e.findings})
	}
	for _, f := range e.findings {
		if _, err := fmt.Fprintf(e.app.stdout, "%-7s %-14s %s\n", f.Verdict, f.Check, term.Safe(f.Text)); err != nil {
			return err
		}
		if f.Fix != "" {
			if _, err := fmt.Fprintf(e.app.stdout, "%-7s %-14s → %s\n", "", "", term.Safe(f.Fix)); err != nil {
				return err
			}
		}
	}
	return nil
}
