package term

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

const esc = 0x1b

// Safe is text without what a terminal would obey: every escape sequence but colours
// and the like (SGR, ECMA-48 8.3.117) and every control character but line feed and
// tab, as Nix does (libutil/terminal.cc, filterANSIEscapes). Colours that the text
// leaves on are switched off at its end.
func Safe[S string | []byte](text S) S {
	var dst []byte
	coloured := false
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == esc:
			n, sgr := escape(text[i:])
			if sgr {
				dst = append(dst, text[i:i+n]...)
				coloured = true
			}
			i += n
		case c == '\n', c == '\t', c >= ' ' && c < 0x7f:
			dst = append(dst, c)
			i++
		case c < utf8.RuneSelf:
			i++
		default:
			var b [utf8.UTFMax]byte
			r, n := utf8.DecodeRune(b[:copy(b[:], text[i:])])
			if r > 0x9f { // below are more control characters (C1)
				dst = utf8.AppendRune(dst, r)
			}
			i += n
		}
	}
	if coloured {
		dst = append(dst, "\x1b[0m"...)
	}
	return S(dst)
}

// WriteJSON writes v as a line of JSON. What a terminal would obey and JSON lets
// strings have, DEL and the control characters C1, is written as \u0080 is.
func WriteJSON(w io.Writer, v any) error {
	var text bytes.Buffer
	if err := json.NewEncoder(&text).Encode(v); err != nil {
		return err
	}
	safe := make([]byte, 0, text.Len())
	for _, r := range text.String() {
		if r >= 0x7f && r <= 0x9f {
			safe = fmt.Appendf(safe, `\u%04x`, r)
		} else {
			safe = utf8.AppendRune(safe, r)
		}
	}
	_, err := w.Write(safe)
	return err
}

// plain is text without any escape sequence or control character but line feed
// and tab.
func plain[S string | []byte](text S) S {
	var dst []byte
	for safe := []byte(Safe(text)); len(safe) > 0; {
		if safe[0] == esc {
			n, _ := escape(safe)
			safe = safe[n:]
			continue
		}
		i := bytes.IndexByte(safe, esc)
		if i < 0 {
			i = len(safe)
		}
		dst = append(dst, safe[:i]...)
		safe = safe[i:]
	}
	return S(dst)
}

// oneLine replaces what moves the cursor in safe text.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		return r
	}, text)
}

// fit cuts safe text to a number of columns.
func fit(text string, columns int, unicode bool) string {
	tail := "…"
	if !unicode {
		tail = ">"
	}
	return ansi.Truncate(text, max(columns, 0), tail)
}

// escape returns the length of the escape sequence that text begins with, and
// whether it is one of SGR.
func escape[S string | []byte](text S) (n int, sgr bool) {
	if len(text) < 2 {
		return len(text), false
	}
	switch text[1] {
	case '[': // CSI: parameters, intermediates, one final byte
		plain := true
		for i := 2; i < len(text); i++ {
			switch c := text[i]; {
			case c >= 0x40 && c <= 0x7e:
				return i + 1, c == 'm' && plain
			case c < 0x20 || c > 0x7e:
				return i, false // cut off
			case c != ';' && c != ':' && (c < '0' || c > '9'):
				plain = false
			}
		}
		return len(text), false
	case ']', 'P', 'X', '^', '_': // strings, up to BEL or ESC \
		for i := 2; i < len(text); i++ {
			switch text[i] {
			case 0x07:
				return i + 1, false
			case esc:
				if i+1 < len(text) && text[i+1] == '\\' {
					return i + 2, false
				}
				return i, false
			case '\n':
				return i, false
			}
		}
		return len(text), false
	}
	i := 1
	for i < len(text) && text[i] >= 0x20 && text[i] <= 0x2f {
		i++
	}
	return min(i+1, len(text)), false
}
