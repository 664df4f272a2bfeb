package buildertest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

const peerHeader = "Test-Peer"

// Peer is builder.Config.Peer for clients of this package: they say who they
// are, instead of proving it.
func Peer(r *http.Request) (key.ID, error) { return key.ParseID(r.Header.Get(peerHeader)) }

// SetPeer says who sends a request.
func SetPeer(r *http.Request, id key.ID) { r.Header.Set(peerHeader, id.String()) }

// NewServer serves h as the builder is served: HTTP/2 and HTTP/1.1 in TLS.
func NewServer(h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(link.Handler(h))
	s.EnableHTTP2 = true
	s.StartTLS()
	return s
}

// Client sends requests to a test server.
type Client struct {
	Server *httptest.Server
	ID     key.ID
	Secret *ticket.Secret
	// HTTP is used instead of the server's own client, unless nil.
	HTTP *http.Client

	bulk sync.Once
	http *http.Client // for bulk
}

// isBulk reports whether a session sends requests of a path by HTTP/1.1.
func isBulk(path string) bool {
	return strings.Contains(path, "/inputs") || strings.HasPrefix(path, "/v1/cache/")
}

func (c *Client) client(path string) *http.Client {
	if c.HTTP != nil {
		return c.HTTP
	}
	if !isBulk(path) {
		return c.Server.Client()
	}
	c.bulk.Do(func() {
		tr := c.Server.Client().Transport.(*http.Transport).Clone()
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetHTTP1(true)
		tr.TLSClientConfig.NextProtos = nil
		tr.ForceAttemptHTTP2 = false
		c.http = &http.Client{Transport: tr}
	})
	return c.http
}

// Do sends a request and returns the answer, or its error.
func (c *Client) Do(method, path string, body io.Reader, header ...string) (*http.Response, error) {
	h := make(http.Header)
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	resp, err := c.Raw(method, path, body, h)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		defer resp.Body.Close()
		return nil, wire.ReadError(resp)
	}
	return resp, nil
}

// Raw sends a request with who sends it, and returns the answer whatever it says.
func (c *Client) Raw(method, path string, body io.Reader, header http.Header) (*http.Response, error) {
	req, err := http.NewRequest(method, c.Server.URL+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set(wire.HeaderVersion, strconv.Itoa(wire.Version))
	SetPeer(req, c.ID)
	if c.Secret != nil {
		req.Header.Set("Authorization", "Bearer "+c.Secret.Text())
	}
	maps.Copy(req.Header, header)
	return c.client(path).Do(req)
}

// JSON sends in, if not nil, and reads the answer into out.
func (c *Client) JSON(method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	resp, err := c.Do(method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(out)
}

// ID makes a build ID from a number.
func ID(n uint32) wire.BuildID {
	var raw [16]byte
	binary.BigEndian.PutUint32(raw[:], n)
	id, err := wire.NewBuildID(bytes.NewReader(raw[:]))
	if err != nil {
		panic(err)
	}
	return id
}

// Put creates a build.
func (c *Client) Put(id wire.BuildID, req wire.BuildRequest) (b wire.Build, err error) {
	err = c.JSON(http.MethodPut, "/v1/builds/"+string(id), req, &b)
	return b, err
}

// Get asks for a build.
func (c *Client) Get(id wire.BuildID) (b wire.Build, err error) {
	err = c.JSON(http.MethodGet, "/v1/builds/"+string(id), nil, &b)
	return b, err
}

// Cancel deletes a build.
func (c *Client) Cancel(id wire.BuildID) (b wire.Build, err error) {
	err = c.JSON(http.MethodDelete, "/v1/builds/"+string(id), nil, &b)
	return b, err
}

// Frame is an input frame of a NAR.
func Frame(index int, archive []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(index))
	b = binary.BigEndian.AppendUint64(b, uint64(len(archive)))
	return append(b, archive...)
}

// Send uploads frames.
func (c *Client) Send(id wire.BuildID, frames ...[]byte) (b wire.Build, err error) {
	resp, err := c.Do(http.MethodPut, "/v1/builds/"+string(id)+"/inputs", bytes.NewReader(bytes.Join(frames, nil)))
	if err != nil {
		return b, err
	}
	defer resp.Body.Close()
	return b, json.NewDecoder(resp.Body).Decode(&b)
}

// SendWanted uploads what the build wants of the objects: frames, and chunks of
// what is large.
func (c *Client) SendWanted(b wire.Build, objects ...Object) (wire.Build, error) {
	var frames [][]byte
	last := b
	send := func() (err error) {
		if len(frames) > 0 {
			last, err = c.Send(b.ID, frames...)
			frames = nil
		}
		return err
	}
	for _, i := range b.Wanted {
		o := objects[i]
		if o.Info.NarSize < wire.ChunkedInput || o.Info.Path.IsDrv() {
			frames = append(frames, Frame(i, o.Nar))
			continue
		}
		err := send()
		if err == nil {
			last, _, err = c.SendLarge(b.ID, i, o)
		}
		if err != nil {
			return wire.Build{}, err
		}
	}
	return last, send()
}

// Events is an open stream of events.
type Events struct {
	body io.ReadCloser
	r    *bufio.Reader
}

// Events follows a build from event number from on.
func (c *Client) Events(id wire.BuildID, from int64) (*Events, error) {
	resp, err := c.Do(http.MethodGet, "/v1/builds/"+string(id)+"/events?from="+strconv.FormatInt(from, 10), nil)
	if err != nil {
		return nil, err
	}
	return &Events{resp.Body, bufio.NewReaderSize(resp.Body, wire.MaxEventLine)}, nil
}

// Next returns the next event, io.EOF after the last.
func (e *Events) Next() (ev wire.Event, err error) {
	for {
		line, err := e.r.ReadBytes('\n')
		if err != nil {
			return ev, err
		}
		if len(line) > 1 {
			return ev, json.Unmarshal(line, &ev)
		}
	}
}

// Close leaves the stream.
func (e *Events) Close() { e.body.Close() }

// Finish reads to the end and returns the result.
func (e *Events) Finish() (*wire.Result, error) {
	defer e.Close()
	var result *wire.Result
	for {
		ev, err := e.Next()
		if errors.Is(err, io.EOF) && result != nil {
			return result, nil
		}
		if err != nil {
			return nil, err
		}
		if ev.Type == wire.EventFinished {
			result = ev.Result
		}
	}
}
