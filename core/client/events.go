package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
)

// errStalled means that a builder told nothing where it has to.
var errStalled = errors.New("the builder went silent")

// whileHeard returns a context that ends with errStalled, as for a lost connection,
// when its timer was not reset for so long. end stops both.
func whileHeard(ctx context.Context, silence time.Duration) (_ context.Context, watchdog *time.Timer, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	watchdog = time.AfterFunc(silence, func() { cancel(fmt.Errorf("%w: %w", ErrConnection, errStalled)) })
	return ctx, watchdog, func() {
		watchdog.Stop()
		cancel(nil)
	}
}

// stallAfter is when a silent events stream is given up: three keep-alives missed.
const stallAfter = 3 * wire.EventKeepalive

// followOn is follow over lost connections.
func (s *Session) followOn(ctx context.Context, id wire.BuildID, last, until int64) (int64, *wire.Result, error) {
	p := patience{s: s}
	for {
		var result *wire.Result
		var err error
		last, result, err = s.follow(ctx, id, last, until, p.over)
		if err == nil && result == nil && until == 0 {
			result, err = s.result(ctx, id)
			return last, result, err
		}
		if err == nil || !mayPass(err) {
			return last, result, err
		}
		if err := p.wait(ctx, err); err != nil {
			return last, nil, err
		}
		if last, result = s.overtaken(ctx, id, last); result != nil {
			return last, result, nil
		}
	}
}

// result asks for the result of a build whose last event has none, as it is too long.
func (s *Session) result(ctx context.Context, id wire.BuildID) (*wire.Result, error) {
	build, err := s.State(ctx, id)
	if err == nil && build.Result == nil {
		err = protocolErrorf("a build has ended without a result")
	}
	return build.Result, err
}

// overtaken asks how a build is whose events broke off after number last. A builder
// whose machine went down may have lost its newest events, and gives their numbers to
// others; one whose disk was full has no last event, but the result.
func (s *Session) overtaken(ctx context.Context, id wire.BuildID, last int64) (int64, *wire.Result) {
	build, err := s.API.GetBuild(ctx, id, wire.MaxClosurePaths)
	if err != nil || build.State == wire.StateInterrupted {
		return last, nil // the events will tell
	}
	if build.State.Ended() && build.LastEvent <= last {
		return build.LastEvent, build.Result
	}
	return min(last, build.LastEvent), nil
}

// follow reads events after number last until the last one, or that of number
// until unless it is 0, handing each on once and in order. It returns the number
// of the last event seen, and the result when that was the final one and has it.
func (s *Session) follow(ctx context.Context, id wire.BuildID, last, until int64, opened func()) (int64, *wire.Result, error) {
	// The stream is silent for a keep-alive interval at most; a dead path that
	// nobody has noticed yet is silent for good.
	ctx, watchdog, end := whileHeard(ctx, stallAfter)
	defer end()
	body, err := s.API.Events(ctx, id, last+1)
	if err != nil {
		return last, nil, err
	}
	defer body.Close()
	opened()
	r := bufio.NewReaderSize(body, 64<<10)
	var long []byte
	for {
		line, err := readLine(r, &long, wire.MaxEventLine)
		watchdog.Reset(stallAfter)
		switch {
		case errors.Is(err, ErrProtocol):
			return last, nil, err
		case errors.Is(err, io.EOF):
			return last, nil, transportError(ctx, io.ErrUnexpectedEOF)
		case err != nil:
			return last, nil, transportError(ctx, err)
		case len(line) == 0:
			continue
		}
		var e wire.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return last, nil, protocolErrorf("an event cannot be read: %v", err)
		}
		if e.Seq != last+1 {
			return last, nil, protocolErrorf("event %d follows event %d", e.Seq, last)
		}
		if err := checkEvent(&e); err != nil {
			return last, nil, err
		}
		last = e.Seq
		s.Observer.Event(&e)
		switch {
		case e.Type == wire.EventFinished:
			return last, e.Result, nil
		case until > 0 && last >= until:
			return last, nil, nil
		}
	}
}

// checkEvent makes sure that an event has what its type calls for, so that
// nobody else has to look.
func checkEvent(e *wire.Event) error {
	missing := false
	switch e.Type {
	case wire.EventLog:
		missing = e.Log == nil
	case wire.EventStart, wire.EventStop, wire.EventResult:
		missing = e.Activity == nil
	}
	if missing {
		return protocolErrorf("event %d of type %q says nothing", e.Seq, string(e.Type))
	}
	return nil
}

// readLine returns the next line without its line feed, valid until the next
// call. It never holds more than limit bytes. A last line without a line feed
// is cut off and therefore io.EOF.
func readLine(r *bufio.Reader, long *[]byte, limit int) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err == nil {
		return line[:len(line)-1], nil
	}
	*long = (*long)[:0]
	for errors.Is(err, bufio.ErrBufferFull) {
		if len(*long)+len(line) > limit {
			return nil, protocolErrorf("an event is longer than %d bytes", limit)
		}
		*long = append(*long, line...)
		line, err = r.ReadSlice('\n')
	}
	if err != nil {
		return nil, err
	}
	return append(*long, line[:len(line)-1]...), nil
}
