package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/nar"
	"github.com/drv-thru/drv-thru/core/wire"
)

// errWire is what a broken connection looks like.
var errWire = errors.New("connection reset")

// transport calls a handler in memory. Each request may be cut by the test.
type transport struct {
	handler http.Handler

	mu sync.Mutex
	// cut decides about a request, the n-th of its kind ("PUT inputs"): the
	// answer is lost (before it begins), or the body after some bytes.
	cut func(kind string, n int) *cut
	// seen counts the requests by kind.
	seen map[string]int
	// log is what was requested, in order.
	log []string
	// carried is how many bytes of inputs have arrived.
	carried atomic.Int64
}

type cut struct {
	refuse    bool  // the request does not arrive
	why       error // with refuse; nil: errWire
	loseReply bool  // it arrives, the answer does not
	sendBytes int64 // the request's body breaks after so many bytes; 0: no
	readBytes int64 // the answer's body breaks after so many bytes; 0: no
}

func kind(r *http.Request) string {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	last := parts[len(parts)-1]
	if len(last) == 26 {
		last = "build"
	} else if _, err := strconv.Atoi(last); err == nil {
		last = "input"
	}
	return r.Method + " " + last
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	k := kind(req)
	t.mu.Lock()
	if t.seen == nil {
		t.seen = make(map[string]int)
	}
	t.seen[k]++
	t.log = append(t.log, req.Method+" "+req.URL.RequestURI())
	c := &cut{}
	if t.cut != nil {
		if got := t.cut(k, t.seen[k]); got != nil {
			c = got
		}
	}
	t.mu.Unlock()
	closeBody := func() {
		if req.Body != nil {
			_ = req.Body.Close()
		}
	}
	if c.refuse {
		closeBody()
		return nil, cmp.Or(c.why, errWire)
	}
	ctx, cancel := context.WithCancel(req.Context())
	in := req.Clone(ctx)
	if req.Body == nil {
		in.Body = http.NoBody
	} else if c.sendBytes > 0 {
		in.Body = io.NopCloser(&breaking{r: req.Body, left: c.sendBytes})
	}
	if slices.Contains([]string{"PUT inputs", "PUT manifest", "PUT chunks"}, k) {
		in.Body = io.NopCloser(io.TeeReader(in.Body, counter{&t.carried}))
	}
	pr, pw := io.Pipe()
	w := &responseWriter{header: make(http.Header), body: pw, ready: make(chan struct{})}
	go func() {
		t.handler.ServeHTTP(w, in)
		w.WriteHeader(http.StatusOK)
		_ = pw.Close()
	}()
	stop := context.AfterFunc(ctx, func() { _ = pr.CloseWithError(ctx.Err()) })
	fail := func(err error) (*http.Response, error) {
		_ = pr.CloseWithError(err)
		cancel()
		stop()
		closeBody()
		return nil, err
	}
	select {
	case <-w.ready:
	case <-ctx.Done():
		return fail(ctx.Err())
	}
	if c.loseReply || c.sendBytes > 0 {
		return fail(errWire)
	}
	var body io.Reader = pr
	if c.readBytes > 0 {
		body = &breaking{r: pr, left: c.readBytes}
	}
	closeBody()
	return &http.Response{
		StatusCode: w.status, Status: strconv.Itoa(w.status) + " " + http.StatusText(w.status),
		Header: w.header, Request: req,
		Body: readCloser{body, func() error { cancel(); stop(); return pr.Close() }},
	}, nil
}

func (t *transport) count(kind string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen[kind]
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

type readCloser struct {
	io.Reader
	close func() error
}

func (r readCloser) Close() error { return r.close() }

type breaking struct {
	r    io.Reader
	left int64
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errWire
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

type responseWriter struct {
	header http.Header
	status int
	once   sync.Once
	body   io.Writer
	ready  chan struct{}
}

func (w *responseWriter) Header() http.Header { return w.header }
func (w *responseWriter) WriteHeader(status int) {
	w.once.Do(func() { w.status = status; close(w.ready) })
}
func (w *responseWriter) Flush() {}
func (w *responseWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// builder is a builder that keeps the protocol's promises, as far as a client
// can see them.
type builder struct {
	t *testing.T

	mu      sync.Mutex
	id      wire.BuildID
	request wire.BuildRequest
	created int
	has     map[int][]byte // NARs that arrived
	coming  map[int]*coming
	wasted  int // chunks that came although they were there
	already map[string]bool
	events  []wire.Event
	changed chan struct{}
	cancels int
	// onComplete is called once everything wanted is there; it sends the events.
	onComplete func(b *builder)
	completed  bool
	// override answers a request instead, if it returns true.
	override func(w http.ResponseWriter, r *http.Request) bool
}

func newBuilder(t *testing.T) *builder {
	return &builder{t: t, has: make(map[int][]byte), coming: make(map[int]*coming), already: make(map[string]bool), changed: make(chan struct{}),
		onComplete: func(b *builder) { b.finish(nil) }}
}

// emit appends an event. The caller holds mu.
func (b *builder) emit(e wire.Event) {
	e.Seq = int64(len(b.events)) + 1
	b.events = append(b.events, e)
	close(b.changed)
	b.changed = make(chan struct{})
}

// finish ends the build with the outputs that its roots' names suggest.
func (b *builder) finish(err *wire.Error) {
	res := &wire.Result{Error: err}
	if err == nil {
		for _, r := range b.request.Roots {
			for _, o := range r.Outputs {
				res.Outputs = append(res.Outputs, wire.Output{Drv: r.Drv, Name: o, Path: string(outPath(nix.Path(r.Drv), o))})
			}
		}
	}
	b.emit(wire.Event{Type: wire.EventFinished, Result: res})
}

func outPath(drv nix.Path, output string) nix.Path {
	return nix.Path(nix.StoreDir + "/" + drv.Hash() + "-" + outputName(drv, output))
}

func (b *builder) wanted() []int {
	var out []int
	for i := range b.request.Closure {
		if _, ok := b.has[i]; !ok && !b.already[b.request.Closure[i].Path] {
			out = append(out, i)
		}
	}
	return out
}

func (b *builder) build() wire.Build {
	out := wire.Build{ID: b.id, State: wire.StateUploading, KeepGoing: b.request.KeepGoing, Wanted: b.wanted(), LastEvent: int64(len(b.events))}
	if len(out.Wanted) == 0 {
		out.State = wire.StateBuilding
		if !b.completed {
			b.completed = true
			b.onComplete(b)
			out.LastEvent = int64(len(b.events))
		}
	}
	return out
}

func (b *builder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get(wire.HeaderVersion) != "1" {
		b.t.Errorf("%s %s without a version", r.Method, r.URL)
	}
	if b.override != nil && b.override(w, r) {
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT "+wire.RouteBuild, b.put)
	mux.HandleFunc("GET "+wire.RouteBuild, func(w http.ResponseWriter, _ *http.Request) {
		b.mu.Lock()
		doc := b.build()
		b.mu.Unlock()
		answer(w, doc)
	})
	mux.HandleFunc("DELETE "+wire.RouteBuild, func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.cancels++
		answer(w, wire.Build{ID: wire.BuildID(r.PathValue("id")), State: wire.StateCancelled})
	})
	mux.HandleFunc("PUT "+wire.RouteInputs, b.inputs)
	mux.HandleFunc("PUT "+wire.RouteInputManifest, b.manifest)
	mux.HandleFunc("PUT "+wire.RouteInputChunks, b.chunks)
	mux.HandleFunc("POST "+wire.RouteInput, b.end)
	mux.HandleFunc("GET "+wire.RouteEvents, b.follow)
	mux.ServeHTTP(w, r)
}

func answer(w http.ResponseWriter, doc any) {
	w.Header().Set("Content-Type", wire.TypeJSON)
	_ = json.NewEncoder(w).Encode(doc)
}

func unpack(r *http.Request) io.Reader {
	if r.Header.Get("Content-Encoding") != "zstd" {
		return r.Body
	}
	d, err := zstd.NewReader(r.Body, zstd.WithDecoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	return d
}

func (b *builder) put(w http.ResponseWriter, r *http.Request) {
	var req wire.BuildRequest
	if err := json.NewDecoder(unpack(r)).Decode(&req); err != nil {
		wire.WriteError(w, wire.Errorf(wire.CodeBadRequest, "%v", err))
		return
	}
	b.mu.Lock()
	if b.id == "" {
		b.id, b.request = wire.BuildID(r.PathValue("id")), req
		b.created++
	}
	doc := b.build()
	b.mu.Unlock()
	answer(w, doc)
}

func (b *builder) inputs(w http.ResponseWriter, r *http.Request) {
	body := unpack(r)
	for {
		var head [wire.InputFrameHeader]byte
		if _, err := io.ReadFull(body, head[:]); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			wire.WriteError(w, wire.Errorf(wire.CodeBadRequest, "%v", err))
			return
		}
		i, size := int(binary.BigEndian.Uint32(head[:])), binary.BigEndian.Uint64(head[4:])
		if size >= wire.ChunkedInput && !nix.Path(b.request.Closure[i].Path).IsDrv() {
			wire.WriteError(w, wire.Errorf(wire.CodeInputSize, "%d", size))
			return
		}
		nar := make([]byte, size)
		if _, err := io.ReadFull(body, nar); err != nil {
			wire.WriteError(w, wire.Errorf(wire.CodeInputSize, "%v", err))
			return
		}
		b.mu.Lock()
		if err := b.take(i, nar); err != nil {
			b.mu.Unlock()
			wire.WriteError(w, err)
			return
		}
		b.mu.Unlock()
	}
	b.mu.Lock()
	doc := b.build()
	b.mu.Unlock()
	answer(w, doc)
}

// take stores a NAR as a builder would: asked for, in order, with the right hash.
func (b *builder) take(i int, nar []byte) error {
	if !slices.Contains(b.wanted(), i) {
		return wire.Errorf(wire.CodeInputUnasked, "%d", i)
	}
	in := b.request.Closure[i]
	if sum := nix.SumHash(nar); sum.Nix32() != in.NarHash || uint64(len(nar)) != in.NarSize {
		return wire.Errorf(wire.CodeInputHash, "%s", in.Path)
	}
	for _, ref := range in.References {
		if _, ok := b.has[ref]; ref != i && !ok && !b.already[b.request.Closure[ref].Path] {
			return wire.Errorf(wire.CodeInputReferences, "%s before %d", in.Path, ref)
		}
	}
	b.has[i] = nar
	return nil
}

func (b *builder) follow(w http.ResponseWriter, r *http.Request) {
	from, err := strconv.ParseInt(r.URL.Query().Get("from"), 10, 64)
	if err != nil || from < 1 {
		b.t.Errorf("events from %q", r.URL.Query().Get("from"))
	}
	w.WriteHeader(http.StatusOK)
	for next := int(from) - 1; ; {
		b.mu.Lock()
		pending, changed := b.events[min(next, len(b.events)):], b.changed
		b.mu.Unlock()
		for _, e := range pending {
			line, _ := json.Marshal(e)
			if _, err := w.Write(append(line, '\n')); err != nil {
				return
			}
			if next++; e.Type == wire.EventFinished {
				return
			}
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		case <-time.After(wire.EventKeepalive):
			if _, err := w.Write([]byte{'\n'}); err != nil {
				return
			}
		}
	}
}

// store is a local store in memory.
type store struct {
	files map[nix.Path][]byte // contents of single-file paths
	refs  map[nix.Path][]nix.Path
	valid map[nix.Path]bool
	subst map[nix.Path]bool
	fail  error         // of Substitute
	slow  time.Duration // of Substitutable
	asked []nix.Path    // of ValidPaths
}

func newStore() *store {
	return &store{files: make(map[nix.Path][]byte), refs: make(map[nix.Path][]nix.Path),
		valid: make(map[nix.Path]bool), subst: make(map[nix.Path]bool)}
}

// source adds a file as a source.
func (s *store) source(name string, contents []byte) nix.Path {
	sum, _ := nar.HashFile(contents, false)
	p, err := nix.PathFromCA(name, nix.CA{Method: nix.CANar, Algo: nix.SHA256, Digest: sum[:]}, nil, false)
	if err != nil {
		panic(err)
	}
	s.files[p] = contents
	return p
}

// drv adds a derivation.
func (s *store) drv(name string, inputs []nix.Path, srcs ...nix.Path) nix.Path {
	quoted := func(ps []nix.Path) string {
		ps = nix.SortedPaths(slices.Clone(ps))
		texts := make([]string, len(ps))
		for i, p := range ps {
			texts[i] = strconv.Quote(string(p))
		}
		return strings.Join(texts, ",")
	}
	var ins []string
	for _, in := range nix.SortedPaths(slices.Clone(inputs)) {
		ins = append(ins, fmt.Sprintf(`("%s",["out"])`, in))
	}
	out := nix.StoreDir + "/" + strings.Repeat("a", 32) + "-" + name
	text := fmt.Sprintf(`Derive([("out","%s","","")],[%s],[%s],"x86_64-linux","/bin/sh",[],[("name","%s"),("out","%s")])`,
		out, strings.Join(ins, ","), quoted(srcs), name, out)
	info, err := nix.TextInfo(name+".drv", []byte(text), append(slices.Clone(inputs), srcs...))
	if err != nil {
		panic(err)
	}
	s.files[info.Path] = []byte(text)
	return info.Path
}

func (s *store) PathInfos(_ context.Context, paths []nix.Path) (map[nix.Path]nix.PathInfo, error) {
	out := make(map[nix.Path]nix.PathInfo)
	for _, p := range paths {
		if contents, ok := s.files[p]; ok {
			sum, size := nar.HashFile(contents, false)
			out[p] = nix.PathInfo{Path: p, NarHash: sum, NarSize: uint64(size), References: s.refs[p],
				CA: nix.CA{Method: nix.CANar, Algo: nix.SHA256, Digest: sum[:]}.String()}
		}
	}
	return out, nil
}

func (s *store) ValidPaths(_ context.Context, paths []nix.Path) ([]nix.Path, error) {
	s.asked = append(s.asked, paths...)
	return slices.DeleteFunc(slices.Clone(paths), func(p nix.Path) bool { return !s.valid[p] }), nil
}

func (s *store) Substitutable(_ context.Context, paths []nix.Path) ([]nix.Path, error) {
	time.Sleep(s.slow)
	return slices.DeleteFunc(slices.Clone(paths), func(p nix.Path) bool { return !s.subst[p] }), nil
}

func (s *store) Substitute(_ context.Context, paths []nix.Path) error {
	if s.fail != nil {
		return s.fail
	}
	for _, p := range paths {
		s.valid[p] = true
	}
	return nil
}

func (s *store) ReadDrv(p nix.Path) ([]byte, error) {
	if b, ok := s.files[p]; ok {
		return b, nil
	}
	return nil, os.ErrNotExist
}

func (s *store) OpenNar(_ context.Context, p nix.Path) (Nar, error) {
	contents, ok := s.files[p]
	if !ok {
		return nil, os.ErrNotExist
	}
	var w bytes.Buffer
	if err := nar.WriteFile(&w, contents, false); err != nil {
		return nil, err
	}
	return memoryNar(w.Bytes()), nil
}

type memoryNar []byte

func (m memoryNar) Size() int64  { return int64(len(m)) }
func (m memoryNar) Close() error { return nil }
func (m memoryNar) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, m[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// recorder is an observer.
type recorder struct {
	mu     sync.Mutex
	events []wire.Event
	notes  []string
	last   Transfer
}

func (r *recorder) Event(e *wire.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, *e)
}

func (r *recorder) Transfer(t Transfer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = t
}

func (r *recorder) Note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, text)
}

// rig is a session with a builder in memory.
type rig struct {
	*Session
	store   *store
	builder *builder
	wire    *transport
	seen    *recorder
	request *Request
}

const testID = wire.BuildID("aaaaaaaaaaaaaaaaaaaaaaaaaa")

// largeBytes of a source are sent in chunks.
const largeBytes = wire.ChunkedInput + 1000

// noise does not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// newRig makes one that is to build a small graph with sources small and large.
func newRig(t *testing.T) *rig {
	t.Helper()
	s := newStore()
	small := s.source("small", []byte("hello"))
	large := s.source("large", noise(largeBytes))
	low := s.drv("low", nil, small)
	mid := s.drv("mid", []nix.Path{low}, large)
	top := s.drv("top", []nix.Path{low, mid}, small)
	b := newBuilder(t)
	tr := &transport{handler: b}
	seen := &recorder{}
	sess := &Session{
		API:   &API{Control: tr, Bulk: tr, Base: "https://builder/"},
		Files: s, Observer: seen, Retry: DefaultRetry, Now: time.Now,
	}
	in, err := Collect(t.Context(), s, s, []nix.Path{top})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{sess, s, b, tr, seen, &Request{
		ID: testID, Inputs: in,
		Roots: []wire.Root{{Drv: string(top), Outputs: []string{"out"}}},
	}}
}

// sortedKeys returns a map's keys in order.
func sortedKeys[M ~map[K]V, K ~string | ~int, V any](m M) []K { return slices.Sorted(maps.Keys(m)) }
