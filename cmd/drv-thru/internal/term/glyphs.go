package term

import "strings"

// glyphs are what pictures are made of.
type glyphs struct {
	running, waiting, done, failed string
	branch, last, through          string // of the tree
	full, empty                    string // of bars
	dot, more                      string
}

var (
	drawn = glyphs{"▸", "·", "✔", "✘", "├─ ", "└─ ", "│  ", "━", "─", " · ", "…"}
	typed = glyphs{">", ".", "+", "x", "|- ", "`- ", "|  ", "#", ".", ", ", "..."}
)

func (p *Printer) glyphs() *glyphs {
	if p.Unicode {
		return &drawn
	}
	return &typed
}

// unicodeLocale tells whether the locale's encoding is UTF-8: the first of the
// variables that is set decides (POSIX, 8.2).
func unicodeLocale(env func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := env(name); value != "" {
			value = strings.ToLower(value)
			return strings.Contains(value, "utf-8") || strings.Contains(value, "utf8")
		}
	}
	return false
}

// Bar draws a bar that is part of whole full.
func (p *Printer) Bar(part, whole float64, columns int) string {
	g := p.glyphs()
	full := 0
	if whole > 0 {
		full = int(float64(columns) * max(0, min(1, part/whole)))
	}
	return p.Paint(Green, strings.Repeat(g.full, full)) + p.Paint(Dim, strings.Repeat(g.empty, columns-full))
}

// The styles in use, as SGR parameters.
const (
	Bold   = "1"
	Dim    = "2"
	Red    = "31"
	Green  = "32"
	Yellow = "33"
	Blue   = "34"
)
