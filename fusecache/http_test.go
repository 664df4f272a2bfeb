package fusecache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// zeroBuilder sends NARs of zeros, of which those of length bad break half way.
type zeroBuilder struct{ size, bad uint64 }

type zeroStream struct {
	b      *zeroBuilder
	ranges []cache.NarRange
	next   int
	left   uint64
}

func (b *zeroBuilder) Fetch(_ context.Context, ranges []cache.NarRange) (cache.Stream, error) {
	return &zeroStream{b: b, ranges: ranges}, nil
}

func (s *zeroStream) Next() (cache.Frame, error) {
	if s.next == len(s.ranges) {
		return cache.Frame{}, io.EOF
	}
	s.next++
	s.left = s.b.size - s.ranges[s.next-1].Offset
	return cache.Frame{Index: s.next - 1, Size: s.left}, nil
}

func (s *zeroStream) Read(p []byte) (int, error) {
	if s.b.bad > 0 && s.left <= s.b.size-s.b.bad {
		return 0, cache.Permanent(errors.New("broken"))
	}
	n := min(len(p), int(s.left))
	if s.b.bad > 0 {
		n = min(n, int(s.left-(s.b.size-s.b.bad)))
	}
	clear(p[:n])
	s.left -= uint64(n)
	return n, nil
}

func (s *zeroStream) Close() error { return nil }

func zeroView(t *testing.T, b *zeroBuilder) (*cache.View, nix.PathInfo) {
	t.Helper()
	return narView(t, b.size, cache.ViewConfig{Fetcher: b})
}

// narView is a View of one path, whose NAR has size bytes.
func narView(t *testing.T, size uint64, cfg cache.ViewConfig) (*cache.View, nix.PathInfo) {
	t.Helper()
	p, err := nix.ParsePath("/nix/store/00000000000000000000000000000000-x")
	if err != nil {
		t.Fatal(err)
	}
	info := nix.PathInfo{Path: p, NarHash: nix.SumHash(nil), NarSize: size}
	v, err := cache.NewView([]string{string(info.MarshalNarInfo())}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v, info
}

func get(t *testing.T, url string, header ...string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

func TestServeHTTP(t *testing.T) {
	const size = 3<<20 + 5
	v, info := zeroView(t, &zeroBuilder{size: size})
	s, err := ServeHTTP(v)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !strings.HasPrefix(s.URL(), "http://127.0.0.1:") {
		t.Errorf("URL %s", s.URL())
	}
	nar := s.URL() + "/" + nix.NarURL(info.NarHash)

	resp, body, err := get(t, s.URL()+"/nix-cache-info")
	if err != nil || resp.StatusCode != 200 || !bytes.HasPrefix(body, []byte("StoreDir: /nix/store\n")) {
		t.Errorf("%s %q %v", resp.Status, body, err)
	}
	resp, body, err = get(t, s.URL()+"/"+nix.NarInfoURL(info.Path))
	if err != nil || string(body) != string(info.MarshalNarInfo()) || resp.Header.Get("Content-Type") != wire.TypeNarInfo {
		t.Errorf("%s %q %v", resp.Status, body, err)
	}
	resp, body, err = get(t, nar)
	if err != nil || len(body) != size || resp.ContentLength != size || resp.Header.Get("Content-Type") != wire.TypeNar {
		t.Errorf("%s, %d bytes, %v", resp.Status, len(body), err)
	}
	resp, body, err = get(t, nar, "Range", "bytes=3145728-")
	if err != nil || resp.StatusCode != 206 || len(body) != 5 {
		t.Errorf("range: %s, %d bytes, %v", resp.Status, len(body), err)
	}

	// Without the secret, and for anything but the files, there is nothing.
	root := s.URL()[:strings.LastIndex(s.URL(), "/")]
	for _, url := range []string{root, root + "/nix-cache-info", s.URL(), s.URL() + "/", s.URL() + "/nar/", s.URL() + "/nar", s.URL() + "/x.narinfo", s.URL() + "/../nix-cache-info"} {
		if resp, _, _ := get(t, url); resp.StatusCode != 404 {
			t.Errorf("%s: %s", url, resp.Status)
		}
	}
	rec := httptest.NewRecorder()
	handler(v).ServeHTTP(rec, httptest.NewRequest("PUT", "/nix-cache-info", nil))
	if rec.Code != 405 {
		t.Errorf("PUT: %d", rec.Code)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := http.Get(s.URL() + "/nix-cache-info"); err == nil {
		t.Error("still served")
	}
}

// What cannot be read whole must not look whole.
func TestServeHTTPCutsOff(t *testing.T) {
	v, info := zeroView(t, &zeroBuilder{size: 1 << 20, bad: 300_000})
	s, err := ServeHTTP(v)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, body, err := get(t, s.URL()+"/"+nix.NarURL(info.NarHash)); err == nil {
		t.Errorf("%d bytes without an error", len(body))
	}
	if v.Err() == nil {
		t.Error("the view does not say why")
	}
}
