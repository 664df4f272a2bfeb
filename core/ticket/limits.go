package ticket

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Limits is what a ticket or a trusted client may use. The zero value of a
// field means no limit.
type Limits struct {
	// MaxBuildTime bounds one build, from leaving the queue to its end.
	MaxBuildTime Duration `json:"max_build_time,omitzero"`
	// MaxUploadBytes bounds the NAR bytes that one build may send.
	MaxUploadBytes Size `json:"max_upload_bytes,omitzero"`
	// MaxOutputBytes bounds the NAR bytes of one build's outputs.
	MaxOutputBytes Size `json:"max_output_bytes,omitzero"`
	// Systems are the only Nix systems that may be built; none means all.
	Systems []string `json:"systems,omitempty"`
	// NoFixedOutput forbids building fixed-output derivations, which have the
	// network of the builder's host; substituting them stays allowed.
	NoFixedOutput bool `json:"no_fixed_output,omitempty"`
}

// Defaults for new tickets and trusted clients.
const (
	DefaultExpiry         = Duration(2 * time.Hour)
	DefaultMaxBuildTime   = Duration(30 * time.Minute)
	DefaultMaxUploadBytes = Size(20 << 30)
)

// Duration is a span of time written as "90s", "30m", "2h" or "7d".
type Duration time.Duration

var durationUnits = []struct {
	suffix string
	unit   time.Duration
}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}

// ParseDuration reads one or more numbers with units d, h, m, s in that order,
// such as "1h30m". Zero, signs and fractions are refused.
func ParseDuration(text string) (Duration, error) {
	bad := func() (Duration, error) {
		return 0, fmt.Errorf("not a duration: %q (write 90s, 30m, 2h or 7d)", clip(text))
	}
	rest, total := text, time.Duration(0)
	for _, u := range durationUnits {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		if digits == 0 || !strings.HasPrefix(rest[digits:], u.suffix) {
			continue
		}
		n, err := strconv.ParseInt(rest[:digits], 10, 64)
		if err != nil || n > int64((math.MaxInt64-total)/u.unit) {
			return bad()
		}
		total += time.Duration(n) * u.unit
		rest = rest[digits+len(u.suffix):]
	}
	if rest != "" || total <= 0 {
		return bad()
	}
	return Duration(total), nil
}

// Std returns the span as a [time.Duration].
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String writes the span the way [ParseDuration] reads it, dropping fractions
// of a second.
func (d Duration) String() string {
	rest := time.Duration(d)
	var b strings.Builder
	for _, u := range durationUnits {
		if n := rest / u.unit; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.suffix)
			rest -= n * u.unit
		}
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}

// MarshalText implements [encoding.TextMarshaler].
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(text []byte) error { return d.Set(string(text)) }

// Set implements flag.Value.
func (d *Duration) Set(text string) error {
	parsed, err := ParseDuration(text)
	if err == nil {
		*d = parsed
	}
	return err
}

// Size is a number of bytes written as "512", "500M", "20G" or "1T", 1024-based.
type Size int64

var sizeUnits = []struct {
	suffix string
	shift  uint
}{{"T", 40}, {"G", 30}, {"M", 20}, {"K", 10}}

// ParseSize reads digits and one of the units K, M, G, T, or "unlimited",
// which is the zero Size.
func ParseSize(text string) (Size, error) {
	if text == "unlimited" {
		return 0, nil
	}
	digits, shift := text, uint(0)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(text, u.suffix); ok {
			digits, shift = rest, u.shift
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n == 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("not a size: %q (write 500M, 20G, 1T or unlimited)", clip(text))
	}
	return Size(n << shift), nil
}

// String writes the size exactly, in the largest unit that divides it; the
// zero Size is "unlimited".
func (s Size) String() string {
	if s == 0 {
		return "unlimited"
	}
	for _, u := range sizeUnits {
		if s%(1<<u.shift) == 0 {
			return strconv.FormatInt(int64(s>>u.shift), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText implements [encoding.TextMarshaler].
func (s Size) MarshalText() ([]byte, error) {
	if s < 0 {
		return nil, errors.New("negative size")
	}
	return []byte(s.String()), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *Size) UnmarshalText(text []byte) error { return s.Set(string(text)) }

// Set implements flag.Value.
func (s *Size) Set(text string) error {
	parsed, err := ParseSize(text)
	if err == nil {
		*s = parsed
	}
	return err
}
