package term

import (
	"strings"
	"unicode/utf8"
)

const esc = 0x1b

// AppendSafe appends text to dst without what a terminal would obey: every
// escape sequence but colours and the like (SGR, ECMA-48 8.3.117) and every
// control character but line feed and tab, as Nix does (libutil/terminal.cc,
// filterANSIEscapes). Colours that the text leaves on are switched off at its end.
func AppendSafe[S string | []byte](dst []byte, text S) []byte {
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
	return dst
}

// Safe is AppendSafe for texts.
func Safe(text string) string { return string(AppendSafe(nil, text)) }

// plain is text without any escape sequence or control character.
func plain(text string) string {
	var b []byte
	for safe := Safe(text); safe != ""; {
		if safe[0] == esc {
			n, _ := escape(safe)
			safe = safe[n:]
			continue
		}
		i := strings.IndexByte(safe, esc)
		if i < 0 {
			i = len(safe)
		}
		b = append(b, safe[:i]...)
		safe = safe[i:]
	}
	return string(b)
}

// fit cuts text to a number of columns.
func fit(text string, columns int) string {
	used, cut := 0, 0 // cut is where the text may be cut with room for "…"
	for i, r := range text {
		if used <= columns-1 {
			cut = i
		}
		if used += width(r); used > columns {
			return text[:cut] + "…"
		}
	}
	return text
}

// width is the number of columns that a character takes: two for those that
// East Asian Width (Unicode Annex 11) calls wide, roughly. Taking a narrow one
// for wide only cuts a line early.
func width(r rune) int {
	switch {
	case r < 0x1100, r > 0x115f && r < 0x2e80, r > 0xa4cf && r < 0xac00, r > 0xd7a3 && r < 0xf900,
		r > 0xfaff && r < 0xfe30, r > 0xfe6f && r < 0xff00, r > 0xff60 && r < 0xffe0, r > 0xffe6 && r < 0x1f300:
		return 1
	}
	return 2
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
