package builder

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// maxInVain is how many bytes of chunks a build with an upload limit may send
// beyond it although they were there: what is under way when a connection ends,
// a few times over.
const maxInVain = 64 << 20

const (
	// maxTurns bounds the requests with manifests and chunks that are read at
	// once, each with 600 KiB of buffers, in all and for a ticket or trusted
	// client. A client has four or so for each build.
	maxTurns   = 128
	turnsShare = 32
	turnWait   = 10 * time.Second
)

// largeInput is a request about an input that comes in chunks.
type largeInput struct {
	b    *build
	c    *caller
	i    int
	info nix.PathInfo
}

// largeInput finds the input of a request.
func (s *Service) largeInput(r *http.Request, c *caller) (*largeInput, error) {
	b, err := s.find(r.Context(), r.PathValue("id"), c)
	if err != nil {
		return nil, err
	}
	i, err := strconv.Atoi(r.PathValue("index"))
	if err != nil {
		return nil, badRequest("%.40q is no index", r.PathValue("index"))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.rec.State.Ended() && b.rec.Result != nil && b.rec.Result.Error != nil:
		return nil, b.rec.Result.Error
	case b.closure == nil || !b.wanted[i]:
		return nil, wire.Errorf(wire.CodeInputUnasked, "entry %d of the closure", i)
	}
	info := b.closure.infos[i]
	if !isChunked(&info) {
		return nil, wire.Errorf(wire.CodeInputSize, "%s is too small, or a derivation: it comes in a frame", info.Path)
	}
	return &largeInput{b, c, i, info}, nil
}

func isChunked(info *nix.PathInfo) bool {
	return info.NarSize >= wire.ChunkedInput && !info.Path.IsDrv()
}

// during runs a request's work: the client counts as being there, and the end of
// the build ends it. The body is read with a deadline that moves.
func (in *largeInput) during(w http.ResponseWriter, r *http.Request, work func(ctx context.Context, body io.Reader) error) error {
	b := in.b
	// What reads from its client, perhaps slowly, takes memory and a file.
	if r.Method == http.MethodPut {
		wait, cancel := context.WithTimeout(r.Context(), turnWait)
		defer cancel()
		if !b.s.turns.enter(wait, b.place.group) {
			return errBusy
		}
		defer b.s.turns.leave(b.place.group)
	}
	if !b.attend(1) {
		return wire.Errorf(wire.CodeRate, "%d requests of this build at once", maxReaders).WithHint("try again in a moment")
	}
	defer b.attend(-1)
	b.mu.Lock()
	b.sending(1)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.sending(-1)
	}()
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(b.ctx, func() { cancel(context.Cause(b.ctx)) })()
	return reading(ctx, w, r, func(body *stallReader) error { return work(ctx, body) })
}

// putManifest takes an input's manifest and answers with what is missing.
func (s *Service) putManifest(w http.ResponseWriter, r *http.Request, c *caller) error {
	in, err := s.largeInput(r, c)
	if err != nil {
		return err
	}
	if r.Header.Get("Content-Encoding") != "" {
		return badRequest("a manifest is sent as it is, not with content encoding %.40q", r.Header.Get("Content-Encoding"))
	}
	var answer wire.MissingChunks
	err = in.during(w, r, func(ctx context.Context, body io.Reader) error {
		if err := in.fits(); err != nil {
			return err
		}
		a, err := s.incoming.begin(ctx, in.sender(), &in.info, body, s.cfg.Store)
		if err != nil {
			return err
		}
		answer.Missing = a.missing()
		return in.b.hold(in.i, a)
	})
	if err != nil {
		return err
	}
	return s.writeJSON(w, c, &answer)
}

func (in *largeInput) sender() sender {
	return sender{client: in.c.client, ticket: in.b.rec.Ticket, group: in.b.place.group}
}

// fits holds what has come, what is on its way and this against the limit.
func (in *largeInput) fits() error {
	b := in.b
	b.mu.Lock()
	defer b.mu.Unlock()
	sum := b.sent + in.info.NarSize
	for i, a := range b.intakes {
		if i != in.i {
			sum += a.info.NarSize
		}
	}
	if most := b.limits.MaxUploadBytes; most > 0 && sum > uint64(most) {
		return uploadLimit(sum, most)
	}
	return nil
}

// hold keeps the intake for the build, which releases it at its end.
func (b *build) hold(i int, a *intake) error {
	b.mu.Lock()
	old := b.intakes[i]
	over := b.closure == nil
	switch {
	case over:
		old = a
	default:
		if b.intakes == nil {
			b.intakes = make(map[int]*intake)
		}
		b.intakes[i] = a
	}
	b.mu.Unlock()
	if old != nil {
		old.release()
	}
	if over {
		return wire.Errorf(wire.CodeInputUnasked, "the build has all its inputs, or has ended")
	}
	return nil
}

// held returns the intake of an input, with a use of its own.
func (in *largeInput) held() (*intake, error) {
	b := in.b
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.intakes[in.i]
	if a == nil {
		return nil, errIncomplete(in.info.Path)
	}
	a.retain()
	return a, nil
}

// dropIntakes releases what is on its way. It stays on the disk.
func (b *build) dropIntakes() {
	b.mu.Lock()
	all := b.intakes
	b.intakes = nil
	b.mu.Unlock()
	for _, a := range all {
		a.release()
	}
}

func (b *build) dropIntake(i int, a *intake) {
	b.mu.Lock()
	held := b.intakes[i] == a
	if held {
		delete(b.intakes, i)
	}
	b.mu.Unlock()
	if held {
		a.release()
	}
}

// putChunks takes chunks of an input.
func (s *Service) putChunks(w http.ResponseWriter, r *http.Request, c *caller) error {
	in, err := s.largeInput(r, c)
	if err != nil {
		return err
	}
	a, err := in.held()
	if err != nil {
		return err
	}
	defer a.release()
	err = in.during(w, r, func(ctx context.Context, body io.Reader) error {
		to, err := a.writer()
		if err != nil {
			return err
		}
		defer to.Close()
		return in.receive(ctx, to, body)
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// receive reads numbered chunk frames until the body ends.
func (in *largeInput) receive(ctx context.Context, to *writer, body io.Reader) error {
	list := to.a.list
	r := bufio.NewReaderSize(body, 128<<10)
	frames := chunk.NewFrameReader(r)
	buf := chunkBuffers.Get().(*chunkBuffer)
	defer chunkBuffers.Put(buf)
	var head [wire.ChunkOrdinal]byte
	for sum := 0; ; {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return readFailed(err)
		}
		i := int(binary.BigEndian.Uint32(head[:]))
		if i >= len(list.ids) {
			return wire.Errorf(wire.CodeInputChunk, "%s has %d chunks, none of number %d", in.info.Path, len(list.ids), i)
		}
		_, size := list.span(i)
		if sum += size; sum > wire.MaxInputChunkBytes {
			return wire.Errorf(wire.CodeTooLarge, "more than %d bytes of chunks in one request", wire.MaxInputChunkBytes)
		}
		p, err := frames.Next(buf[:0], uint32(size))
		switch {
		case errors.Is(err, chunk.ErrFrame) || errors.Is(err, chunk.ErrUnavailable):
			return wire.Errorf(wire.CodeInputChunk, "chunk %d of %s: %s", i, in.info.Path, clipText(err.Error()))
		case err != nil:
			return readFailed(noEOF(err))
		case chunk.Sum(p) != list.ids[i]:
			return wire.Errorf(wire.CodeInputChunk, "chunk %d of %s has other contents", i, in.info.Path)
		}
		missed, err := to.keep(ctx, list.ids[i], p)
		if err == nil && !missed {
			err = in.inVain(size)
		}
		if err != nil {
			return err
		}
	}
}

// noEOF makes the end of a body within a frame what it is.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// inVain counts what was sent although it was there: requests that overlap do
// that, but no limit is to be got around with it.
func (in *largeInput) inVain(n int) error {
	b := in.b
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inVain += uint64(n)
	if most := b.limits.MaxUploadBytes; most > 0 && b.inVain > uint64(most)+maxInVain {
		return wire.Errorf(wire.CodeUploadLimit, "%d bytes were sent again that were here, %s of inputs are allowed", b.inVain, most)
	}
	return nil
}

// postInput verifies an input and adds it to the store. When the connection ends
// before the answer the request comes again, perhaps while the first one still
// adds the input, and is answered as that would have been.
func (s *Service) postInput(w http.ResponseWriter, r *http.Request, c *caller) error {
	b, err := s.find(r.Context(), r.PathValue("id"), c)
	if err != nil {
		return err
	}
	if err := s.endInput(w, r, c); err != nil && !b.took(r.Context(), r.PathValue("index"), err) {
		return err
	}
	return s.writeJSON(w, c, b.view())
}

func (s *Service) endInput(w http.ResponseWriter, r *http.Request, c *caller) error {
	in, err := s.largeInput(r, c)
	if err != nil {
		return err
	}
	a, err := in.held()
	if err != nil {
		return err
	}
	defer a.release()
	return in.during(w, r, func(ctx context.Context, _ io.Reader) error {
		return in.finish(ctx, a)
	})
}

// took tells whether an input that cannot be ended, as err says, was taken
// before. A request that is adding it is waited for.
func (b *build) took(ctx context.Context, index string, err error) bool {
	switch wire.CodeOf(err) {
	case wire.CodeInputUnasked, wire.CodeInputIncomplete:
	default:
		return false
	}
	_, done, err := b.beginUpload(ctx, false)
	if err != nil {
		return false
	}
	defer done()
	i, err := strconv.Atoi(index)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err != nil || i < 0 || b.wanted[i]:
		return false
	case b.closure == nil: // it has all of them
		return true
	}
	return i < len(b.closure.infos) && isChunked(&b.closure.infos[i])
}

// finish adds an input to the store once it is verified. Additions of a build
// come one after another, as they share a connection.
func (in *largeInput) finish(ctx context.Context, a *intake) error {
	b := in.b
	ctx, done, err := b.beginUpload(ctx, false)
	if err != nil {
		return err
	}
	defer done()
	if err := a.lock(ctx); err != nil {
		return err
	}
	defer a.unlock()
	spool, err := a.complete()
	if err != nil {
		return err
	}
	session, err := b.uploadSession(ctx)
	if err != nil {
		_ = spool.Close()
		return err
	}
	rx := &receiver{b: b, ctx: ctx, session: session, last: -1}
	err = rx.end(rx.whole(in.i, in.info.NarSize, spool))
	switch {
	case err == nil:
		b.dropIntake(in.i, a)
		return a.end(true)
	case isLie(err):
		// All chunks are what the manifest says: it is the manifest of another
		// NAR. Whoever made that may not go on for nothing.
		b.dropIntake(in.i, a)
		b.cancel(err)
		return errors.Join(err, a.end(false))
	}
	return err
}

// isLie tells errors of what was sent from those of whoever takes it.
func isLie(err error) bool {
	switch wire.CodeOf(err) {
	case wire.CodeInputNar, wire.CodeInputSize, wire.CodeInputHash, wire.CodeInputAddress:
		return true
	}
	return false
}

// whole verifies an input that is in a file and puts it into the batch.
func (rx *receiver) whole(i int, size uint64, file *os.File) error {
	info, err := rx.expect(i, size)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	held := &holding{file: file, giveBack: func() {}}
	return rx.take(i, info, held, held)
}
