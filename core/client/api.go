package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// ErrConnection is wrapped by every failure of the transport, as opposed to an
// answer of the builder: repeating the request may help.
var ErrConnection = errors.New("connection to the builder failed")

// ErrProtocol is wrapped when the builder answers something that the protocol
// does not allow. Repeating the request does not help.
var ErrProtocol = errors.New("the builder broke the protocol")

func protocolErrorf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrProtocol}, args...)...)
}

// API makes the requests of the protocol to one builder, each once.
type API struct {
	// Control carries small requests and the events, Bulk what is large. They
	// may be the same.
	Control, Bulk http.RoundTripper
	// Base is the URL that requests go to, with a slash at its end.
	Base string
	// Ticket pays for builds; nil for a trusted client.
	Ticket *ticket.Secret
	// Agent names the program and its release to the builder.
	Agent string
}

// request makes a request with the headers that every request has.
func (a *API) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.Base+path, body)
	if err != nil {
		return nil, err
	}
	req.Header = a.Header()
	return req, nil
}

// Header returns what every request carries.
func (a *API) Header() http.Header {
	h := make(http.Header)
	h.Set(wire.HeaderVersion, strconv.Itoa(wire.Version))
	if a.Agent != "" {
		h.Set(wire.HeaderAgent, a.Agent)
	}
	if a.Ticket != nil {
		h.Set("Authorization", "Bearer "+a.Ticket.Text())
	}
	return h
}

// do sends a request and turns a problem document into an error.
func (a *API) do(rt http.RoundTripper, req *http.Request) (*http.Response, error) {
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, transportError(req.Context(), err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		if resp.StatusCode < 400 {
			return nil, protocolErrorf("it answered %s", resp.Status)
		}
		return nil, wire.ReadError(resp)
	}
	return resp, nil
}

// transportError says that err is the transport's and not the caller's doing.
func transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, wire.CodeVersion.Err()) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrConnection, err)
}

// read has the answer of a request read, at most limit bytes of it. What GET asks
// for takes the builder no time, so that one that does not tell it has gone silent.
func (a *API) read(req *http.Request, limit int64, fn func(*json.Decoder, *answerReader) error) error {
	pace := io.Discard
	if req.Method == http.MethodGet {
		ctx, watchdog, end := whileHeard(req.Context(), answerTime)
		defer end()
		req, pace = req.WithContext(ctx), &pacer{watchdog: watchdog}
	}
	resp, err := a.do(a.Control, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return decodeWith(req.Context(), io.TeeReader(resp.Body, pace), limit, fn)
}

const (
	// answerTime is what the beginning of an answer, and then each answerBytes of
	// it, may take.
	answerTime  = time.Minute
	answerBytes = 64 << 10
)

// pacer gives an answer more time as it comes.
type pacer struct {
	watchdog *time.Timer
	bytes    int
}

func (p *pacer) Write(b []byte) (int, error) {
	if p.bytes += len(b); p.bytes >= answerBytes {
		p.bytes = 0
		p.watchdog.Reset(answerTime)
	}
	return len(b), nil
}

// Info asks what the builder is; it also checks the ticket without spending it. For
// who comes back to a build, the ticket that has paid for it need not pay for another.
func (a *API) Info(ctx context.Context, build wire.BuildID) (wire.Info, error) {
	var out wire.Info
	path := "v1/info"
	if build != "" {
		path += "?build=" + url.QueryEscape(string(build))
	}
	req, err := a.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return out, err
	}
	return out, a.read(req, wire.MaxDocument, func(dec *json.Decoder, _ *answerReader) error { return dec.Decode(&out) })
}

// Plan asks what a build would move.
func (a *API) Plan(ctx context.Context, plan *wire.PlanRequest) (wire.Plan, error) {
	var out wire.Plan
	body, err := json.Marshal(plan)
	if err != nil {
		return out, err
	}
	req, err := a.document(ctx, http.MethodPost, "v1/plan", body)
	if err != nil {
		return out, err
	}
	paths := len(plan.Closure)
	err = a.read(req, buildLimit(paths), func(dec *json.Decoder, src *answerReader) error { return decodePlan(dec, src, &out, paths) })
	if err != nil {
		return out, err
	}
	return out, checkWanted(out.Wanted, paths)
}

// compressFrom is the size from which a document is worth compressing.
const compressFrom = 16 << 10

// document makes a request with a JSON body, compressed when it is large.
func (a *API) document(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	packed := len(body) >= compressFrom
	if packed {
		body = compress(body)
	}
	req, err := a.request(ctx, method, path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", wire.TypeJSON)
	if packed {
		req.Header.Set("Content-Encoding", "zstd")
	}
	return req, nil
}

// PutBuild creates a build or attaches to it. doc is the encoded
// [wire.BuildRequest], paths the length of its closure.
func (a *API) PutBuild(ctx context.Context, id wire.BuildID, doc []byte, paths int) (wire.Build, error) {
	req, err := a.document(ctx, http.MethodPut, "v1/builds/"+string(id), doc)
	if err != nil {
		return wire.Build{}, err
	}
	return a.build(req, id, paths)
}

// GetBuild asks for a build's state. paths is the length of its closure.
func (a *API) GetBuild(ctx context.Context, id wire.BuildID, paths int) (wire.Build, error) {
	req, err := a.request(ctx, http.MethodGet, "v1/builds/"+string(id), nil)
	if err != nil {
		return wire.Build{}, err
	}
	return a.build(req, id, paths)
}

// Cancel ends a build.
func (a *API) Cancel(ctx context.Context, id wire.BuildID) (wire.Build, error) {
	req, err := a.request(ctx, http.MethodDelete, "v1/builds/"+string(id), nil)
	if err != nil {
		return wire.Build{}, err
	}
	return a.build(req, id, wire.MaxClosurePaths)
}

func (a *API) build(req *http.Request, id wire.BuildID, paths int) (wire.Build, error) {
	var out wire.Build
	err := a.read(req, buildLimit(paths), func(dec *json.Decoder, src *answerReader) error { return decodeBuild(dec, src, &out, paths) })
	if err != nil {
		return out, err
	}
	return out, checkBuild(&out, id, paths)
}

func checkBuild(b *wire.Build, id wire.BuildID, paths int) error {
	if b.ID != id {
		return protocolErrorf("it answered about build %.40q, asked was %s", string(b.ID), id)
	}
	if b.LastEvent < 0 || b.Position < 0 {
		return protocolErrorf("a build's counters are negative")
	}
	return checkWanted(b.Wanted, paths)
}

// checkWanted makes sure that what the builder wants was offered to it.
func checkWanted(wanted []int, paths int) error {
	last := -1
	for _, i := range wanted {
		if i <= last || i >= paths {
			return protocolErrorf("it wants path number %d after %d, of %d", i, last, paths)
		}
		last = i
	}
	return nil
}

// Inputs sends input frames, compressed.
func (a *API) Inputs(ctx context.Context, id wire.BuildID, body io.ReadCloser, paths int) (wire.Build, error) {
	var out wire.Build
	req, err := a.request(ctx, http.MethodPut, "v1/builds/"+string(id)+"/inputs", body)
	if err != nil {
		_ = body.Close()
		return out, err
	}
	req.Header.Set("Content-Type", wire.TypeFrames)
	req.Header.Set("Content-Encoding", "zstd")
	resp, err := a.do(a.Bulk, req)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	err = decodeWith(ctx, resp.Body, buildLimit(paths), func(dec *json.Decoder, src *answerReader) error { return decodeBuild(dec, src, &out, paths) })
	if err != nil {
		return out, err
	}
	return out, checkBuild(&out, id, paths)
}

func inputPath(id wire.BuildID, index int) string {
	return "v1/builds/" + string(id) + "/inputs/" + strconv.Itoa(index)
}

// PutManifest states the chunks of an input, and returns the ranges of those that
// the builder lacks: first ordinal and count.
func (a *API) PutManifest(ctx context.Context, id wire.BuildID, index int, manifest []byte, chunks int) ([][2]int, error) {
	req, err := a.request(ctx, http.MethodPut, inputPath(id, index)+"/manifest", bytes.NewReader(manifest))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", wire.TypeFrames)
	resp, err := a.do(a.Bulk, req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var out wire.MissingChunks
	if err := decode(ctx, resp.Body, wire.MaxMissingChunks, &out); err != nil {
		return nil, err
	}
	next := 0
	for _, r := range out.Missing {
		if r[0] < next || r[1] < 1 || r[0] >= chunks || r[1] > chunks-r[0] {
			return nil, protocolErrorf("it wants %d chunks from number %d on, of %d", r[1], r[0], chunks)
		}
		next = r[0] + r[1]
	}
	return out.Missing, nil
}

// PutChunks sends numbered chunk frames of an input.
func (a *API) PutChunks(ctx context.Context, id wire.BuildID, index int, body io.ReadCloser) error {
	req, err := a.request(ctx, http.MethodPut, inputPath(id, index)+"/chunks", body)
	if err != nil {
		_ = body.Close()
		return err
	}
	req.Header.Set("Content-Type", wire.TypeFrames)
	resp, err := a.do(a.Bulk, req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// FinishInput has the builder verify an input that it has all chunks of, and take
// it.
func (a *API) FinishInput(ctx context.Context, id wire.BuildID, index, paths int) (wire.Build, error) {
	req, err := a.request(ctx, http.MethodPost, inputPath(id, index), nil)
	if err != nil {
		return wire.Build{}, err
	}
	return a.build(req, id, paths)
}

// Events opens a build's events from number from on. The caller closes it.
func (a *API) Events(ctx context.Context, id wire.BuildID, from int64) (io.ReadCloser, error) {
	req, err := a.request(ctx, http.MethodGet, "v1/builds/"+string(id)+"/events?from="+strconv.FormatInt(from, 10), nil)
	if err != nil {
		return nil, err
	}
	resp, err := a.do(a.Control, req)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Closure asks for the closure of a finished build's outputs, unchecked; see
// [CheckOutputs].
func (a *API) Closure(ctx context.Context, id wire.BuildID) (wire.Closure, error) {
	var out wire.Closure
	req, err := a.request(ctx, http.MethodGet, "v1/cache/closure?build="+url.QueryEscape(string(id)), nil)
	if err != nil {
		return out, err
	}
	return out, a.read(req, wire.MaxClosureDocument, func(dec *json.Decoder, src *answerReader) error { return decodeClosure(dec, src, &out) })
}
