//go:build !js && !wasip1

package link

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// repeated is a body of n bytes that ends with err once something is known.
type repeated struct {
	n      int
	err    error
	once   <-chan struct{}
	closed chan struct{}
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.n == 0 {
		<-r.once
		return 0, r.err
	}
	n := min(r.n, len(p))
	for i := range p[:n] {
		p[i] = byte('a' + r.n%26)
	}
	r.n -= n
	return n, nil
}

func (r *repeated) Close() error { close(r.closed); return nil }

func (r *repeated) waitClosed(t *testing.T) {
	t.Helper()
	select {
	case <-r.closed:
	case <-time.After(enough):
		t.Error("body was not closed")
	}
}

// TestQUICUpload: bodies that end well, that fail, that are too short, whose
// request is given up, and that nobody wants.
func TestQUICUpload(t *testing.T) {
	// What is given up before the builder has looked at it, it never hears of.
	begun, heard := make(chan struct{}, 1), make(chan int64, 1)
	b := serveDirectTo(t, func(cfg *DirectConfig) { cfg.quicOnly = true }, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/count":
			begun <- struct{}{}
			if r.Method != http.MethodPut && r.Method != http.MethodPost {
				t.Errorf("method %q", r.Method)
			}
			n, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				n = -1
			}
			heard <- n
		case "/no":
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "no")
		}
	})
	s := directSession(t, Config{}, &relayed{wayTo{network: &b.network, address: "b"}})
	s.waitFor(t, PathDirectQUIC)
	rt := s.forControl().bulk
	send := func(ctx context.Context, path string, size int64, body io.ReadCloser) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, BaseURL+path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = size
		req.Header.Set("Authorization", "me")
		return rt.RoundTrip(req)
	}
	const size = 600<<10 + 7
	failed := errors.New("disk")
	for _, c := range []struct {
		name   string
		length int64
		end    error
		want   int64
	}{
		{"length known", size, io.EOF, size},
		{"length unknown", -1, io.EOF, size},
		{"too short", size + 1, io.EOF, -1},
		{"fails", -1, failed, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := &repeated{size, c.end, begun, make(chan struct{})}
			resp, err := send(t.Context(), "count", c.length, body)
			if err == nil {
				_ = resp.Body.Close()
			}
			if got := <-heard; got != c.want {
				t.Errorf("the builder got %d bytes, want %d", got, c.want)
			}
			if c.want >= 0 && err != nil {
				t.Error(err)
			}
			body.waitClosed(t)
		})
	}
	t.Run("given up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		in, out := io.Pipe()
		go func() {
			_, _ = out.Write(make([]byte, 1<<20))
			<-begun
			cancel()
			_ = out.CloseWithError(failed)
		}()
		if _, err := send(ctx, "count", -1, in); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if got := <-heard; got != -1 {
			t.Errorf("the builder got %d bytes and took them for all", got)
		}
	})
	t.Run("not wanted", func(t *testing.T) {
		body := &repeated{1 << 30, io.EOF, nil, make(chan struct{})}
		resp, err := send(t.Context(), "no", 1<<30, body)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		if err != nil || string(text) != "no" || resp.StatusCode != http.StatusForbidden {
			t.Errorf("got %d %q, %v", resp.StatusCode, text, err)
		}
		_ = resp.Body.Close()
		body.waitClosed(t)
	})
	t.Run("a small request", func(t *testing.T) {
		text, err := do(s.Bulk(), http.MethodPut, "count", strings.NewReader("small"))
		if err != nil || text != "" {
			t.Errorf("got %q, %v", text, err)
		}
		<-begun
		if got := <-heard; got != 5 {
			t.Errorf("the builder got %d bytes", got)
		}
	})
}
