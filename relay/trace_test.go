package relay_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/relay"
)

// lockedBuffer is what several goroutines log to.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// circuits are the IDs of circuits in the lines with a message.
func (l *lockedBuffer) circuits(message string) (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := regexp.MustCompile(`(?m)^.*msg="` + message + `".* circuit=([0-9a-f]{32})\b.*$`)
	for _, m := range line.FindAllStringSubmatch(l.buf.String(), -1) {
		ids = append(ids, m[1])
	}
	slices.Sort(ids)
	return ids
}

func debugLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// A circuit has one ID in the logs of client, relay and builder.
func TestCircuitsHaveOneID(t *testing.T) {
	var relayLog, clientLog lockedBuffer
	inWorld(t, relay.Config{Log: debugLog(&relayLog)}, func(t *testing.T, w *world) {
		w.builder(secret(2), func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprint(rw, link.CircuitOf(r.Context()))
		})
		s, err := link.Dial(t.Context(), link.Config{
			Identity: secret(1), Peer: secret(2).ID(), Relays: []string{relayURL}, Network: w.net(), Log: debugLog(&clientLog),
		})
		if err != nil {
			t.Fatal(err)
		}
		var builder []string
		for _, rt := range []http.RoundTripper{s.Control(), s.Bulk()} {
			id, err := do(rt, http.MethodGet, "x", nil)
			if err != nil {
				t.Fatal(err)
			}
			builder = append(builder, id)
		}
		slices.Sort(builder)
		_ = s.Close()
		synctest.Wait()
		for who, ids := range map[string][]string{
			"client": clientLog.circuits("circuit open"), "relay": relayLog.circuits("circuit opened"), "relay's ends": relayLog.circuits("circuit ended"),
		} {
			if !slices.Equal(ids, builder) {
				t.Errorf("the builder knows the circuits %v, the %s %v", builder, who, ids)
			}
		}
	})
}
