package client

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
)

// FuzzEvents feeds a stream of anything to the reader of events: it must end,
// and what it hands on must be complete and in order.
func FuzzEvents(f *testing.F) {
	f.Add([]byte(`{"seq":1,"type":"log","log":{"text":"x"}}` + "\n\n" + `{"seq":2,"type":"finished","result":{}}` + "\n"))
	f.Add([]byte(`{"seq":1,"type":"start","activity":{"id":1,"type":105,"fields":["/nix/store/x.drv",1]}}` + "\n"))
	f.Add([]byte(`{"seq":1,"type":"finished","state":"built"}` + "\n"))
	f.Add([]byte("\n\n\n"))
	f.Add([]byte(`{"seq":1,"type":"queued","position":-1}`))
	f.Fuzz(func(t *testing.T, stream []byte) {
		seen := &recorder{}
		tr := &transport{handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(stream) })}
		s := &Session{API: &API{Control: tr, Bulk: tr, Base: "https://builder/"}, Observer: seen}
		last, result, err := s.follow(t.Context(), testID, 0, 0, func() {})
		if int(last) != len(seen.events) {
			t.Fatalf("%d events seen, the last is number %d", len(seen.events), last)
		}
		ended := last > 0 && seen.events[last-1].Type == wire.EventFinished
		if ended != (err == nil) || result != nil && !ended {
			t.Fatalf("result %v, error %v", result, err)
		}
		for i, e := range seen.events {
			if e.Seq != int64(i)+1 || checkEvent(&e) != nil {
				t.Fatalf("event %d: %+v", i, e)
			}
		}
	})
}

func TestReadLine(t *testing.T) {
	const limit = 100 << 10
	line := bytes.Repeat([]byte("x"), limit-1)
	for n, ok := range map[int]bool{0: true, 1: true, 16: true, 17: true, 5000: true, limit - 1: true, limit + 5000: false} {
		text := append(bytes.Repeat(line[:1], n), "\nrest\n"...)
		r := bufio.NewReaderSize(bytes.NewReader(text), 16)
		var long []byte
		got, err := readLine(r, &long, limit)
		if ok && (err != nil || len(got) != n) {
			t.Errorf("%d bytes: got %d, %v", n, len(got), err)
		}
		if !ok {
			if !errors.Is(err, ErrProtocol) {
				t.Errorf("%d bytes: error %v", n, err)
			}
			continue
		}
		if got, err = readLine(r, &long, limit); string(got) != "rest" || err != nil {
			t.Errorf("the line after %d bytes: %q, %v", n, got, err)
		}
		if _, err = readLine(r, &long, limit); !errors.Is(err, io.EOF) {
			t.Errorf("the end after %d bytes: %v", n, err)
		}
	}
}

// FuzzBuildAnswer: whatever a builder wants, nothing outside of the closure is touched.
func FuzzBuildAnswer(f *testing.F) {
	f.Add([]byte(`{"id":"aaaaaaaaaaaaaaaaaaaaaaaaaa","state":"uploading","wanted":[0,1,2]}`))
	f.Add([]byte(`{"id":"aaaaaaaaaaaaaaaaaaaaaaaaaa","wanted":[-1,5,5,1e9]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		tr := &transport{handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(answer) })}
		api := &API{Control: tr, Bulk: tr, Base: "https://builder/"}
		b, err := api.PutBuild(t.Context(), testID, []byte("{}"), 3)
		if err != nil {
			return
		}
		last := -1
		for _, i := range b.Wanted {
			if i <= last || i >= 3 {
				t.Fatalf("wanted %v", b.Wanted)
			}
			last = i
		}
		if b.ID != testID || b.LastEvent < 0 || b.Position < 0 {
			t.Fatalf("%+v", b)
		}
	})
}
