package cache

import (
	"bytes"
	"context"
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

// httpClient makes a builder's requests of the cache.
type httpClient struct {
	transport http.RoundTripper // nil: there is nobody to ask
	header    http.Header
	base      string // "" means defaultBase
}

func (c *httpClient) post(ctx context.Context, path string, body []byte) (*http.Response, error) {
	return c.do(ctx, http.MethodPost, path, body)
}

// do makes a request. Answers of status 4xx are permanent errors (*wire.Error),
// except that the builder is busy or restarting.
func (c *httpClient) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	if c.transport == nil {
		return nil, Permanent(errNobody)
	}
	base := c.base
	if base == "" {
		base = defaultBase
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
	if err != nil {
		return nil, Permanent(err)
	}
	for name, values := range c.header {
		req.Header[name] = values
	}
	req.Header.Set(wire.HeaderVersion, strconv.Itoa(wire.Version))
	// Keeps net/http from asking for gzip and unpacking it on its own.
	req.Header.Set("Accept-Encoding", "identity")
	if body != nil {
		req.Header.Set("Content-Type", wire.TypeJSON)
	}
	resp, err := c.transport.RoundTrip(req)
	if errors.Is(err, wire.CodeVersion.Err()) {
		return nil, Permanent(err)
	}
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

// Log implements [LogFetcher] with GET /v1/cache/log/{drv}.
func (f *ChunkFetcher) Log(ctx context.Context, drv string) (io.ReadCloser, error) {
	resp, err := f.http.do(ctx, http.MethodGet, "/v1/cache/log/"+url.PathEscape(drv), nil)
	if errors.Is(err, wire.CodeNotFound.Err()) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("fetch log: %w", err)
	}
	return resp.Body, nil
}
