package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

// buildFailed shows what failed and the ends of the logs, and returns the error
// to end with.
func (r *buildRun) buildFailed(id wire.BuildID, built *wire.Result) error {
	r.view.Close()
	var texts []string
	for _, d := range built.Derivations {
		texts = append(texts, d.Error)
	}
	texts = append(texts, built.Error.Detail)
	logs, messages := r.view.Failed(texts...)
	for _, m := range messages {
		// Those about a derivation whose log is shown come with it.
		if !slices.ContainsFunc(logs, func(l *client.Tail) bool { return strings.Contains(m, string(l.Drv)) }) {
			r.printer.Line(plainMessage(m))
		}
	}
	for _, l := range logs {
		r.printTail(l, append(texts, messages...))
	}
	err := *built.Error
	err.Detail = plainMessage(err.Detail)
	if err.Hint == "" && !r.flags.logs && slices.ContainsFunc(logs, func(l *client.Tail) bool { return l.Cut }) {
		// Nobody else tells the build's ID.
		err.Hint = "all of the log: drv-thru log " + string(id)
	}
	return &err
}

// printTail shows the end of a derivation's log, with Nix's word on why it failed.
func (r *buildRun) printTail(l *client.Tail, texts []string) {
	why := "failed"
	for _, t := range texts {
		// "builder for '/nix/store/….drv' failed with exit code 1"
		if _, after, ok := strings.Cut(plainMessage(t), "'"+string(l.Drv)+"' "); ok && strings.HasPrefix(after, "failed") {
			why, _, _ = strings.Cut(after, "\n")
			why = strings.TrimRight(why, ";:. ")
			break
		}
	}
	if r.flags.logs || len(l.Lines) == 0 {
		r.printer.Line(fmt.Sprintf("%s %s", l.Drv, why))
		return
	}
	r.printer.Line(fmt.Sprintf("%s %s; the last %s of its log:", l.Drv, why, term.Count(len(l.Lines), "line")))
	name := term.DrvName(l.Drv.Name())
	for _, line := range l.Lines {
		r.printer.Piece(l, r.printer.Paint("34", name+"> "), line, false)
	}
}

var (
	lastLines = regexp.MustCompile(`(?i)^\s*last \d+ log lines:$`)
	fullLogs  = regexp.MustCompile(`(?i)^\s*for full logs, run`)
	logLine   = regexp.MustCompile(`^\s*>`)
	nixLog    = regexp.MustCompile(`^\s*nix log /`)
)

// plainMessage is one of Nix's error messages without its colours, its "error:"
// and the log lines that it repeats: our own show more of them, and the nix log
// that it points to is the builder's.
func plainMessage(text string) string {
	var out []string
	for line := range strings.SplitSeq(daemon.StripANSI(text), "\n") {
		if !lastLines.MatchString(line) && !fullLogs.MatchString(line) && !logLine.MatchString(line) && !nixLog.MatchString(line) {
			out = append(out, line)
		}
	}
	text = strings.TrimPrefix(strings.TrimSpace(strings.Join(out, "\n")), "error: ")
	return strings.TrimRight(strings.ReplaceAll(text, ";\n", "\n"), "; ")
}
