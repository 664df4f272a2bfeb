package main

import (
	"strings"

	"github.com/mdp/qrterminal/v3"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
)

// qrMargin is the white around a QR code, in modules. The standard asks for 4; a
// camera finds one on a screen with 2, and an ordinary ticket's fits into 80×24.
const qrMargin = 2

// showQR draws a ticket's text where people see it, beside standard output, which
// is the text alone. Letters in upper case make the code a third smaller, and a
// ticket is the same in either.
func (a *app) showQR(text string) {
	var code strings.Builder
	qrterminal.GenerateWithConfig(strings.ToUpper(text), qrterminal.Config{
		Level: qrterminal.L, Writer: &code, QuietZone: qrMargin, HalfBlocks: true,
		WhiteChar: qrterminal.WHITE_WHITE, BlackChar: qrterminal.BLACK_BLACK,
		WhiteBlackChar: qrterminal.WHITE_BLACK, BlackWhiteChar: qrterminal.BLACK_WHITE,
	})
	p := term.New(a.stderr, a.env)
	defer p.Close()
	for line := range strings.Lines(code.String()) {
		// White on black whatever the terminal's own colours are: inverted, not
		// every camera reads it.
		p.Line(p.Paint("97;40", strings.TrimRight(line, "\n")))
	}
}
