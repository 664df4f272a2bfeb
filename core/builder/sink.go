package builder

import (
	"bytes"
	"strings"
	"sync"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

// maxFirstError bounds the error message that is kept for the result.
const maxFirstError = 4 << 10

// sink turns what the daemon says into events, and stops a build that begins
// what the check before it did not foresee.
type sink struct {
	b   *build
	log *eventLog

	mu      sync.Mutex
	message []byte // of the message that is coming in
	held    []byte // the word with which its last piece has ended, not told yet
	first   string // the first that names a derivation that failed
}

var _ daemon.Sink = (*sink)(nil)

func (s *sink) Message(piece []byte, more bool) {
	if piece = withoutURLs(s.words(piece, more)); len(piece) == 0 && more {
		return
	}
	s.keepError(piece, more)
	s.log.log(wire.Log{More: more}, piece)
}

// maxHeld bounds the word that is held back.
const maxHeld = 4 << 10

// words gives pieces that end where a word does: half a URL is not known as one.
func (s *sink) words(piece []byte, more bool) []byte {
	if len(s.held) > 0 {
		piece, s.held = append(s.held, piece...), nil
	}
	if !more {
		return piece
	}
	end := 1 + bytes.LastIndexAny(piece, " \t\r\n'\"")
	if len(piece)-end > maxHeld {
		return piece
	}
	s.held = bytes.Clone(piece[end:])
	return piece[:end]
}

// keepError remembers the first error that names a derivation: of a failed
// dependency the result says only that there was one.
func (s *sink) keepError(piece []byte, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first != "" {
		return
	}
	if room := maxFirstError - len(s.message); room > 0 {
		s.message = append(s.message, piece[:min(room, len(piece))]...)
	}
	if more {
		return
	}
	text := strings.ToValidUTF8(daemon.StripANSI(string(s.message)), "�")
	s.message = s.message[:0]
	if rest, ok := strings.CutPrefix(text, "error: "); ok && strings.Contains(rest, ".drv") {
		s.first = strings.TrimSpace(rest)
	}
}

func (s *sink) firstError() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}

func (s *sink) LogLine(activity uint64, t daemon.ResultType, piece []byte, more bool) {
	s.log.log(wire.Log{Activity: activity, More: more, PostBuild: t == daemon.ResultPostBuildLogLine}, piece)
}

func (s *sink) StartActivity(a daemon.Activity) {
	if a.Type == daemon.ActivityBuild && len(a.Fields) > 0 && a.Fields[0].IsString {
		s.b.buildBegins(a.Fields[0].Str)
		s.b.began(&a)
	}
	s.log.add(&wire.Event{Type: wire.EventStart, Activity: &wire.Activity{
		ID: a.ID, Parent: a.Parent, Type: uint64(a.Type), Level: int(a.Level), Text: withoutURLs(a.Text), Fields: fields(a.Fields),
	}})
}

func (s *sink) StopActivity(id uint64) {
	s.b.stopped(id)
	s.log.add(&wire.Event{Type: wire.EventStop, Activity: &wire.Activity{ID: id}})
}

func (s *sink) Result(activity uint64, t daemon.ResultType, fs []daemon.Field) {
	s.log.add(&wire.Event{Type: wire.EventResult, Activity: &wire.Activity{
		ID: activity, Type: uint64(t), Fields: fields(fs),
	}})
}

func fields(in []daemon.Field) []wire.Field {
	out := make([]wire.Field, len(in))
	for i, f := range in {
		out[i] = wire.Field{Int: f.Int, Str: withoutURLs(f.Str), IsText: f.IsString}
	}
	return out
}

// buildBegins stops a build of what may not be built. The check before the
// build knows everything, except for paths that were collected or substitutes
// that vanished since.
func (b *build) buildBegins(text string) {
	if len(b.limits.Systems) == 0 && !b.limits.NoFixedOutput {
		return
	}
	drv, err := nix.ParsePath(text)
	if err != nil {
		return
	}
	p, err := b.s.plannedOf(b, drv)
	if err == nil {
		err = b.s.allowed(p, b.limits)
	}
	if err != nil {
		b.cancel(wireError(err))
	}
}
