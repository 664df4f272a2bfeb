package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// summary is what a build was, for the lines at its end.
type summary struct {
	inputs   int // paths of the closure; 0: others have sent them
	sent     int64
	result   *wire.Result // nil: nobody was asked
	path     func() string
	began    time.Time // of the import
	received uint64
	unpacked int64
	paths    int
	fromHere int // paths that the local substituters had
}

// builtPaths returns the paths of all outputs of derivations, each once.
func builtPaths(targets []target) []nix.Path {
	var out []nix.Path
	for _, t := range targets {
		if t.drv == "" {
			continue
		}
		for _, o := range t.outputs {
			out = append(out, o.path)
		}
	}
	return nix.SortedPaths(out)
}

// finish makes the links, prints what was asked for and the summary. Outputs without
// their links are in the store all the same.
func (r *buildRun) finish(ctx context.Context, targets []target, sum *summary) error {
	var unlinked error
	if !r.flags.noLink && !r.flags.dryRun {
		unlinked = r.store.links(ctx, r.flags.outLink, targets)
	}
	if err := r.tell(targets, sum); err != nil {
		return err
	}
	return unlinked
}

func (r *buildRun) tell(targets []target, sum *summary) error {
	r.view.Close()
	if sum != nil {
		r.summarise(targets, sum)
	}
	r.printer.Flush()
	switch {
	case r.flags.json && r.flags.dryRun:
		return term.WriteJSON(r.app.stdout, nothingToDo())
	case r.flags.json:
		return r.printJSON(targets)
	case r.flags.printPaths || sum == nil && r.flags.noLink:
		return r.printPathsOf(targets)
	case sum == nil:
		r.printer.Line("everything is here already; nobody was asked")
		return r.printPathsOf(targets)
	}
	return nil
}

func (r *buildRun) printPathsOf(targets []target) error {
	for _, t := range targets {
		for _, o := range t.outputs {
			if _, err := fmt.Fprintln(r.app.stdout, o.path); err != nil {
				return err
			}
		}
	}
	return nil
}

// printJSON prints what nix build --json prints.
func (r *buildRun) printJSON(targets []target) error {
	type entry struct {
		Drv     nix.Path            `json:"drvPath,omitempty"`
		Outputs map[string]nix.Path `json:"outputs,omitempty"`
		Path    nix.Path            `json:"path,omitempty"`
	}
	out := make([]entry, 0, len(targets))
	for _, t := range targets {
		if t.drv == "" {
			out = append(out, entry{Path: t.outputs[0].path})
			continue
		}
		e := entry{Drv: t.drv, Outputs: make(map[string]nix.Path)}
		for _, o := range t.outputs {
			e.Outputs[o.name] = o.path
		}
		out = append(out, e)
	}
	return term.WriteJSON(r.app.stdout, out)
}

func (r *buildRun) summarise(targets []target, sum *summary) {
	row := func(name, format string, args ...any) {
		r.printer.Line(fmt.Sprintf("%-12s ", name) + fmt.Sprintf(format, args...))
	}
	for _, t := range targets {
		row("installable", "%s", t.installable)
		if t.drv == "" {
			continue
		}
		row("derivation", "%s", t.drv)
		for _, o := range t.outputs {
			row("output", "%s  %s", o.name, o.path)
		}
	}
	if res := sum.result; res != nil {
		sent := unpacked(res.UploadBytes)
		if sum.inputs > 0 {
			sent = fmt.Sprintf("%s of %s, %s", term.Bytes(sum.sent), term.Count(sum.inputs, "path"), sent)
		}
		row("inputs sent", "%s", sent)
		row("queued", "%s", term.Span(seconds(res.QueueTime)))
		row("built in", "%s", term.Span(seconds(res.BuildTime)))
	}
	came := fmt.Sprintf("%s for %s, %s", term.Bytes(int64(sum.received)), term.Count(sum.paths, "path"), unpacked(uint64(sum.unpacked)))
	if sum.fromHere > 0 {
		came += fmt.Sprintf("; %s from this machine's own substituters", term.Count(sum.fromHere, "path"))
	}
	row("received", "%s, in %s", came, term.Span(time.Since(sum.began)))
	row("path", "%s", term.Safe(sum.path()))
}

// unpacked tells what NARs weigh that came in chunks, compressed.
func unpacked(bytes uint64) string { return term.Bytes(int64(min(bytes, math.MaxInt64))) + " unpacked" }

func seconds(s float64) time.Duration {
	// A builder may answer anything.
	const most = 100 * 365 * 24 * 3600
	return time.Duration(min(max(s, 0), most) * float64(time.Second))
}

// dryRun is what build --dry-run --json prints. What only the builder could tell
// once it has all inputs is null.
type dryRun struct {
	Send       []nix.Path `json:"send"`       // paths that the builder lacks
	SendBytes  uint64     `json:"send_bytes"` // their NARs, before chunks and compression
	InputPaths int        `json:"input_paths"`
	InputBytes uint64     `json:"input_bytes"`
	// Built tells that everything is there already, or here.
	Built bool     `json:"built"`
	Build []string `json:"build"` // derivations
	// Fetch are paths that the builder gets from its own substituters.
	Fetch       []string `json:"fetch"`
	FetchBytes  *uint64  `json:"fetch_bytes"`
	UnpackBytes *uint64  `json:"unpack_bytes"`
	// Receive is at most what comes back: less what is here.
	ReceivePaths *int    `json:"receive_paths"`
	ReceiveBytes *uint64 `json:"receive_bytes"`
}

func newDryRun(plan *wire.Plan, in *client.Inputs) *dryRun {
	d := &dryRun{Send: []nix.Path{}, SendBytes: min(plan.UploadBytes, in.Bytes), InputPaths: len(in.Paths), InputBytes: in.Bytes, Built: plan.Built}
	for _, i := range plan.Wanted {
		d.Send = append(d.Send, in.Paths[i])
	}
	if len(d.Send) == 0 {
		d.Build, d.Fetch = append([]string{}, plan.WillBuild...), append([]string{}, plan.WillSubstitute...)
		d.FetchBytes, d.UnpackBytes = &plan.DownloadBytes, &plan.UnpackBytes
	}
	if plan.Built && plan.OutputPaths > 0 {
		d.ReceivePaths, d.ReceiveBytes = &plan.OutputPaths, &plan.OutputBytes
	}
	return d
}

// nothingToDo is the plan where everything is here already and nobody is asked.
func nothingToDo() *dryRun {
	d := newDryRun(&wire.Plan{Built: true}, &client.Inputs{})
	d.ReceivePaths, d.ReceiveBytes = new(int), new(uint64)
	return d
}

// printPlan prints what a build would move.
func (r *buildRun) printPlan(plan *wire.Plan, in *client.Inputs) error {
	r.view.Close()
	r.printer.Flush()
	d := newDryRun(plan, in)
	if r.flags.json {
		return term.WriteJSON(r.app.stdout, d)
	}
	w := r.app.stdout
	size := func(n uint64) string { return term.Bytes(int64(min(n, math.MaxInt64))) }
	fmt.Fprintf(w, "would send    %s, %s of %s\n", term.Count(len(d.Send), "path"), size(d.SendBytes), size(d.InputBytes))
	switch {
	case d.Built && r.flags.rebuild:
		fmt.Fprintln(w, "would build   again what is built there already, to compare")
	case d.Built:
		fmt.Fprintln(w, "would build   nothing: it is built there already")
	case len(d.Send) > 0:
		fmt.Fprintln(w, "would build   unknown until the builder has the inputs")
	default:
		fmt.Fprintf(w, "would build   %s\n", term.Count(len(d.Build), "derivation"))
		for _, drv := range d.Build {
			fmt.Fprintln(w, "  "+plain(drv))
		}
		fmt.Fprintf(w, "would fetch   %s there, %s (%s unpacked)\n", term.Count(len(d.Fetch), "path"), size(*d.FetchBytes), size(*d.UnpackBytes))
	}
	if d.ReceiveBytes != nil {
		fmt.Fprintf(w, "would import  %s at most, %s unpacked\n", term.Count(*d.ReceivePaths, "path"), size(*d.ReceiveBytes))
	} else {
		fmt.Fprintln(w, "would import  unknown until it is built")
	}
	return nil
}
