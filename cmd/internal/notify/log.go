package notify

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"
)

// LogHandler writes a service's log to stderr. Where that is the journal, each line
// begins with its priority, as sd-daemon(3) has it, for journalctl -p.
func LogHandler(stderr io.Writer, level slog.Level) slog.Handler {
	opts := &slog.HandlerOptions{Level: level}
	if !isJournal(stderr) {
		return slog.NewTextHandler(stderr, opts)
	}
	w := &marked{to: stderr}
	return markedHandler{slog.NewTextHandler(w, opts), w}
}

// Mark is what begins a line of such a level on stderr, outside of a log: nothing
// where that is not the journal.
func Mark(stderr io.Writer, level slog.Level) string {
	if !isJournal(stderr) {
		return ""
	}
	return mark(level)
}

// isJournal reports whether w is the standard error that systemd has connected to its
// journal. JOURNAL_STREAM alone is inherited by who writes elsewhere.
func isJournal(w io.Writer) bool {
	is, err := journal.StderrIsJournalStream()
	return w == os.Stderr && is && err == nil
}

func mark(level slog.Level) string {
	p := journal.PriDebug
	switch {
	case level >= slog.LevelError:
		p = journal.PriErr
	case level >= slog.LevelWarn:
		p = journal.PriWarning
	case level >= slog.LevelInfo:
		p = journal.PriInfo
	}
	return "<" + strconv.Itoa(int(p)) + ">"
}

// markedHandler marks the lines of a handler, which writes each of them at once.
type markedHandler struct {
	slog.Handler
	w *marked
}

func (h markedHandler) Handle(ctx context.Context, r slog.Record) error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.mark = mark(r.Level)
	return h.Handler.Handle(ctx, r)
}

func (h markedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return markedHandler{h.Handler.WithAttrs(attrs), h.w}
}

func (h markedHandler) WithGroup(name string) slog.Handler {
	return markedHandler{h.Handler.WithGroup(name), h.w}
}

// marked puts a mark before what is written.
type marked struct {
	to   io.Writer
	mu   sync.Mutex // held while the handler writes
	mark string
}

func (w *marked) Write(line []byte) (int, error) {
	_, err := w.to.Write(append([]byte(w.mark), line...))
	return len(line), err
}
