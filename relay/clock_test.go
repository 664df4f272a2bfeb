package relay

import (
	"testing"
	"time"
	"unsafe"

	"github.com/drv-thru/drv-thru/core/wire"
)

// stepped is a point in time after the wall clock was set. Package time has its
// seconds in bits 30 to 62 of the first word, and the other clock apart.
func stepped(t time.Time, by time.Duration) time.Time {
	*(*uint64)(unsafe.Pointer(&t)) += uint64(by/time.Second) << 30
	return t
}

// A wall clock that is set, as at the start of a machine without a battery, is no
// silence of builders and circuits.
func TestWallClockIsSet(t *testing.T) {
	const step, idle = time.Hour, time.Minute
	now := time.Now()
	later := stepped(now, step)
	if later.Sub(now) != 0 || later.Round(0).Sub(now.Round(0)) != step {
		t.Fatal("package time keeps time in another way")
	}
	reg := &registration{}
	reg.heard.Store(clock(now))
	if left := reg.patience(later); left != wire.RelayDeadAfter {
		t.Errorf("a builder that was heard just now has %s left", left)
	}
	c := &spliced{s: New(Config{Limits: Limits{Idle: idle}})}
	c.last.Store(clock(now))
	c.up.busy.Store(clock(now))
	if left, why := c.patience(later); left != idle {
		t.Errorf("a circuit that moves has %s left (%s)", left, why)
	}
}

// A circuit that a limit on bytes per second holds up is not idle, but an end of it
// may still stall.
func TestPatience(t *testing.T) {
	const idle = time.Minute
	now := time.Now()
	for name, c := range map[string]struct {
		moved, busy time.Duration // so long ago; 0: nothing is under way
		held        bool
		left        time.Duration
		why         string
	}{
		"moved":                      {time.Second, 0, false, idle - time.Second, endIdle},
		"idle":                       {idle, 0, false, 0, endIdle},
		"held up":                    {2 * idle, 0, true, idle, endIdle},
		"under way":                  {2 * time.Second, time.Second, false, idle - 2*time.Second, endIdle},
		"stalled":                    {time.Second, idle, false, 0, endStalled},
		"stalled, the other held up": {time.Second, idle, true, 0, endStalled},
	} {
		s := &spliced{s: New(Config{Limits: Limits{Idle: idle}})}
		s.last.Store(clock(now.Add(-c.moved)))
		if c.busy != 0 {
			s.down.busy.Store(clock(now.Add(-c.busy)))
		}
		s.up.held.Store(c.held)
		if left, why := s.patience(now); left != c.left || why != c.why {
			t.Errorf("%s: %s left, %s; want %s, %s", name, left, why, c.left, c.why)
		}
	}
}
