package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/wire"
)

// transport answers requests by a handler, in memory.
type transport func(r *http.Request) (int, string, []byte)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) {
	code, contentType, body := f(r)
	return &http.Response{
		StatusCode: code, Status: http.StatusText(code), Request: r,
		Header: http.Header{"Content-Type": {contentType}},
		Body:   io.NopCloser(bytes.NewReader(body)),
	}, nil
}

type noTransport struct{ err error }

func (n noTransport) RoundTrip(*http.Request) (*http.Response, error) { return nil, n.err }

func TestChunkRequests(t *testing.T) {
	n := newNar(0, 1, 100_000)
	check := func(r *http.Request, route string, v any) {
		if r.Method != "POST" || r.URL.String() != "https://builder"+route || r.Header.Get("Authorization") != "Bearer x" ||
			r.Header.Get(wire.HeaderVersion) != "1" || json.NewDecoder(r.Body).Decode(v) != nil {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
	}
	f := NewChunkFetcher(ChunkConfig{
		Header: http.Header{"Authorization": {"Bearer x"}},
		Transport: transport(func(r *http.Request) (int, string, []byte) {
			var b bytes.Buffer
			if r.URL.Path == wire.RouteManifests {
				var req wire.ManifestsRequest
				check(r, wire.RouteManifests, &req)
				if len(req.Nars) != 1 || req.Nars[0] != n.hash() {
					t.Error(req)
				}
				b.WriteByte(wire.ManifestFollows)
				m := chunk.Manifest{Refs: n.refs, Chunks: n.man, Size: int64(len(n.data))}
				if err := m.Write(&b); err != nil {
					t.Error(err)
				}
				return 200, wire.TypeFrames, b.Bytes()
			}
			var req wire.ChunksRequest
			check(r, wire.RouteChunks, &req)
			if len(req.Nars) != 1 || req.Nars[0].NarHash != n.hash() || len(req.Nars[0].Chunks) != 1 {
				t.Error(req)
			}
			for i := range req.Nars[0].Chunks[0][1] {
				b.Write(chunk.AppendFrame(nil, n.masked[req.Nars[0].Chunks[0][0]+i], false))
			}
			return 200, wire.TypeFrames, b.Bytes()
		}),
	})
	defer f.Close()
	if err := fetchAll(t, f, []*testNar{n}, []NarRange{n.whole()}); err != nil {
		t.Error(err)
	}
}

func TestHTTPErrors(t *testing.T) {
	problem := func(code wire.Code) transport {
		return func(*http.Request) (int, string, []byte) {
			body, _ := json.Marshal(wire.Errorf(code, "detail"))
			return code.Status(), wire.TypeProblem, body
		}
	}
	n := newNar(0, 1, 1000)
	for _, c := range []struct {
		answer    transport
		is        error
		permanent bool
	}{
		{problem(wire.CodeTicketRevoked), wire.CodeTicketRevoked.Err(), true},
		{problem(wire.CodeNotFound), wire.CodeNotFound.Err(), true},
		{problem(wire.CodeRate), wire.CodeRate.Err(), false},
		{problem(wire.CodeInternal), wire.CodeInternal.Err(), false},
		{problem(wire.CodeDraining), wire.CodeDraining.Err(), false},
		{func(*http.Request) (int, string, []byte) { return 302, "", nil }, nil, true},
	} {
		f := NewChunkFetcher(ChunkConfig{Transport: c.answer})
		err := fetchAll(t, f, []*testNar{n}, []NarRange{n.whole()})
		if err == nil || c.is != nil && !errors.Is(err, c.is) || isPermanent(err) != c.permanent {
			t.Errorf("%v, permanent %v", err, isPermanent(err))
		}
		f.Close()
	}
	unspoken := NewChunkFetcher(ChunkConfig{Transport: noTransport{wire.CodeVersion.Err()}})
	defer unspoken.Close()
	if err := fetchAll(t, unspoken, []*testNar{n}, []NarRange{n.whole()}); !isPermanent(err) {
		t.Errorf("a builder that does not speak the protocol: %v", err)
	}
	f := NewChunkFetcher(ChunkConfig{})
	defer f.Close()
	if _, err := f.Fetch(t.Context(), make([]NarRange, wire.MaxNarsRequest+1)); !isPermanent(err) {
		t.Error(err)
	}
}

func TestHTTPLog(t *testing.T) {
	f := NewChunkFetcher(ChunkConfig{Base: "http://x", Transport: transport(func(r *http.Request) (int, string, []byte) {
		if r.URL.Path == "/v1/cache/log/a.drv" {
			return 200, "text/plain", []byte("log")
		}
		body, _ := json.Marshal(wire.CodeNotFound.Err())
		return 404, wire.TypeProblem, body
	})})
	defer f.Close()
	r, err := f.Log(context.Background(), "a.drv")
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := io.ReadAll(r); string(text) != "log" {
		t.Errorf("%q", text)
	}
	if _, err := f.Log(context.Background(), "b.drv"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// Whatever a builder answers, reading ends, and no byte is read that is not the
// NAR's by the manifest.
func FuzzChunkAnswers(f *testing.F) {
	n := newNar(0, 1, 40_000)
	var man, frames bytes.Buffer
	man.WriteByte(wire.ManifestFollows)
	m := chunk.Manifest{Refs: n.refs, Chunks: n.man, Size: int64(len(n.data))}
	if err := m.Write(&man); err != nil {
		f.Fatal(err)
	}
	for _, data := range n.masked {
		frames.Write(chunk.AppendFrame(nil, data, false))
	}
	f.Add(man.Bytes(), frames.Bytes())
	f.Add([]byte{wire.ManifestUnavailable}, []byte{})
	f.Add(man.Bytes(), []byte{0, 0, 0, 0, 0x80, 0, 0, 5, 1, 2, 3, 4, 5})
	f.Add(append(bytes.Clone(man.Bytes()), man.Bytes()...), append(bytes.Clone(frames.Bytes()), frames.Bytes()...))
	f.Fuzz(func(t *testing.T, manifest, frames []byte) {
		fetcher := NewChunkFetcher(ChunkConfig{Now: time.Now, Transport: transport(func(r *http.Request) (int, string, []byte) {
			if r.URL.Path == wire.RouteManifests {
				return 200, wire.TypeFrames, manifest
			}
			return 200, wire.TypeFrames, frames
		})})
		defer func() {
			fetcher.Close()
			fetcher.checkIdle(t)
		}()
		s, err := fetcher.Fetch(t.Context(), []NarRange{n.whole(), n.whole()})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for {
			frame, err := s.Next()
			if err != nil {
				return
			}
			if frame.Unavailable {
				continue
			}
			got, err := io.ReadAll(readerOf(s))
			if err == nil && uint64(len(got)) != frame.Size {
				t.Fatalf("%d bytes of %d", len(got), frame.Size)
			}
			if bytes.Equal(manifest, man.Bytes()) && !bytes.HasPrefix(n.data, got) {
				t.Fatal("wrong bytes")
			}
			if err != nil {
				return
			}
		}
	})
}
