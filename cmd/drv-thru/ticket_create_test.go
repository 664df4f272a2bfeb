package main

import (
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
)

// A ticket that was just made expires when it was told to, whatever part of a second
// it is, and the moment that making it took does not show.
func TestExpiresText(t *testing.T) {
	for made := time.Unix(1_700_000_000, 0); made.Unix() == 1_700_000_000; made = made.Add(time.Second / 16) {
		for lasts, want := range map[time.Duration]string{
			90 * time.Second: "expires in 1m30s", 30 * time.Minute: "expires in 30m", 2 * time.Hour: "expires in 2h", 7 * 24 * time.Hour: "expires in 7d",
		} {
			var ticket admin.Ticket
			ticket.Expires = made.Add(lasts)
			for _, after := range []time.Duration{0, 1, 20 * time.Millisecond, time.Second - 1} {
				if got := expiresText(ticket, made.Add(after)); got != want {
					t.Errorf("%s after %s: %q", lasts, after, got)
				}
			}
		}
	}
}
