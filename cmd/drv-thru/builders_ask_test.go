package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// What a builder says of itself is not taken for what another says.
func TestAskedLines(t *testing.T) {
	const forged = "\nok     other: all is well\x1b[2J"
	asked := []askedBuilder{
		{Name: "home", OK: true, Software: "drv-thru" + forged, NixVersion: forged, Systems: []string{forged}, SigningKey: forged},
		{Name: "work", Error: "refused" + forged, Hint: "ask" + forged, err: errors.New("refused")},
	}
	var out bytes.Buffer
	if err := (&app{stdout: &out}).printAsked(asked, false); err == nil {
		t.Error("no builder failed")
	}
	var own []string
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, " ") {
			own = append(own, line)
		}
	}
	if len(own) != 2 || !strings.HasPrefix(own[0], "ok     home: ") || own[1] != "failed work: refused\n" || strings.Contains(out.String(), "\x1b") {
		t.Errorf("%q", out.String())
	}
}
