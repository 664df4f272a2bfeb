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
