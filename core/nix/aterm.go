package nix

import (
	"bytes"
	"fmt"
	"strings"
)

// aterm reads the subset of the ATerm syntax that derivations use, in the one
// form that Nix writes (libstore/derivations.cc): no white space, strings with
// exactly the escapes \" \\ \n \r \t, nothing escaped that need not be. So each
// derivation has one text, and no text means one thing here and another to Nix.
//
// The first error stays in err, and every later call does nothing.
type aterm struct {
	s   []byte
	pos int
	err error
}

func (a *aterm) fail(format string, args ...any) {
	if a.err == nil {
		a.err = fmt.Errorf("%w: at byte %d: %s", ErrBadDerivation, a.pos, fmt.Sprintf(format, args...))
	}
}

// word expects these bytes.
func (a *aterm) word(w string) {
	if a.err != nil {
		return
	}
	if len(a.s)-a.pos < len(w) || string(a.s[a.pos:a.pos+len(w)]) != w {
		a.fail("expected %q", w)
		return
	}
	a.pos += len(w)
}

// list expects a list and calls item at the beginning of each element.
func (a *aterm) list(item func()) {
	a.word("[")
	for n := 0; a.err == nil; n++ {
		if a.pos < len(a.s) && a.s[a.pos] == ']' {
			a.pos++
			return
		}
		if n > 0 {
			a.word(",")
		}
		if a.err == nil {
			item()
		}
	}
}

// special are the bytes that do not stand for themselves in a string.
var special = [256]bool{'"': true, '\\': true, '\n': true, '\r': true, '\t': true}

// str expects a string and returns what it stands for.
func (a *aterm) str() string {
	a.word(`"`)
	if a.err != nil {
		return ""
	}
	start := a.pos
	escapes := 0
	for a.pos < len(a.s) {
		c := a.s[a.pos]
		switch {
		case !special[c]:
			a.pos++
		case c == '"':
			raw := a.s[start:a.pos]
			a.pos++
			if escapes == 0 {
				return string(raw)
			}
			return unescape(raw, escapes)
		case c == '\\' && a.pos+1 < len(a.s) && unescaped[a.s[a.pos+1]] != 0:
			escapes++
			a.pos += 2
		default:
			a.fail("%q in a string is not in canonical form", a.s[a.pos:min(a.pos+2, len(a.s))])
			return ""
		}
	}
	a.fail("unterminated string")
	return ""
}

// unescaped maps the byte behind a backslash to what the two stand for.
var unescaped = [256]byte{'"': '"', '\\': '\\', 'n': '\n', 'r': '\r', 't': '\t'}

func unescape(raw []byte, escapes int) string {
	var b strings.Builder
	b.Grow(len(raw) - escapes)
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			b.Write(raw)
			return b.String()
		}
		b.Write(raw[:i])
		b.WriteByte(unescaped[raw[i+1]])
		raw = raw[i+2:]
	}
}

// strs expects a list of strings, ascending where sorted is set.
func (a *aterm) strs(what string, sorted bool) []string {
	var list []string
	a.list(func() {
		s := a.str()
		if sorted && len(list) > 0 && list[len(list)-1] >= s {
			a.unsorted(what, s)
		}
		list = append(list, s)
	})
	return list
}

func (a *aterm) unsorted(what, s string) {
	a.fail("%s %s does not sort after the one before", what, quote(s))
}

// path expects a string that is a store path.
func (a *aterm) path() Path {
	s := a.str()
	if a.err != nil {
		return ""
	}
	p, err := ParsePath(s)
	if err != nil {
		a.fail("%v", err)
	}
	return p
}
