package main

import (
	"log/slog"
	"net/http"
	"time"
)

// loggedTransport tells of every request: how many there are is what a slow
// line feels first.
type loggedTransport struct {
	http.RoundTripper
	log *slog.Logger
}

func (t loggedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := t.RoundTripper.RoundTrip(req)
	attrs := []any{"method", req.Method, "path", req.URL.Path, "took", time.Since(began)}
	if err != nil {
		attrs = append(attrs, "err", err)
	} else {
		attrs = append(attrs, "status", resp.StatusCode)
	}
	t.log.Debug("request", attrs...)
	return resp, err
}
