package builder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/drv-thru/drv-thru/core/wire"
)

// documentTimeout bounds how long a client may take to send a document.
const documentTimeout = 2 * time.Minute

// readJSON reads a request's document of at most limit bytes, and no more of all
// documents together than the budget allows. Without an error, the document counts
// until done is called: what waits for its turn has it in memory.
func (s *Service) readJSON(w http.ResponseWriter, r *http.Request, c *caller, v any, limit int64) (done func(), err error) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(documentTimeout))
	body, err := s.requestBody(r, c)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	bytes := &budgetReader{r: body, budget: &s.documents, group: c.group()}
	defer func() {
		if err != nil {
			bytes.release()
		}
	}()
	limited := &io.LimitedReader{R: bytes, N: limit + 1}
	switch v := v.(type) {
	case *wire.BuildRequest:
		err = decodeBuildRequest(limited, v)
	case *wire.PlanRequest:
		var b wire.BuildRequest
		err = decodeBuildRequest(limited, &b)
		v.Roots, v.Closure = b.Roots, b.Closure
	default:
		dec := json.NewDecoder(limited)
		if err = dec.Decode(v); err == nil {
			err = end(dec)
		}
	}
	switch {
	case wire.CodeOf(err) != "":
		return nil, err
	case limited.N <= 0:
		return nil, wire.Errorf(wire.CodeTooLarge, "the document is larger than %d bytes", limit)
	case err != nil:
		return nil, badRequest("document: %s", clipText(err.Error()))
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	bytes.trim()
	return bytes.release, nil
}

func end(dec *json.Decoder) error {
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows the document")
	}
	return nil
}

// decodeBuildRequest reads a BuildRequest or PlanRequest element by element:
// "{}," becomes forty times as much memory, so what is too much must be
// noticed as it comes and not when all of it is there.
func decodeBuildRequest(r io.Reader, req *wire.BuildRequest) error {
	d := &documentReader{stretch: &stretchReader{r: r, left: wire.MaxElement}}
	d.dec = json.NewDecoder(d.stretch)
	if err := d.delim('{'); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for d.dec.More() {
		key, err := d.token()
		if err != nil {
			return err
		}
		name, _ := key.(string)
		if seen[name] {
			return fmt.Errorf("%.40q stands twice", name)
		}
		switch name {
		case "roots":
			err = d.list(func() error { return d.root(req) })
		case "closure":
			err = d.list(func() error { return d.input(req) })
		case "mode":
			err = d.value(&req.Mode)
		case "keep_going":
			err = d.value(&req.KeepGoing)
		case "detach":
			err = d.value(&req.Detach)
		default:
			if len(seen) == wire.MaxFields {
				return wire.Errorf(wire.CodeTooLarge, "more than %d fields", wire.MaxFields)
			}
			var ignored json.RawMessage
			err = d.value(&ignored)
		}
		if err != nil {
			return err
		}
		seen[name] = true
	}
	if err := d.delim('}'); err != nil {
		return err
	}
	return end(d.dec)
}

// documentReader reads one value after another, none longer than wire.MaxElement.
type documentReader struct {
	dec        *json.Decoder
	stretch    *stretchReader
	references int
	rootBytes  int // what roots take
}

func (d *documentReader) root(req *wire.BuildRequest) error {
	var root wire.Root
	if err := d.value(&root); err != nil {
		return err
	}
	if len(req.Roots) == wire.MaxRoots {
		return wire.Errorf(wire.CodeTooLarge, "more than %d roots", wire.MaxRoots)
	}
	if len(root.Outputs) > maxOutputs {
		return wire.Errorf(wire.CodeTooLarge, "%d outputs of one root asked for; at most %d", len(root.Outputs), maxOutputs)
	}
	d.rootBytes += len(root.Drv) + len(root.Label)
	for _, o := range root.Outputs {
		d.rootBytes += stringBytes + len(o)
	}
	if d.rootBytes > maxRootBytes {
		return wire.Errorf(wire.CodeTooLarge, "the roots and their outputs have more than %d bytes", maxRootBytes)
	}
	req.Roots = append(req.Roots, root)
	return nil
}

func (d *documentReader) input(req *wire.BuildRequest) error {
	var in wire.Input
	if err := d.value(&in); err != nil {
		return err
	}
	d.references += len(in.References)
	switch {
	case len(req.Closure) == wire.MaxClosurePaths:
		return wire.Errorf(wire.CodeTooLarge, "more than %d paths", wire.MaxClosurePaths)
	case len(in.References) > wire.MaxReferences:
		return wire.Errorf(wire.CodeTooLarge, "%.120q has %d references; at most %d", in.Path, len(in.References), wire.MaxReferences)
	case d.references > maxAllReferences:
		return wire.Errorf(wire.CodeTooLarge, "more than %d references", maxAllReferences)
	case len(in.Sigs) > maxInputSigs:
		return wire.Errorf(wire.CodeTooLarge, "%.120q has %d signatures; at most %d", in.Path, len(in.Sigs), maxInputSigs)
	}
	req.Closure = append(req.Closure, in)
	return nil
}

// value decodes the next value.
func (d *documentReader) value(v any) error {
	d.stretch.left = wire.MaxElement
	return d.dec.Decode(v)
}

func (d *documentReader) token() (json.Token, error) {
	d.stretch.left = wire.MaxElement
	return d.dec.Token()
}

func (d *documentReader) delim(want json.Delim) error {
	t, err := d.token()
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("expected %v, not %.40v", want, t)
	}
	return nil
}

// list reads an array, or null for an empty one.
func (d *documentReader) list(element func() error) error {
	t, err := d.token()
	if err != nil || t == nil {
		return err
	}
	if t != json.Delim('[') {
		return fmt.Errorf("expected a list, not %.40v", t)
	}
	for d.dec.More() {
		if err := element(); err != nil {
			return err
		}
	}
	return d.delim(']')
}

// stretchReader refuses to read much more than left bytes before left is set
// again: the decoder keeps the whole of a value in memory.
type stretchReader struct {
	r    io.Reader
	left int
}

func (s *stretchReader) Read(p []byte) (int, error) {
	if s.left <= 0 {
		return 0, wire.Errorf(wire.CodeTooLarge, "one part of the document is larger than %d bytes", wire.MaxElement)
	}
	n, err := s.r.Read(p)
	s.left -= n
	return n, err
}

// budget bounds what all requests together use of something, and what those of
// one ticket or trusted client do: one that sends slowly must not keep the
// others waiting. Nor must several: who has something already leaves the last
// newcomers-th part to those who have nothing.
type budget struct {
	most, share int64

	mu    sync.Mutex
	taken int64
	by    map[string]int64
}

const newcomers = 8

func (b *budget) take(group string, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.room(group) < n {
		return false
	}
	if b.by == nil {
		b.by = make(map[string]int64)
	}
	b.taken += n
	b.by[group] += n
	return true
}

// room is how much more a group may take now. b.mu is held.
func (b *budget) room(group string) int64 {
	left, has := b.most-b.taken, b.by[group]
	if has > 0 {
		left -= b.most / newcomers
	}
	return min(left, b.share-has)
}

func (b *budget) release(group string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken -= n
	if b.by[group] -= n; b.by[group] <= 0 {
		delete(b.by, group)
	}
}

// of returns what a group has, and how much more it may take now.
func (b *budget) of(group string) (has, room int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.by[group], b.room(group)
}

var errBusy = wire.Errorf(wire.CodeRate, "the builder is reading too many large requests").WithHint("try again in a moment")

// budgetReader takes from the budget what passes through it, and refuses to go
// on when the budget is spent.
type budgetReader struct {
	r      io.Reader
	budget *budget
	group  string
	taken  int64
	left   int64
}

const budgetStep = 256 << 10

func (b *budgetReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		if !b.budget.take(b.group, budgetStep) {
			return 0, errBusy
		}
		b.taken += budgetStep
		b.left += budgetStep
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

func (b *budgetReader) release() { b.budget.release(b.group, b.taken) }

// trim gives back what was taken beyond what was read.
func (b *budgetReader) trim() {
	b.budget.release(b.group, b.left)
	b.taken, b.left = b.taken-b.left, 0
}

// zstdWindow bounds what decompression may keep in memory, by and large: the
// first byte of a stream can ask for all of it.
const zstdWindow = 8 << 20

// requestBody returns the body, decompressed.
func (s *Service) requestBody(r *http.Request, c *caller) (io.ReadCloser, error) {
	switch r.Header.Get("Content-Encoding") {
	case "", "identity":
		return io.NopCloser(r.Body), nil
	case "zstd":
		group := c.group()
		if !s.decoders.take(group, 1) {
			return nil, errBusy
		}
		d, err := zstd.NewReader(r.Body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderMaxMemory(2*zstdWindow))
		if err != nil {
			s.decoders.release(group, 1)
			return nil, fmt.Errorf("open zstd stream: %w", err)
		}
		return &unpacked{d, func() { s.decoders.release(group, 1) }}, nil
	}
	return nil, badRequest("content encoding %.40q; zstd or none can be read", r.Header.Get("Content-Encoding"))
}

// unpacked is a decompressed body. It is closed once.
type unpacked struct {
	*zstd.Decoder
	release func()
}

func (u *unpacked) Close() error {
	u.Decoder.Close()
	u.release()
	return nil
}
