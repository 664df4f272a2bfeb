package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
)

// Elsewhere than on a terminal, status --watch prints one look after the other.
func TestStatusWatch(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := admin.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"slots":7}`)
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	for _, asJSON := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		r, w := io.Pipe()
		args := []string{"status", "--watch", "--interval", "10ms", "--admin-socket", socket}
		want := "0 of 7 slots in use"
		if asJSON {
			args, want = append(args, "--json"), `"slots":7`
		}
		code := make(chan int, 1)
		go func() {
			code <- run(ctx, args, nil, w, io.Discard, nil)
			w.Close()
		}()
		looks := 0
		for lines := bufio.NewScanner(r); lines.Scan(); {
			if strings.Contains(lines.Text(), want) {
				if looks++; looks == 3 {
					cancel()
				}
			}
		}
		if got := <-code; got != 0 || looks < 3 {
			t.Errorf("%d looks, exit code %d", looks, got)
		}
		cancel()
	}
	srv.Close()
	var stderr strings.Builder
	if code := run(t.Context(), []string{"status", "--watch", "--admin-socket", socket}, nil, io.Discard, &stderr, nil); code != 4 {
		t.Errorf("without a builder: exit code %d, %s", code, stderr.String())
	}
}
