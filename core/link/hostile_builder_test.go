//go:build !js

package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/link/linktest"
)

// A builder's odd answers by HTTP/1.1 are read as what they are or fail: a request
// ends, also when its context does, and the next one is answered.
func TestBuilderThatAnswersOddly(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	long := func(s string) string { return strings.Repeat(s, 12<<20/len(s)) }
	for name, c := range map[string]struct {
		raw  string
		then string // again and again
		want string // "": an error
		stay bool   // the connection stays open, in silence

		empty bool // there is nothing to read, which is no error
	}{
		"upgraded":           {raw: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", stay: true},
		"upgraded, flood":    {raw: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", then: "junk"},
		"hints":              {raw: strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 3) + ok + "Content-Length: 1\r\n\r\nx", want: "x", stay: true},
		"hints without end":  {then: "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"},
		"header without end": {raw: ok, then: "X: y\r\n"},
		"line without end":   {raw: ok + "X: ", then: "y"},
		"status without end": {raw: "HTTP/1.1 200 ", then: "y"},
		"large header":       {raw: ok + "X: " + long("y") + "\r\nContent-Length: 0\r\n\r\n", stay: true},
		"too long":           {raw: ok + "Content-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ny", want: "x", stay: true},
		"too short":          {raw: ok + "Content-Length: 9\r\n\r\nx"},
		"two lengths":        {raw: ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy", stay: true},
		"negative length":    {raw: ok + "Content-Length: -1\r\n\r\nxy", stay: true},
		"length of a lie":    {raw: ok + "Content-Length: 9223372036854775807\r\n\r\nx"},
		"chunk of a lie":     {raw: ok + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx", stay: true},
		"chunk of a lot":     {raw: ok + "Transfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\nx"},
		"chunk extensions":   {raw: ok + "Transfer-Encoding: chunked\r\n\r\n", then: "1;" + strings.Repeat("x", 1000) + "\r\ny\r\n"},
		"trailer":            {raw: ok + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: y\r\n\r\n", want: "x", stay: true},
		"trailer, endless":   {raw: ok + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", then: "X: y\r\n"},
		"gzip":               {raw: ok + "Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", want: "x", stay: true},
		"another encoding":   {raw: ok + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", stay: true},
		"junk":               {raw: "junk\r\n\r\n", stay: true},
		"HTTP/2":             {raw: "HTTP/2.0 200 OK\r\nContent-Length: 1\r\n\r\nx", want: "x", stay: true},
		"HTTP/1.0":           {raw: "HTTP/1.0 200 OK\r\n\r\nx", want: "x"},
		"nothing":            {},
		"silence":            {stay: true},
		"half a header":      {raw: ok + "X: y", stay: true},
		"half a body":        {raw: ok + "Content-Length: 9\r\n\r\nx", stay: true},
		"no content":         {raw: "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", stay: true, empty: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network linktest.Network
				serve(t, &network, "b", secret(t, 2), func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/odd" || r.ProtoMajor != 1 {
						_, _ = io.WriteString(w, "fine")
						return
					}
					conn, _, err := http.NewResponseController(w).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					_, err = io.WriteString(conn, c.raw)
					for piece := strings.Repeat(c.then, 1000); err == nil && c.then != ""; {
						_, err = io.WriteString(conn, piece)
					}
					for buf := make([]byte, 1<<10); err == nil && c.stay; {
						var n int
						if n, err = conn.Read(buf); bytes.Contains(buf[:n], []byte("GET ")) {
							return // what follows comes by another connection
						}
					}
				})
				s := session(t, &wayTo{network: &network, address: "b"})
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, errors.New("an hour has passed"))
				defer cancel()
				text, err := odd(ctx, s)
				if text != c.want && c.want != "" || (err == nil) != (c.want != "" || c.empty) {
					t.Errorf("read %.20q, %v", text, err)
				}
				// What came unasked may be taken for the next answer until it is noticed.
				synctest.Wait()
				if text, err := get(s.Bulk(), "fine"); text != "fine" || err != nil {
					t.Errorf("then %q, %v", text, err)
				}
			})
		})
	}
}

// odd asks for the odd answer, and reads at most 64 MiB of it.
func odd(ctx context.Context, s *Session) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, BaseURL+"odd", strings.NewReader("question"))
	if err != nil {
		return "", err
	}
	resp, err := s.Bulk().RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return "", errors.New(resp.Status)
	}
	const most = 64 << 20
	text, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err == nil && len(text) == most {
		err = errors.New("too much")
	}
	return string(text), err
}
