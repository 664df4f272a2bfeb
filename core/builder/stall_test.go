package builder

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// deadlines records the read deadlines that are set on it.
type deadlines struct {
	http.ResponseWriter
	set []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.set = append(d.set, t)
	return nil
}

func TestStallReaderAbort(t *testing.T) {
	w := &deadlines{ResponseWriter: httptest.NewRecorder()}
	s := &stallReader{r: strings.NewReader("x"), rc: http.NewResponseController(w)}
	if _, err := s.Read(make([]byte, 1)); err != nil || len(w.set) != 1 || w.set[0].Before(time.Now()) {
		t.Fatalf("after a read the deadlines are %v, %v", w.set, err)
	}
	s.abort()
	if len(w.set) != 2 || w.set[1].After(time.Now()) {
		t.Fatalf("abort makes the deadlines %v", w.set)
	}
}

// A context's AfterFunc may still be about to run when the handler returns, and
// net/http does not stand a deadline on an answer that is over.
func TestStallReaderLateAbort(t *testing.T) {
	w := &deadlines{ResponseWriter: httptest.NewRecorder()}
	s := &stallReader{r: strings.NewReader(""), rc: http.NewResponseController(w)}
	s.finish()
	before := len(w.set)
	s.abort()
	if late := w.set[before:]; len(late) != 0 {
		t.Errorf("deadlines set after the end: %v", late)
	}
}
