package notify

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"
)

// journalctl -p finds lines by their level, whatever made the logger; elsewhere they are
// as they were.
func TestLogPriorities(t *testing.T) {
	var b bytes.Buffer
	w := &marked{to: &b}
	log := slog.New(markedHandler{slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}), w})
	log.Debug("d")
	log.With("a", 1).Info("i\n<0>x")
	log.WithGroup("g").Warn("w", "b", 2)
	log.Error("e")
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	for i, want := range []string{"<7>", "<6>", "<4>", "<3>"} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want+"time=") {
			t.Errorf("line %d does not begin with %s:\n%s", i, want, &b)
		}
	}
	if len(lines) != 4 {
		t.Errorf("%d lines", len(lines))
	}
	b.Reset()
	t.Setenv("JOURNAL_STREAM", "1:1")
	slog.New(LogHandler(&b, slog.LevelInfo)).Warn("w")
	if !strings.HasPrefix(b.String(), "time=") || Mark(os.Stderr, slog.LevelError) != "" {
		t.Errorf("outside of the journal: %s", &b)
	}
}
