package policy

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/drv-thru/drv-thru/core/ticket"
)

// Limits is a [ticket.Limits] in numbers. In a request a field that is absent
// means no limit; in a decision, that the limit stays as it is.
type Limits struct {
	MaxBuildSeconds Limit    `json:"max_build_seconds,omitempty"`
	MaxUploadBytes  Limit    `json:"max_upload_bytes,omitempty"`
	MaxOutputBytes  Limit    `json:"max_output_bytes,omitempty"`
	Systems         []string `json:"systems,omitempty"` // never an empty list
	NoFixedOutput   *bool    `json:"no_fixed_output,omitempty"`
}

const maxSystems = 64

// LimitsOf writes limits the way a policy sees them: whole seconds, rounded
// down, and nothing above [MaxNumber].
func LimitsOf(l ticket.Limits) Limits {
	out := Limits{
		MaxBuildSeconds: seconds(l.MaxBuildTime),
		MaxUploadBytes:  Limit(min(uint64(max(l.MaxUploadBytes, 0)), MaxNumber)),
		MaxOutputBytes:  Limit(min(uint64(max(l.MaxOutputBytes, 0)), MaxNumber)),
		Systems:         slices.Clone(l.Systems),
	}
	if l.NoFixedOutput {
		out.NoFixedOutput = &l.NoFixedOutput
	}
	return out
}

// Native writes limits the way a builder holds them.
func (l Limits) Native() ticket.Limits {
	out, _ := l.Apply(ticket.Limits{}) // nothing is wider than no limit
	return out
}

// seconds never rounds a limit down to 0, which would mean none.
func seconds(d ticket.Duration) Limit {
	if d <= 0 {
		return 0
	}
	return Limit(max(d.Std()/time.Second, 1))
}

func (l *Limits) empty() bool {
	return l.MaxBuildSeconds == 0 && l.MaxUploadBytes == 0 && l.MaxOutputBytes == 0 &&
		l.Systems == nil && l.NoFixedOutput == nil
}

func (l *Limits) check() error {
	if l.Systems != nil && len(l.Systems) == 0 {
		return errors.New("systems is an empty list: deny instead, or leave it out to keep them")
	}
	if len(l.Systems) > maxSystems {
		return fmt.Errorf("%d systems, more than %d", len(l.Systems), maxSystems)
	}
	for i, s := range l.Systems {
		if s == "" || slices.Contains(l.Systems[:i], s) {
			return fmt.Errorf("system %.40q is empty or given twice", s)
		}
	}
	return nil
}

// Apply returns current with the limits that l names, each of which must be as
// tight as before or tighter: otherwise the error is an [*Error] with
// [CodeWidens] that says which is not.
func (l Limits) Apply(current ticket.Limits) (ticket.Limits, error) {
	out, was := current, LimitsOf(current)
	for _, n := range []struct {
		name     string
		new, old Limit
		set      func()
	}{
		{"max_build_seconds", l.MaxBuildSeconds, was.MaxBuildSeconds, func() {
			out.MaxBuildTime = ticket.Duration(min(l.MaxBuildSeconds, math.MaxInt64/Limit(time.Second))) * ticket.Duration(time.Second)
		}},
		{"max_upload_bytes", l.MaxUploadBytes, was.MaxUploadBytes, func() { out.MaxUploadBytes = ticket.Size(l.MaxUploadBytes) }},
		{"max_output_bytes", l.MaxOutputBytes, was.MaxOutputBytes, func() { out.MaxOutputBytes = ticket.Size(l.MaxOutputBytes) }},
	} {
		switch {
		case n.new > MaxNumber:
			return ticket.Limits{}, errorf(CodeWidens, "%s: %d is above every limit", n.name, n.new)
		case n.new == 0 || n.new == n.old:
		case n.old != 0 && n.new > n.old:
			return ticket.Limits{}, errorf(CodeWidens, "%s: %d is more than %d", n.name, n.new, n.old)
		default:
			n.set()
		}
	}
	if l.Systems != nil {
		for _, s := range l.Systems {
			if len(current.Systems) > 0 && !slices.Contains(current.Systems, s) {
				return ticket.Limits{}, errorf(CodeWidens, "systems: %.40q was not allowed", s)
			}
		}
		if len(l.Systems) == 0 {
			return ticket.Limits{}, errorf(CodeWidens, "systems: an empty list allows all")
		}
		out.Systems = slices.Clone(l.Systems)
	}
	if l.NoFixedOutput != nil {
		if current.NoFixedOutput && !*l.NoFixedOutput {
			return ticket.Limits{}, errorf(CodeWidens, "no_fixed_output: was true")
		}
		out.NoFixedOutput = *l.NoFixedOutput
	}
	return out, nil
}
