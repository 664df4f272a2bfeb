//go:build e2e

package link

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/wire"
)

// TestBrowser opens a session with the WebSocket of the JavaScript host,
// through a real relay; e2e/linkwasm starts that and the builder.
func TestBrowser(t *testing.T) {
	relay := os.Getenv("DRV_THRU_TEST_RELAY")
	builder, err := key.ParseID(os.Getenv("DRV_THRU_TEST_BUILDER"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Dial(t.Context(), Config{Identity: secret(t, 1), Peer: builder, Relays: []string{relay}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := bytes.Repeat([]byte("drv-thru"), 1<<20)
	for _, rt := range []http.RoundTripper{s.Control(), s.Bulk()} {
		got, err := do(rt, http.MethodPost, "echo", bytes.NewReader(want))
		if err != nil || got != string(want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}

	// The builder cuts its circuits; the next request opens another.
	if _, err := do(s.Control(), http.MethodPost, "cut", io.LimitReader(strings.NewReader("x"), 1)); err == nil {
		t.Error("the circuit was not cut")
	}
	if got, err := do(s.Control(), http.MethodPost, "echo", strings.NewReader("again")); err != nil || got != "again" {
		t.Errorf("%q, %v", got, err)
	}

	// A page cannot see HTTP answers, but is told all the same.
	_, err = Dial(t.Context(), Config{Identity: secret(t, 1), Peer: secret(t, 9).ID(), Relays: []string{relay}})
	if !errors.Is(err, wire.CodeRelayNoBuilder.Err()) {
		t.Errorf("unknown builder: %v", err)
	}
}
