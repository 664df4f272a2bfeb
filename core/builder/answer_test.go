package builder

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// writeDeadlines records the write deadlines that are set on it.
type writeDeadlines struct {
	*httptest.ResponseRecorder
	set []time.Time
}

func (d *writeDeadlines) SetWriteDeadline(t time.Time) error {
	d.set = append(d.set, t)
	return nil
}

// A deadline stands while something is written, and at no other time.
func TestStallWriter(t *testing.T) {
	w := &writeDeadlines{ResponseRecorder: httptest.NewRecorder()}
	s := &stallWriter{w, http.NewResponseController(w)}
	if _, err := s.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := http.NewResponseController(s).Flush(); err != nil || !w.Flushed {
		t.Errorf("flushed: %v, %v", w.Flushed, err)
	}
	if len(w.set) != 4 {
		t.Fatalf("deadlines %v", w.set)
	}
	for i, at := range w.set {
		if at.IsZero() != (i%2 == 1) {
			t.Errorf("deadlines %v", w.set)
		}
	}
}
