//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// An impostor is a builder that has an honest one do its work and lies about
// it: it ends the client's sessions with a key of its own, which its ticket
// names, and passes requests on with a real ticket.
type impostor struct {
	honest  *peer
	ticket  string
	tamper  func(*exchange) bool
	mu      sync.Mutex
	circuit map[net.Conn]bool
}

// newImpostor starts one. tamper is asked about every request and says whether
// it has answered; those that it has not are passed on.
func newImpostor(t *testing.T, honest *peer, tamper func(*exchange) bool) *impostor {
	t.Helper()
	im := &impostor{honest: honest, tamper: tamper, circuit: make(map[net.Conn]bool)}
	id := someKey(t)
	listener, err := link.Listen(link.ListenConfig{Identity: id, Relays: honest.ticket.Relays})
	if err != nil {
		t.Fatal(err)
	}
	server, err := link.NewServer(id, http.HandlerFunc(im.serve), nil)
	if err != nil {
		t.Fatal(err)
	}
	server.ConnState = func(c net.Conn, s http.ConnState) {
		im.mu.Lock()
		defer im.mu.Unlock()
		if s == http.StateClosed {
			delete(im.circuit, c)
		} else {
			im.circuit[c] = true
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ServeTLS(listener, "", "") // ends with Close
	}()
	t.Cleanup(func() {
		server.Close()
		listener.Close()
		<-done
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := listener.Registered(ctx); err != nil {
		t.Fatal(err)
	}
	im.ticket = ticketFor(id.ID(), honest.ticket.Relays)
	return im
}

func ticketFor(builder key.ID, relays []string) string {
	return ticket.Ticket{Builder: builder, Secret: ticket.Secret(builder), Relays: relays}.String()
}

// drop closes every connection, as a cut cable does.
func (im *impostor) drop() {
	im.mu.Lock()
	defer im.mu.Unlock()
	for c := range im.circuit {
		c.Close()
	}
}

func (im *impostor) serve(w http.ResponseWriter, r *http.Request) {
	x := &exchange{ResponseWriter: w, im: im, r: r}
	if im.tamper == nil || !im.tamper(x) {
		x.pass()
	}
}

// An exchange is a request and the answer that it is to get.
type exchange struct {
	http.ResponseWriter
	im *impostor
	r  *http.Request
}

// The routes, as tests name them.
const (
	onInfo      = "info"
	onPlan      = "plan"
	onBuild     = "build"
	onInputs    = "inputs"
	onSending   = "manifest or chunks of an input"
	onEvents    = "events"
	onClosure   = "closure"
	onManifests = "manifests"
	onChunks    = "chunks"
	onPath      = "path"
	onCancel    = "cancel"
)

// route names the request's route.
func (x *exchange) route() string {
	last := x.r.URL.Path[strings.LastIndexByte(x.r.URL.Path, '/')+1:]
	switch {
	case x.r.Method == http.MethodDelete:
		return onCancel
	case strings.Contains(x.r.URL.Path, "/inputs/"):
		return onSending
	case last == onInfo, last == onPlan, last == onInputs, last == onEvents, last == onClosure, last == onManifests, last == onChunks, last == onPath:
		return last
	}
	return onBuild
}

// ask passes the request on and returns the honest answer.
func (x *exchange) ask() *http.Response {
	req := x.im.honest.request(x.r.Context(), x.r.Method, x.r.URL.RequestURI(), x.r.Body)
	for name, values := range x.r.Header {
		if name != "Authorization" {
			req.Header[name] = values
		}
	}
	req.ContentLength = x.r.ContentLength
	lane := x.im.honest.session.Control()
	if r := x.route(); r == onInputs || r == onSending || r == onManifests || r == onChunks {
		lane = x.im.honest.session.Bulk()
	}
	resp, err := lane.RoundTrip(req)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return resp
}

// pass gives the client the honest answer.
func (x *exchange) pass() {
	resp := x.ask()
	defer resp.Body.Close()
	x.begin(resp)
	if err := x.copy(resp.Body, func([]byte) {}); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// begin sends the honest answer's status and headers.
func (x *exchange) begin(resp *http.Response) {
	for name, values := range resp.Header {
		if name != "Content-Length" { // of what is changed, perhaps
			x.Header()[name] = values
		}
	}
	x.WriteHeader(resp.StatusCode)
	x.flush()
}

func (x *exchange) flush() { _ = http.NewResponseController(x).Flush() }

// copy sends what comes as it comes.
func (x *exchange) copy(r io.Reader, edit func([]byte)) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			edit(buf[:n])
			if _, err := x.Write(buf[:n]); err != nil {
				return err
			}
			x.flush()
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// json answers with a document.
func (x *exchange) json(v any) {
	x.Header().Set("Content-Type", wire.TypeJSON)
	_ = json.NewEncoder(x).Encode(v) // the client may be gone
}

// line sends an event.
func (x *exchange) line(e *wire.Event) {
	_ = json.NewEncoder(x).Encode(e) // the client may be gone
	x.flush()
}

// text answers with anything.
func (x *exchange) text(status int, contentType, body string) {
	x.Header().Set("Content-Type", contentType)
	x.WriteHeader(status)
	_, _ = io.WriteString(x, body)
}

// stall sends nothing more for as long as the client waits.
func (x *exchange) stall() {
	x.flush()
	<-x.r.Context().Done()
}

// edit changes a JSON answer of a type.
func edit[T any](x *exchange, change func(*T)) bool {
	resp := x.ask()
	defer resp.Body.Close()
	var v T
	if resp.StatusCode != http.StatusOK {
		x.begin(resp)
		_ = x.copy(resp.Body, func([]byte) {}) // the client may be gone
		return true
	}
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		panic(http.ErrAbortHandler)
	}
	change(&v)
	x.json(&v)
	return true
}

// infos changes the closure's path infos, and signs them anew unless key is nil.
func infos(x *exchange, key *nix.SecretKey, change func([]nix.PathInfo) []nix.PathInfo) bool {
	return edit(x, func(c *wire.Closure) {
		var list []nix.PathInfo
		for _, text := range c.NarInfos {
			info, err := nix.ParseNarInfo([]byte(text))
			if err != nil {
				panic(err)
			}
			list = append(list, info)
		}
		c.NarInfos = nil
		for _, info := range change(list) {
			if key != nil {
				info.Sigs = []string{info.Sign(*key)}
			}
			c.NarInfos = append(c.NarInfos, string(info.MarshalNarInfo()))
		}
	})
}

// events changes the events of a build, line by line; nil leaves one out.
func events(x *exchange, change func(*wire.Event) *wire.Event) bool {
	resp := x.ask()
	defer resp.Body.Close()
	x.begin(resp)
	dec := json.NewDecoder(resp.Body)
	for {
		var e wire.Event
		if err := dec.Decode(&e); err != nil {
			return true
		}
		if changed := change(&e); changed != nil {
			x.line(changed)
		}
	}
}

// document reads the request's document, which can be passed on all the same.
func (x *exchange) document(v any) {
	body, err := io.ReadAll(x.r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	x.r.Body = io.NopCloser(bytes.NewReader(body))
	if err := json.Unmarshal(body, v); err != nil {
		panic(err)
	}
}

// chunks changes the answer with chunks: frame is called for each and sends it,
// or something else; it returns false to end the answer.
func chunks(x *exchange, frame func(f chunkFrame) bool) bool {
	var req wire.ChunksRequest
	x.document(&req)
	resp := x.ask()
	// All impostors share the honest builder's few circuits for bulk.
	honest, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	body := bytes.NewReader(honest)
	x.begin(resp)
	for _, n := range req.Nars {
		for _, r := range n.Chunks {
			for i := r[0]; i < r[0]+r[1]; i++ {
				f := chunkFrame{x: x, ordinal: int(i)}
				if _, err := io.ReadFull(body, f.head[:]); err != nil {
					return true
				}
				// The highest bit tells that it is compressed.
				f.payload = make([]byte, binary.BigEndian.Uint32(f.head[:])&(1<<31-1))
				if _, err := io.ReadFull(body, f.payload); err != nil {
					return true
				}
				if !frame(f) {
					return true
				}
			}
		}
	}
	return true
}

// chunkFrame is one chunk of an answer.
type chunkFrame struct {
	x       *exchange
	ordinal int // in its NAR's manifest
	head    [4]byte
	payload []byte
}

func (f chunkFrame) pass() bool {
	_, err := f.x.Write(append(f.head[:], f.payload...))
	return err == nil
}

// A forger makes up whole NARs, manifests and all. It learns their sizes from
// the closure.
type forger struct {
	nar func(size int) []byte
	// extra is by how many bytes what it makes up is too long.
	extra int

	mu   sync.Mutex
	nars map[string][][]byte // chunks, by NAR hash
}

func (f *forger) tamper(x *exchange) bool {
	switch x.route() {
	case onClosure:
		return infos(x, nil, func(list []nix.PathInfo) []nix.PathInfo {
			for _, info := range list {
				f.forge(info)
			}
			return list
		})
	case onManifests:
		var req wire.ManifestsRequest
		x.document(&req)
		for _, hash := range req.Nars {
			m := chunk.Manifest{}
			for _, data := range f.chunks(hash) {
				m.Chunks = append(m.Chunks, chunk.Chunk{ID: chunk.Sum(data), Size: uint32(len(data)), Offset: m.Size})
				m.Size += int64(len(data))
			}
			_, _ = x.Write([]byte{wire.ManifestFollows})
			_ = m.Write(x) // the client may be gone
		}
		return true
	case onChunks:
		var req wire.ChunksRequest
		x.document(&req)
		for _, n := range req.Nars {
			for _, r := range n.Chunks {
				for i := r[0]; i < r[0]+r[1]; i++ {
					_, _ = x.Write(chunk.AppendFrame(nil, f.chunks(n.NarHash)[i], false)) // the client may be gone
				}
			}
		}
		return true
	}
	return false
}

func (f *forger) chunks(hash string) [][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nars[hash]
}

func (f *forger) forge(info nix.PathInfo) {
	size := int(info.NarSize) + f.extra
	data := append(f.nar(size), make([]byte, size)...)[:size]
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.nars == nil {
		f.nars = make(map[string][][]byte)
	}
	f.nars[info.NarHash.Nix32()] = slices.Collect(slices.Chunk(data, 64<<10))
}
