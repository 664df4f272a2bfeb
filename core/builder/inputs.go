package builder

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// smallNar is the largest NAR that is verified in memory before the daemon
	// sees any of it. Larger ones stream through.
	smallNar = 256 << 10
	// batchBytes and batchPaths bound the small paths that go to the daemon in
	// one operation. One batch is added while the next is read.
	batchBytes = 4 << 20
	batchPaths = 1024
	// inputTimeout is how long the stream of inputs may stall.
	inputTimeout = 60 * time.Second
	// inputDeadlineEvery is how often that deadline is moved.
	inputDeadlineEvery = 5 * time.Second
)

// putInputs takes frames of inputs.
func (s *Service) putInputs(w http.ResponseWriter, r *http.Request, c *caller) error {
	b, err := s.find(r.PathValue("id"), c)
	if err != nil {
		return err
	}
	ctx, done, err := b.beginUpload(r.Context())
	if err != nil {
		return err
	}
	body, err := requestBody(r)
	if err == nil {
		err = b.receive(ctx, newStallReader(w, body))
		_ = body.Close()
	}
	if cause := context.Cause(ctx); err != nil && cause != nil && r.Context().Err() == nil {
		err = cause // why the build or this upload ended, not how reading failed
	}
	done()
	b.touch()
	if err != nil {
		return err
	}
	return writeJSON(w, b.view())
}

var errNewerUpload = wire.Errorf(wire.CodeConflict, "another upload of this build has begun")

// beginUpload makes this the build's only upload: an older one, which may hang
// on a dead connection, is ended first.
func (b *build) beginUpload(parent context.Context) (context.Context, func(), error) {
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(b.ctx, func() { cancel(context.Cause(b.ctx)) })
	mine := &upload{cancel: cancel, done: make(chan struct{})}
	for {
		b.mu.Lock()
		if b.rec.State.Ended() {
			result := b.rec.Result
			b.mu.Unlock()
			stop()
			cancel(nil)
			if result != nil && result.Error != nil {
				return nil, nil, result.Error
			}
			return nil, nil, wire.Errorf(wire.CodeInputUnasked, "the build has ended")
		}
		older := b.upload
		if older == nil {
			b.upload = mine
			b.presence()
			b.mu.Unlock()
			break
		}
		b.mu.Unlock()
		older.cancel(errNewerUpload)
		select {
		case <-older.done:
		case <-ctx.Done():
			stop()
			return nil, nil, context.Cause(ctx)
		}
	}
	return ctx, func() {
		stop()
		cancel(nil)
		b.mu.Lock()
		b.upload = nil
		b.presence()
		b.mu.Unlock()
		close(mine.done)
	}, nil
}

// stallReader moves the connection's read deadline while bytes arrive.
type stallReader struct {
	r    io.Reader
	rc   *http.ResponseController
	next time.Time
}

func newStallReader(w http.ResponseWriter, r io.Reader) io.Reader {
	return &stallReader{r: r, rc: http.NewResponseController(w)}
}

func (s *stallReader) Read(p []byte) (int, error) {
	if now := time.Now(); now.After(s.next) {
		_ = s.rc.SetReadDeadline(now.Add(inputTimeout + inputDeadlineEvery)) // in-memory tests have none
		s.next = now.Add(inputDeadlineEvery)
	}
	return s.r.Read(p)
}

// receive reads frames until the body ends.
func (b *build) receive(ctx context.Context, body io.Reader) error {
	session, err := b.uploadSession(ctx)
	if err != nil {
		return err
	}
	// Closing the session is what ends an operation that waits for us.
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	rx := &receiver{b: b, ctx: ctx, session: session, body: body, last: -1}
	err = rx.frames()
	// What was verified before the failure stays.
	if flushErr := rx.flush(); err == nil || flushErr != nil && wire.CodeOf(err) == "" {
		err = errors.Join(err, flushErr)
	}
	if waitErr := rx.wait(); err == nil {
		err = waitErr
	}
	if rx.broken {
		b.dropSession()
	}
	return err
}

// uploadSession returns the build's session, a new one after the old broke.
func (b *build) uploadSession(ctx context.Context) (Session, error) {
	b.mu.Lock()
	session, cl := b.session, b.closure
	b.mu.Unlock()
	if session != nil || cl == nil {
		return session, nil
	}
	session, err := b.s.cfg.Store.Session(b.s.ctx)
	if err != nil {
		return nil, storeError(err)
	}
	if err := session.AddTempRoots(ctx, cl.paths()); err != nil {
		_ = session.Close()
		return nil, storeError(err)
	}
	b.mu.Lock()
	b.session = session
	b.mu.Unlock()
	return session, nil
}

// receiver reads one request's frames.
type receiver struct {
	b       *build
	ctx     context.Context
	session Session
	body    io.Reader
	last    int // index of the last frame
	broken  bool

	batch   []ImportItem
	indexes []int
	size    int
	adding  chan error // of the batch that is being added
}

func (rx *receiver) frames() error {
	var head [wire.InputFrameHeader]byte
	for {
		if _, err := io.ReadFull(rx.body, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return readFailed(err)
		}
		i := int(binary.BigEndian.Uint32(head[:4]))
		if err := rx.frame(i, binary.BigEndian.Uint64(head[4:])); err != nil {
			return err
		}
	}
}

// readFailed tells a client that is still there what was wrong with its body.
func readFailed(err error) error {
	if wire.CodeOf(err) != "" {
		return err
	}
	return fmt.Errorf("%w: %w", badRequest("the inputs break off: %s", clipText(err.Error())), err)
}

func (rx *receiver) frame(i int, size uint64) error {
	info, err := rx.expect(i, size)
	if err != nil {
		return err
	}
	rx.last = i
	if err := rx.b.s.enoughDisk(size); err != nil {
		return err
	}
	if info.Path.IsDrv() {
		if size > maxDerivation {
			return wire.Errorf(wire.CodeInputDerivation, "%s has %d bytes; at most %d", info.Path, size, maxDerivation)
		}
		return rx.small(i, info, true)
	}
	if size <= smallNar {
		return rx.small(i, info, false)
	}
	return rx.large(i, info)
}

// expect checks a frame's head against what was asked for.
func (rx *receiver) expect(i int, size uint64) (nix.PathInfo, error) {
	b := rx.b
	b.mu.Lock()
	defer b.mu.Unlock()
	cl := b.closure
	if cl == nil || i < 0 || i >= len(cl.infos) || !b.wanted[i] {
		return nix.PathInfo{}, wire.Errorf(wire.CodeInputUnasked, "entry %d of the closure", i)
	}
	info := cl.infos[i]
	switch {
	case i <= rx.last:
		return info, wire.Errorf(wire.CodeInputReferences, "%s comes out of order", info.Path)
	case size != info.NarSize:
		return info, wire.Errorf(wire.CodeInputSize, "%s: %d bytes stated, %d are to be sent", info.Path, info.NarSize, size)
	}
	if most := b.limits.MaxUploadBytes; most > 0 && b.sent+uint64(rx.size)+size > uint64(most) {
		return info, uploadLimit(b.sent+uint64(rx.size)+size, most)
	}
	for _, ref := range info.References {
		if k := cl.index[ref]; k != i && b.wanted[k] {
			return info, wire.Errorf(wire.CodeInputReferences, "%s came before %s, which it refers to", info.Path, ref)
		}
	}
	return info, nil
}

// small verifies a NAR in memory and puts it into the batch.
func (rx *receiver) small(i int, info nix.PathInfo, drv bool) error {
	data := bytes.NewBuffer(make([]byte, 0, min(info.NarSize, smallNar)))
	if _, err := io.CopyN(data, rx.body, int64(info.NarSize)); err != nil {
		return readFailed(err)
	}
	v, err := newVerifier(info)
	if err == nil {
		if _, err = v.Write(data.Bytes()); err == nil {
			err = v.Close()
		}
	}
	if err != nil {
		return inputError(info.Path, err)
	}
	if drv {
		if err := rx.derivation(info, v.Contents()); err != nil {
			return err
		}
	}
	rx.batch = append(rx.batch, ImportItem{Info: info, Nar: data})
	rx.indexes = append(rx.indexes, i)
	rx.b.pending(i)
	if rx.size += data.Len(); rx.size >= batchBytes || len(rx.batch) >= batchPaths {
		return rx.flush()
	}
	return nil
}

// derivation checks that a .drv is one, and that its references are its inputs,
// which Nix takes for granted when it looks for what a build needs.
func (rx *receiver) derivation(info nix.PathInfo, text []byte) error {
	d, err := nix.ParseDerivation(info.Path.Name(), text)
	if err != nil {
		return wire.Errorf(wire.CodeInputDerivation, "%s: %s", info.Path, clipText(err.Error()))
	}
	if !slices.Equal(d.References(), info.References) {
		return wire.Errorf(wire.CodeInputDerivation, "%s: its references are not its inputs", info.Path)
	}
	p, err := plan(info.Path, d)
	if err != nil {
		return err
	}
	rx.b.notePlanned(p)
	return nil
}

// flush hands the batch to the daemon, once the one before is in.
func (rx *receiver) flush() error {
	if len(rx.batch) == 0 {
		return nil
	}
	batch, indexes := rx.batch, rx.indexes
	rx.batch, rx.indexes, rx.size = nil, nil, 0
	if err := rx.wait(); err != nil {
		rx.b.settled(indexes, false)
		return err
	}
	adding := make(chan error, 1)
	rx.adding = adding
	go func() {
		err := rx.session.Import(rx.ctx, batch)
		rx.b.settled(indexes, err == nil)
		adding <- err
	}()
	return nil
}

// wait waits for the batch that is being added.
func (rx *receiver) wait() error {
	if rx.adding == nil {
		return nil
	}
	err := <-rx.adding
	rx.adding = nil
	return rx.importError(err)
}

func (rx *receiver) importError(err error) error {
	if err == nil {
		return nil
	}
	rx.broken = true
	return storeError(err)
}

// large streams a NAR through verification into the daemon.
func (rx *receiver) large(i int, info nix.PathInfo) error {
	if err := rx.flush(); err != nil {
		return err
	}
	if err := rx.wait(); err != nil {
		return err
	}
	v, err := newVerifier(info)
	if err != nil {
		return inputError(info.Path, err)
	}
	vr := &verifyingReader{r: rx.body, v: v, left: info.NarSize, path: info.Path}
	err = rx.session.Import(rx.ctx, []ImportItem{{Info: info, Nar: vr}})
	rx.b.settled([]int{i}, err == nil)
	if vr.err != nil {
		rx.broken = true
		return vr.err
	}
	return rx.importError(err)
}

// verifyingReader feeds what passes through it to a verifier. It reports
// io.EOF only when the verifier has accepted the whole; until then the daemon
// is not given the NAR's last bytes (see Session.Import).
type verifyingReader struct {
	r    io.Reader
	v    *nix.CAVerifier
	left uint64
	path nix.Path
	err  error // what was wrong, for the client
	done bool
}

func (r *verifyingReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		if !r.done {
			r.done = true
			if err := r.v.Close(); err != nil {
				r.err = inputError(r.path, err)
				return 0, r.err
			}
		}
		return 0, io.EOF
	}
	n, err := r.r.Read(p[:min(uint64(len(p)), r.left)])
	r.left -= uint64(n)
	if _, verr := r.v.Write(p[:n]); verr != nil {
		r.err = inputError(r.path, verr)
		return 0, r.err
	}
	if err != nil && (r.left > 0 || !errors.Is(err, io.EOF)) {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		r.err = readFailed(err)
		return n, r.err
	}
	return n, nil
}

// newVerifier makes the verifier of a content-addressed path, or of one whose
// signature was found good, which vouches for its NAR hash.
func newVerifier(info nix.PathInfo) (*nix.CAVerifier, error) {
	if info.CA == "" {
		return nix.NewNarVerifier(info)
	}
	return nix.NewCAVerifier(info)
}

func inputError(path nix.Path, err error) error {
	code := wire.CodeInputNar
	switch {
	case errors.Is(err, nix.ErrNarSize):
		code = wire.CodeInputSize
	case errors.Is(err, nix.ErrNarHash):
		code = wire.CodeInputHash
	case errors.Is(err, nix.ErrContentAddress):
		code = wire.CodeInputAddress
	}
	return wire.Errorf(code, "%s: %s", path, clipText(err.Error()))
}

// pending takes an input that was verified off the wanted ones, so that what
// refers to it may follow.
func (b *build) pending(i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.wanted, i)
}

// settled notes that inputs were added, or wants them again.
func (b *build) settled(indexes []int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closure == nil {
		return // ended meanwhile
	}
	for _, i := range indexes {
		if !ok {
			b.wanted[i] = true
			continue
		}
		delete(b.wanted, i)
		info := &b.closure.infos[i]
		b.sent += info.NarSize
		if info.CA != "" {
			b.s.hashes.add(info.Path, info.NarHash)
		}
		if b.toAdd--; b.toAdd == 0 {
			close(b.complete)
		}
	}
}
