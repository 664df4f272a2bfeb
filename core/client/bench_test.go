package client

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
)

type nobody struct{}

func (nobody) Event(*wire.Event) {}
func (nobody) Transfer(Transfer) {}
func (nobody) Note(string)       {}

// BenchmarkFollow reads 100,000 log lines of 100 bytes.
func BenchmarkFollow(b *testing.B) {
	var stream bytes.Buffer
	const lines = 100_000
	for i := range lines {
		line, _ := json.Marshal(wire.Event{Seq: int64(i) + 1, Type: wire.EventLog, Log: wire.NewLog(7, []byte(strings.Repeat("x", 100)), false)})
		stream.Write(append(line, '\n'))
	}
	line, _ := json.Marshal(wire.Event{Seq: lines + 1, Type: wire.EventFinished, Result: &wire.Result{}})
	stream.Write(append(line, '\n'))
	tr := &transport{handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(stream.Bytes()) })}
	s := &Session{API: &API{Control: tr, Bulk: tr, Base: "https://builder/"}, Observer: nobody{}}
	b.SetBytes(int64(stream.Len()))
	for b.Loop() {
		if _, res, err := s.follow(b.Context(), testID, 0, 0, func() {}); err != nil || res == nil {
			b.Fatal(err)
		}
	}
}
