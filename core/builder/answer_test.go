package builder

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/wire"
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

// unreadWriter is a client that takes nothing until it is told to.
type unreadWriter struct {
	writeDeadlines
	begun, goOn chan struct{}
}

func (u *unreadWriter) Write(p []byte) (int, error) {
	if u.begun != nil {
		close(u.begun)
		<-u.goOn
		u.begun = nil
	}
	return u.ResponseRecorder.Write(p)
}

// Large answers that nobody takes are as many as the share of a ticket has room for,
// and are given up in the end. Small ones are always to be had.
func TestAnswersThatAreNotTaken(t *testing.T) {
	const large = 1 << 20
	s := &Service{unread: budget{most: 3 * large, share: 2 * large}}
	who := func(n byte) *caller { return &caller{client: key.ID{n}, trusted: &TrustedClient{}} }
	answer := func(c *caller, size int) error {
		return s.writeJSON(httptest.NewRecorder(), c, strings.Repeat("x", size))
	}
	w := &unreadWriter{writeDeadlines{ResponseRecorder: httptest.NewRecorder()}, make(chan struct{}), make(chan struct{})}
	begun, sent := w.begun, make(chan error, 1)
	go func() { sent <- s.writeJSON(w, who(1), strings.Repeat("x", large)) }()
	<-begun
	if len(w.set) != 1 || w.set[0].IsZero() {
		t.Errorf("deadlines %v", w.set)
	}
	if err := answer(who(1), large); wire.CodeOf(err) != wire.CodeRate {
		t.Errorf("another large answer: %v", err)
	}
	if err := answer(who(1), smallAnswer/2); err != nil {
		t.Errorf("a small answer: %v", err)
	}
	if err := answer(who(2), large); err != nil {
		t.Errorf("somebody else's answer: %v", err)
	}
	close(w.goOn)
	if err := <-sent; err != nil || w.Body.Len() != large+2 || w.Header().Get("Content-Length") != strconv.Itoa(large+2) {
		t.Errorf("%d bytes of %s, %v", w.Body.Len(), w.Header().Get("Content-Length"), err)
	}
	if err := answer(who(1), large); err != nil {
		t.Errorf("another large answer, after that: %v", err)
	}
	if len(s.unread.by) != 0 || s.unread.taken != 0 {
		t.Errorf("%d bytes stay counted", s.unread.taken)
	}
}

// What is larger than the share is sent all the same, alone.
func TestAnswerLargerThanTheShare(t *testing.T) {
	s := &Service{unread: budget{most: maxUnread, share: unreadShare}}
	c := &caller{client: key.ID{1}, trusted: &TrustedClient{}}
	done, err := s.unreadOf(c, maxUnread+1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.unreadOf(c, smallAnswer+1); wire.CodeOf(err) != wire.CodeRate {
		t.Errorf("beside it: %v", err)
	}
	done()
	if done, err = s.unreadOf(c, unreadShare); err != nil {
		t.Fatal(err)
	}
	done()
}
