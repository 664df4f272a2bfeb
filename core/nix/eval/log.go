package eval

import (
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"strings"

	"github.com/drv-thru/drv-thru/core/nix/daemon"
)

// maxLogLine bounds a line of Nix's log that is taken apart; a longer one passes
// as it is.
const maxLogLine = 8 << 20

// logFilter takes Nix's standard error apart, in the format internal-json: lines
// "@nix {json}", and whatever Git and the like write beside them. Messages go to
// the user, activities to Progress.
type logFilter struct {
	to       io.Writer
	color    bool
	progress func(string)

	line []byte
	raw  bool // within a line that was too long
	// listing says that the message before belonged to the dry run's plan.
	listing bool
	// last is the last error message.
	last string
}

func (f *logFilter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part, rest, ended := bytes.Cut(p, []byte("\n"))
		p = rest
		switch {
		case f.raw:
			f.pass(part)
		case len(f.line)+len(part) > maxLogLine:
			f.raw = true
			f.pass(f.line)
			f.pass(part)
			f.line = nil
		default:
			f.line = append(f.line, part...)
		}
		if ended {
			f.end()
		}
	}
	return n, nil
}

// end handles a whole line.
func (f *logFilter) end() {
	line := f.line
	f.line = f.line[:0]
	if f.raw {
		f.raw = false
		f.pass([]byte("\n"))
		return
	}
	text, isLog := bytes.CutPrefix(line, []byte("@nix "))
	var m struct {
		Action string `json:"action"`
		Level  int    `json:"level"`
		Msg    string `json:"msg"`
		RawMsg string `json:"raw_msg"` // without the traces, for errors only
		Text   string `json:"text"`
	}
	if !isLog || json.Unmarshal(text, &m) != nil {
		f.pass(append(line, '\n'))
		return
	}
	switch m.Action {
	case "msg":
		f.message(m.Msg, m.RawMsg, daemon.Verbosity(m.Level))
	case "start":
		if f.progress != nil && m.Text != "" && daemon.Verbosity(m.Level) <= daemon.LevelTalkative {
			f.progress(daemon.StripANSI(m.Text))
		}
	}
}

// plan is what the dry run lists: headings, each followed by indented paths
// (Nix libmain/shared.cc, printMissing). It is not what drv-thru is going to do.
var plan = regexp.MustCompile(`^((this derivation|these \d+ derivations) will be built:` +
	`|(this path|these \d+ paths) will be fetched \(.*\):` +
	`|don't know how to build these paths.*:)$`)

func (f *logFilter) message(msg, rawMsg string, level daemon.Verbosity) {
	plain := daemon.StripANSI(msg)
	f.listing = plan.MatchString(plain) || f.listing && strings.HasPrefix(plain, "  /nix/store/")
	if f.listing {
		return
	}
	// Nix complains of its own option --system when it forwards it to a daemon.
	if strings.Contains(plain, "ignoring the client-specified setting 'system'") {
		return
	}
	if level == daemon.LevelError && strings.HasPrefix(plain, "error:") {
		f.last = daemon.StripANSI(rawMsg)
		if f.last == "" {
			f.last = strings.TrimSpace(strings.TrimPrefix(plain, "error:"))
		}
		f.last = f.last[:min(len(f.last), daemon.MaxText)]
	}
	if f.color {
		plain = msg
	}
	f.pass([]byte(plain + "\n"))
}

func (f *logFilter) pass(p []byte) {
	if f.to != nil {
		_, _ = f.to.Write(p)
	}
}

// flush passes on a last line without a line feed.
func (f *logFilter) flush() {
	if f.raw || len(f.line) > 0 {
		f.end()
	}
}
