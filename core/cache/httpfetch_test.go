package cache

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/drv-thru/drv-thru/core/wire"
)

func frame(index uint32, size uint64, data string) []byte {
	b := binary.BigEndian.AppendUint32(nil, index)
	b = binary.BigEndian.AppendUint64(b, size)
	return append(b, data...)
}

func TestFrames(t *testing.T) {
	stream := bytes.Join([][]byte{
		frame(0, 5, "hello"), frame(1, wire.NarUnavailable, ""), frame(2, 0, ""), frame(3, 3, "xyz"),
	}, nil)
	for _, skip := range []bool{false, true} {
		f := newFrameReader(iotest.OneByteReader(bytes.NewReader(stream)), 4)
		var got []string
		for {
			fr, err := f.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case fr.Unavailable:
				got = append(got, "-")
			case skip:
				got = append(got, "")
			default:
				data, err := io.ReadAll(f)
				if err != nil || uint64(len(data)) != fr.Size {
					t.Fatal(data, err)
				}
				got = append(got, string(data))
			}
		}
		want := "hello - xyz"
		if skip {
			want = "-"
		}
		if s := strings.Join(strings.Fields(strings.Join(got, " ")), " "); s != want || len(got) != 4 {
			t.Errorf("%q", got)
		}
	}
}

func TestBadFrames(t *testing.T) {
	cases := []struct {
		name   string
		stream []byte
		want   error
	}{
		{"empty", nil, io.ErrUnexpectedEOF},
		{"half a header", frame(0, 1, "")[:5], io.ErrUnexpectedEOF},
		{"half a NAR", frame(0, 100, "abc"), io.ErrUnexpectedEOF},
		{"one missing", frame(0, 1, "a"), io.ErrUnexpectedEOF},
		{"wrong order", frame(1, 1, "a"), ErrStream},
		{"twice", append(frame(0, 1, "a"), frame(0, 1, "a")...), ErrStream},
		{"absurd size", frame(0, 1<<63, "a"), ErrStream},
		{"too many", bytes.Repeat(frame(0, 1, "a"), 1), io.ErrUnexpectedEOF},
		{"more than asked for", bytes.Join([][]byte{frame(0, 1, "a"), frame(1, 1, "b"), frame(2, 1, "c")}, nil), ErrStream},
	}
	for _, c := range cases {
		f := newFrameReader(bytes.NewReader(c.stream), 2)
		var err error
		for err == nil {
			if _, err = f.Next(); err == nil {
				_, err = io.Copy(io.Discard, f)
			}
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if errors.Is(err, ErrStream) != isPermanent(err) {
			t.Errorf("%s: %v: permanent %v", c.name, err, isPermanent(err))
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(append(frame(0, 5, "hello"), frame(1, wire.NarUnavailable, "")...), 2, false)
	f.Add(frame(0, 1<<40, "x"), 1, true)
	f.Add(frame(7, 0, ""), 3, true)
	f.Fuzz(func(t *testing.T, data []byte, count int, skip bool) {
		fr := newFrameReader(bytes.NewReader(data), count&0xff)
		total := uint64(0)
		for i := 0; ; i++ {
			frame, err := fr.Next()
			if err != nil {
				if err == io.EOF && i != count&0xff {
					t.Fatalf("clean end after %d frames of %d", i, count&0xff)
				}
				return
			}
			if frame.Index != i || i >= count&0xff {
				t.Fatalf("frame %d came as %d", frame.Index, i)
			}
			if skip || frame.Unavailable {
				continue
			}
			n, err := io.Copy(io.Discard, fr)
			if err == nil && uint64(n) != frame.Size {
				t.Fatalf("%d bytes of %d", n, frame.Size)
			}
			if total += uint64(n); total > uint64(len(data)) {
				t.Fatal("more bytes than there are")
			}
			if err != nil {
				return
			}
		}
	})
}

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

func TestHTTPFetcher(t *testing.T) {
	f := &HTTPFetcher{
		Header: http.Header{"Authorization": {"Bearer x"}},
		Transport: transport(func(r *http.Request) (int, string, []byte) {
			var req wire.NarsRequest
			if r.Method != "POST" || r.URL.String() != "https://builder/v1/cache/nars" ||
				r.Header.Get("Authorization") != "Bearer x" || r.Header.Get(wire.HeaderVersion) != "1" ||
				json.NewDecoder(r.Body).Decode(&req) != nil || len(req.Nars) != 1 || req.Nars[0].Offset != 7 {
				t.Errorf("%s %s %v %v", r.Method, r.URL, r.Header, req)
			}
			return 200, wire.TypeFrames, frame(0, 3, "abc")
		}),
	}
	s, err := f.Fetch(t.Context(), []wire.NarRange{{NarHash: "x", Offset: 7}})
	if err != nil {
		t.Fatal(err)
	}
	if fr, err := s.Next(); err != nil || fr.Size != 3 {
		t.Fatal(fr, err)
	}
	if data, err := io.ReadAll(s); string(data) != "abc" || err != nil {
		t.Fatal(data, err)
	}
	if _, err := s.Next(); err != io.EOF {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestHTTPErrors(t *testing.T) {
	problem := func(code wire.Code) transport {
		return func(*http.Request) (int, string, []byte) {
			body, _ := json.Marshal(wire.Errorf(code, "detail"))
			return code.Status(), wire.TypeProblem, body
		}
	}
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
		_, err := (&HTTPFetcher{Transport: c.answer}).Fetch(t.Context(), []wire.NarRange{{}})
		if err == nil || c.is != nil && !errors.Is(err, c.is) || isPermanent(err) != c.permanent {
			t.Errorf("%v, permanent %v", err, isPermanent(err))
		}
	}
	f := &HTTPFetcher{}
	if _, err := f.Fetch(t.Context(), make([]wire.NarRange, wire.MaxNarsRequest+1)); !isPermanent(err) {
		t.Error(err)
	}
}

func TestHTTPLog(t *testing.T) {
	f := &HTTPFetcher{Base: "http://x", Transport: transport(func(r *http.Request) (int, string, []byte) {
		if r.URL.Path == "/v1/cache/log/a.drv" {
			return 200, "text/plain", []byte("log")
		}
		body, _ := json.Marshal(wire.CodeNotFound.Err())
		return 404, wire.TypeProblem, body
	})}
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
