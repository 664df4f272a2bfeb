package daemon

import "strings"

// Error is an error that the daemon reported. The connection stays usable,
// unless the daemon found fault with the form of the arguments: then it has hung
// up, and the next operation fails.
type Error struct {
	// Msg is the message, at most MaxErrorText bytes of it, usually with ANSI
	// colours: Error gives it without.
	Msg string
	// Traces say where it happened, the innermost first, coloured too.
	Traces []string
}

// Error returns the message without colours, and without Nix's "error:".
func (e *Error) Error() string { return StripANSI(e.Msg) }

// remoteError reads an error (Nix libutil/serialise.cc, operator<< of Error).
func (d *decoder) remoteError() *Error {
	d.string(maxName, "error type") // always "Error"
	d.u64()                         // level
	d.string(maxName, "error name") // no longer used
	e := &Error{Msg: d.text(MaxErrorText)}
	d.noPosition()
	n := d.count(maxSkip, "error traces")
	for range n {
		d.noPosition()
		t := d.text(MaxText)
		if d.err != nil {
			return nil
		}
		if len(e.Traces) < MaxTraces {
			e.Traces = append(e.Traces, t)
		}
	}
	return e
}

// noPosition reads the place of a source position. Nix has never sent one, so
// what would follow is not known.
func (d *decoder) noPosition() {
	if n := d.u64(); n != 0 {
		d.malformed("an error with a source position")
	}
}

// StripANSI removes the ANSI escape sequences that Nix puts into messages (CSI,
// OSC and two-character ones) and leaves every other byte alone.
func StripANSI(s string) string {
	if strings.IndexByte(s, 0x1b) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] != 0x1b {
			b.WriteByte(s[i])
			i++
			continue
		}
		i++
		if i == len(s) {
			break
		}
		kind := s[i]
		i++
		switch kind {
		case '[':
			for i < len(s) && (s[i] < 0x40 || s[i] > 0x7e) {
				i++
			}
			if i < len(s) {
				i++
			}
		case ']':
			for i < len(s) && s[i] != 0x07 && s[i] != 0x1b {
				i++
			}
			if i < len(s) && s[i] == 0x1b {
				i++ // the terminator is ESC \
			}
			if i < len(s) {
				i++
			}
		}
	}
	return b.String()
}
