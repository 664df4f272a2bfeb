package cache

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"

	"github.com/drv-thru/drv-thru/core/wire"
)

// defaultBase is where requests go, whatever path carries them (core/wire).
const defaultBase = "https://builder"

// HTTPFetcher fetches NARs from a builder with POST /v1/cache/nars, many in one
// request.
type HTTPFetcher struct {
	// Transport carries the requests: the bulk circuit of a session.
	Transport http.RoundTripper
	// Header is sent with every request: credentials, agent. May be nil.
	Header http.Header
	// Base is the URL before the routes; "" means https://builder.
	Base string
}

var (
	_ Fetcher    = (*HTTPFetcher)(nil)
	_ LogFetcher = (*HTTPFetcher)(nil)
)

// Fetch implements [Fetcher]. Answers of status 4xx are permanent errors
// (*wire.Error), except that the builder is busy or restarting.
func (f *HTTPFetcher) Fetch(ctx context.Context, ranges []wire.NarRange) (Stream, error) {
	if len(ranges) > wire.MaxNarsRequest {
		return nil, Permanent(fmt.Errorf("more than %d NARs in one request", wire.MaxNarsRequest))
	}
	body, err := json.Marshal(wire.NarsRequest{Nars: ranges})
	if err != nil {
		return nil, Permanent(err)
	}
	resp, err := f.do(ctx, http.MethodPost, wire.RouteNars, body)
	if err != nil {
		return nil, fmt.Errorf("fetch NARs: %w", err)
	}
	// Headers and small NARs come through the buffer; reads of more than
	// its size go past it.
	return &httpStream{
		frameReader: newFrameReader(bufio.NewReaderSize(resp.Body, 16<<10), len(ranges)),
		body:        resp.Body,
	}, nil
}

// Log implements [LogFetcher] with GET /v1/cache/log/{drv}.
func (f *HTTPFetcher) Log(ctx context.Context, drv string) (io.ReadCloser, error) {
	resp, err := f.do(ctx, http.MethodGet, "/v1/cache/log/"+url.PathEscape(drv), nil)
	if errors.Is(err, wire.CodeNotFound.Err()) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("fetch log: %w", err)
	}
	return resp.Body, nil
}

func (f *HTTPFetcher) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	base := f.Base
	if base == "" {
		base = defaultBase
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
	if err != nil {
		return nil, Permanent(err)
	}
	for name, values := range f.Header {
		req.Header[name] = values
	}
	req.Header.Set(wire.HeaderVersion, strconv.Itoa(wire.Version))
	// Keeps net/http from asking for gzip and unpacking it on its own.
	req.Header.Set("Accept-Encoding", "identity")
	if body != nil {
		req.Header.Set("Content-Type", wire.TypeJSON)
	}
	resp, err := f.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	err = wire.ReadError(resp)
	switch c := resp.StatusCode; {
	case c == http.StatusTooManyRequests, c == http.StatusRequestTimeout, c >= 500:
		return nil, err
	}
	return nil, Permanent(err)
}

// httpStream is an answer of POST /v1/cache/nars.
type httpStream struct {
	*frameReader
	body io.Closer
}

// Close implements [Stream].
func (s *httpStream) Close() error { return s.body.Close() }
