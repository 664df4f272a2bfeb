package main

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
)

// An ordinary ticket's code fits on the smallest terminal, and says the ticket.
func TestTicketQR(t *testing.T) {
	text := (&ticket.Ticket{Builder: key.ID{1}, Relays: []string{"https://relay.example.org"}}).String()
	var out bytes.Buffer
	a := &app{stderr: &out}
	a.showQR(text)
	lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
	if len(lines) > 23 {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		if n := utf8.RuneCountInString(l); n != utf8.RuneCountInString(lines[0]) || n > 80 {
			t.Errorf("a line of %d characters", n)
		}
		if strings.Trim(l, " ▀▄█") != "" {
			t.Errorf("%q", l)
		}
	}
	if got, err := ticket.Parse(strings.ToUpper(text)); err != nil || got.Builder != (key.ID{1}) {
		t.Errorf("in upper case: %v, %v", got, err)
	}
}

// Whoever sends a ticket steers no terminal of who looks at it: what is said of relays
// may have the control characters of Unicode.
func TestTicketCannotSteerTerminal(t *testing.T) {
	text := (&ticket.Ticket{Builder: key.ID{1}, Relays: []string{"https://relay.example/gone\u009b2J"}}).String()
	var out bytes.Buffer
	a := &app{stdout: &out}
	if err := a.inspectText(text, false); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, "gone") || strings.Contains(text, "\u009b") {
		t.Errorf("%q", text)
	}
}
