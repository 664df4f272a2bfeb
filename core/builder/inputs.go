package builder

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// inputTimeout is how long the stream of inputs may stall.
	inputTimeout = 60 * time.Second
	// inputDeadlineEvery is how often that deadline is moved.
	inputDeadlineEvery = 5 * time.Second
	// inputsLate is how long nothing need be sent at all: twice as long as a client
	// tries to get a lost connection back.
	inputsLate = 10 * time.Minute
	// slowDisk is what a client reads of an input in a second, at least.
	slowDisk = 4 << 20
)

// putInputs takes frames of inputs.
func (s *Service) putInputs(w http.ResponseWriter, r *http.Request, c *caller) error {
	b, err := s.find(r.Context(), r.PathValue("id"), c)
	if err != nil {
		return err
	}
	ctx, done, err := b.beginUpload(r.Context(), true)
	if err != nil {
		return err
	}
	err = reading(ctx, w, r, func(stalls *stallReader) error {
		body, err := s.requestBody(r, c)
		if err != nil {
			return err
		}
		defer body.Close()
		stalls.r = body
		return b.receive(ctx, stalls)
	})
	done()
	b.touch()
	if err != nil {
		return err
	}
	return s.writeJSON(w, c, b.view())
}

var errNewerUpload = wire.Errorf(wire.CodeConflict, "another upload of this build has begun")

// endedError tells whoever brings inputs of a build that has ended how it did.
func endedError(result *wire.Result) *wire.Error {
	if result != nil && result.Error != nil {
		return result.Error
	}
	return wire.Errorf(wire.CodeInputUnasked, "the build has ended")
}

// beginUpload makes this the build's only request that adds inputs. An older one
// that reads from its client, and so may hang on a dead connection, is ended
// first; another is waited for.
func (b *build) beginUpload(parent context.Context, reads bool) (context.Context, func(), error) {
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(b.ctx, func() { cancel(context.Cause(b.ctx)) })
	mine := &upload{cancel: cancel, done: make(chan struct{}), reads: reads}
	for {
		b.mu.Lock()
		if b.rec.State.Ended() {
			result := b.rec.Result
			b.mu.Unlock()
			stop()
			cancel(nil)
			return nil, nil, endedError(result)
		}
		older := b.upload
		if older == nil {
			b.upload = mine
			b.presence()
			b.sending(1)
			b.mu.Unlock()
			break
		}
		b.mu.Unlock()
		if older.reads {
			older.cancel(errNewerUpload)
		}
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
		b.sending(-1)
		b.mu.Unlock()
		close(mine.done)
	}, nil
}

// sending notes that a request that brings inputs has begun (1) or ended (-1). While
// there is none and inputs are wanted, their time runs. b.mu is held.
func (b *build) sending(delta int) {
	b.senders += delta
	switch {
	case b.senders > 0 || b.toAdd == 0 || b.rec.State.Ended():
		if b.late != nil {
			b.late.Stop()
		}
	case b.late == nil:
		b.late = time.AfterFunc(b.lateAfter, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.senders == 0 && b.toAdd > 0 {
				b.cancel(wire.Errorf(wire.CodeInputStalled, "none came for %s", ticket.Duration(b.lateAfter)).
					WithHint("run the same command again: what has come is kept"))
			}
		})
	default:
		b.late.Reset(b.lateAfter)
	}
}

// lateAfter is how long a build waits for the next of its inputs: besides inputsLate what a
// slow disk takes for the largest, which its client reads whole before it sends any of it.
func lateAfter(cl *closure, wanted []int) time.Duration {
	var most uint64
	for _, i := range wanted {
		most = max(most, cl.infos[i].NarSize)
	}
	return inputsLate + time.Duration(min(most, wire.MaxInputChunks*chunk.MaxSize)/slowDisk)*time.Second
}

// reading runs what reads a request's body, with a deadline that moves. The end of
// ctx ends it.
func reading(ctx context.Context, w http.ResponseWriter, r *http.Request, work func(*stallReader) error) error {
	stalls := newStallReader(w, r)
	stop := context.AfterFunc(ctx, stalls.abort)
	err := work(stalls)
	stop()
	stalls.finish()
	// A deadline that passes also cancels the request, where that is HTTP/1.1's.
	if cause := context.Cause(ctx); err != nil && cause != nil && cause != context.Cause(r.Context()) {
		return cause // why the build or this upload ended, not how reading failed
	}
	return err
}

// stallReader moves the stream's read deadline while bytes arrive. After the
// body's end there is none: net/http goes on reading an HTTP/1.1 connection, and
// takes an error for the client's end.
type stallReader struct {
	r  io.Reader
	rc *http.ResponseController

	mu   sync.Mutex
	next time.Time
	over bool // the deadline is not moved any more
}

// newStallReader reads a request's body, or what its user makes of it in place of r.
func newStallReader(w http.ResponseWriter, r *http.Request) *stallReader {
	s := &stallReader{rc: http.NewResponseController(w)}
	r.Body = &endingBody{r.Body, s}
	s.r = r.Body
	return s
}

// endingBody tells a stallReader when a body has ended.
type endingBody struct {
	io.ReadCloser
	s *stallReader
}

func (b *endingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.s.ended()
	}
	return n, err
}

func (s *stallReader) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.over = true
		_ = s.rc.SetReadDeadline(time.Time{})
	}
}

func (s *stallReader) Read(p []byte) (int, error) {
	s.mu.Lock()
	if now := time.Now(); now.After(s.next) && !s.over {
		_ = s.rc.SetReadDeadline(now.Add(inputTimeout + inputDeadlineEvery)) // not every server has deadlines
		s.next = now.Add(inputDeadlineEvery)
	}
	s.mu.Unlock()
	return s.r.Read(p)
}

// abort wakes a Read that waits for the client.
func (s *stallReader) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.over = true
		_ = s.rc.SetReadDeadline(time.Unix(1, 0))
	}
}

// finish makes a late abort do nothing: net/http panics when a deadline is set
// after the handler has returned.
func (s *stallReader) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}

// receive reads frames until the body ends.
func (b *build) receive(ctx context.Context, body io.Reader) error {
	session, err := b.uploadSession(ctx)
	if err != nil {
		return err
	}
	rx := &receiver{b: b, ctx: ctx, session: session, body: body, last: -1}
	return rx.end(rx.frames())
}

// uploadSession returns the build's session, a new one after the old broke.
func (b *build) uploadSession(ctx context.Context) (Session, error) {
	b.mu.Lock()
	session, cl := b.session, b.closure
	b.mu.Unlock()
	if session != nil {
		return session, nil
	}
	if cl == nil {
		return nil, wire.Errorf(wire.CodeInputUnasked, "the build has all its inputs")
	}
	session, err := b.s.inputSession(ctx, b.place.group)
	if err != nil {
		return nil, err
	}
	if err := b.reroot(ctx, session, cl); err != nil {
		_ = session.Close()
		return nil, err
	}
	b.mu.Lock()
	b.session = session
	b.mu.Unlock()
	return session, nil
}

// reroot roots the closure again, and wants again what was collected while it
// had no roots.
func (b *build) reroot(ctx context.Context, session Session, cl *closure) error {
	if err := session.AddTempRoots(ctx, cl.paths()); err != nil {
		return storeError(err)
	}
	valid, err := b.s.cfg.Store.ValidPaths(ctx, cl.paths(), false)
	if err != nil {
		return storeError(err)
	}
	there := make([]bool, len(cl.infos))
	for _, p := range valid {
		if i, ok := cl.index[p]; ok {
			there[i] = true
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range there {
		if !there[i] && !b.wanted[i] && b.toAdd > 0 {
			b.wanted[i] = true
			b.toAdd++
		}
	}
	return nil
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
			b.s.hashes.Put(info.Path, info.NarHash)
		}
		if b.toAdd--; b.toAdd == 0 {
			close(b.complete)
		}
	}
}
