package term

import (
	"fmt"
	"strconv"
	"time"
)

// Bytes writes a size for people: "0 B", "999 B", "1.2 MiB", "345 MiB".
func Bytes(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v := float64(n)
	units := []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := -1
	for v >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f %s", v, units[i])
	}
	return fmt.Sprintf("%.0f %s", v, units[i])
}

// Span writes a duration for people: "0.3 s", "12 s", "3 m 20 s", "2 h 5 m".
func Span(d time.Duration) string {
	switch s := d.Seconds(); {
	case s < 9.95:
		return fmt.Sprintf("%.1f s", max(s, 0))
	case s < 59.5:
		return fmt.Sprintf("%.0f s", s)
	}
	if d = d.Round(time.Second); d < time.Hour {
		return fmt.Sprintf("%d m %d s", d/time.Minute, d%time.Minute/time.Second)
	}
	d = d.Round(time.Minute)
	return fmt.Sprintf("%d h %d m", d/time.Hour, d%time.Hour/time.Minute)
}

// Within writes how long something may take that is not known well: "any moment",
// "about 40 s", "about 4 m", "about 2 h 5 m".
func Within(d time.Duration) string {
	switch minutes := d.Round(time.Minute); {
	case d < time.Second:
		return "any moment"
	case d < time.Minute:
		return "about " + Span(d.Round(time.Second))
	case minutes < time.Hour:
		return fmt.Sprintf("about %d m", minutes/time.Minute)
	default:
		return "about " + Span(minutes)
	}
}

// Count writes a number of things: "1 path", "3 paths".
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}
