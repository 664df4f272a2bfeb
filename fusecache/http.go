package fusecache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/wire"
)

// HTTPServer serves a View as an http:// binary cache on the loopback
// interface. Other users of the machine can reach the port, but not guess the
// random path below which everything lies.
type HTTPServer struct {
	url    string
	server *http.Server
	done   chan struct{}
}

// ServeHTTP begins to serve the View on a free port of 127.0.0.1.
func ServeHTTP(view *cache.View) (*HTTPServer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serve HTTP: %w", err)
	}
	prefix := "/" + rand.Text()
	s := &HTTPServer{
		url: "http://" + l.Addr().String() + prefix,
		server: &http.Server{
			Handler:           http.StripPrefix(prefix+"/", handler(view)),
			ReadHeaderTimeout: 10 * time.Second,
		},
		done: make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		s.server.Serve(l)
	}()
	return s, nil
}

// URL returns the binary cache's URL for Nix.
func (s *HTTPServer) URL() string { return s.url }

// Close ends all transfers and stops to serve.
func (s *HTTPServer) Close() error {
	err := s.server.Close()
	<-s.done
	return err
}

// handler serves the files of the View, not its directories, at their names.
// It understands ranges, with which Nix resumes a download. A transfer that
// fails is cut off.
func handler(view *cache.View) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		f, err := view.OpenFile(r.Context(), strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer f.Close()
		h := w.Header()
		switch {
		case !f.Small():
			h.Set("Content-Type", wire.TypeNar)
		case strings.HasSuffix(r.URL.Path, ".narinfo"):
			h.Set("Content-Type", wire.TypeNarInfo)
		default:
			h.Set("Content-Type", "text/plain; charset=utf-8")
		}
		content := &requestFile{ctx: r.Context(), file: f}
		http.ServeContent(w, r, "", time.Time{}, content)
		if content.err != nil {
			// Not even a chunked answer may look complete.
			panic(http.ErrAbortHandler)
		}
	})
}

// requestFile reads a file for as long as the request lasts.
type requestFile struct {
	ctx  context.Context
	file *cache.File
	off  int64
	err  error
}

func (f *requestFile) Read(p []byte) (int, error) {
	n, err := f.file.ReadAtContext(f.ctx, p, f.off)
	f.off += int64(n)
	if err != nil && err != io.EOF {
		f.err = err
	}
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *requestFile) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.off
	case io.SeekEnd:
		offset += f.file.Size()
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning")
	}
	f.off = offset
	return offset, nil
}
