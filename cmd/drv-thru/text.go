package main

import (
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/ticket"
)

// table prints rows of cells in columns.
func table(w io.Writer, rows ...[]string) error {
	// Most tables have something in them that a stranger has written.
	for _, row := range rows {
		for i, cell := range row {
			row[i] = plain(cell)
		}
	}
	_, err := io.WriteString(w, term.Columns(rows...))
	return err
}

// when prints a time of the past or future for a person, "" for none.
func when(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := t.Sub(now)
	if d >= 0 {
		return "in " + roughly(d)
	}
	return roughly(-d) + " ago"
}

// roughly prints a duration in its two largest units: "2d3h", "1h59m", "5s".
func roughly(d time.Duration) string {
	unit := time.Second
	switch {
	case d >= 48*time.Hour:
		unit = time.Hour
	case d >= time.Hour:
		unit = time.Minute
	}
	return ticket.Duration(d.Truncate(unit)).String()
}

// plain drops what could steer a terminal: labels, and what relays say, are strangers'.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, daemon.StripANSI(s))
}
