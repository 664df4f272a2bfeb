package cache

import (
	"context"
	"errors"
	"io"

	"github.com/drv-thru/drv-thru/core/nix"
)

// Fetcher gets the bytes of NARs ([ChunkFetcher]). It must be safe for
// concurrent use, and a Fetch or a read from its Stream that waits must return
// soon after ctx is done.
type Fetcher interface {
	// Fetch asks for NARs, each from an offset to its end, to be delivered
	// in the order of ranges. An error that asking again cannot mend is
	// marked with [Permanent].
	Fetch(ctx context.Context, ranges []NarRange) (Stream, error)
}

// NarRange is a NAR from an offset to its end.
type NarRange struct {
	NarHash string // 52 characters of Nix's base32
	Offset  uint64
	// Size is that of the whole NAR, by its narinfo.
	Size uint64
	// Path is one that has this NAR.
	Path nix.Path
}

// LogFetcher is a [Fetcher] that has build logs too.
type LogFetcher interface {
	// Log opens the build log of the derivation with that base name. The
	// error is fs.ErrNotExist when there is none.
	Log(ctx context.Context, drv string) (io.ReadCloser, error)
}

// Stream delivers what a [Fetcher] was asked for. It is used by one goroutine.
type Stream interface {
	// Next goes to the next range, past what was not read of the current
	// one. It returns io.EOF after the last range.
	Next() (Frame, error)
	// Read reads bytes of the current range; io.EOF at its end, and
	// io.ErrUnexpectedEOF when the stream ends inside it.
	Read(p []byte) (int, error)
	// Close ends the transfer, also in the middle.
	Close() error
}

// arriving is a [Stream] that knows of bytes that have come but cannot be
// handed on yet: of chunks that are not complete, or not the next.
type arriving interface {
	// Arrived counts what has come. It may be called at any time.
	Arrived() uint64
}

// Frame begins one range of a [Stream].
type Frame struct {
	// Index is the place of the range in the request.
	Index int
	// Size is the number of bytes that follow.
	Size uint64
	// Unavailable says that this NAR cannot be had; nothing follows.
	Unavailable bool
}

// What a read of a NAR can fail with, besides the Fetcher's own errors.
var (
	// ErrTimeout: no progress within the time that a read may take.
	ErrTimeout = errors.New("no data from the builder")
	// ErrUnavailable: the builder no longer has the NAR.
	ErrUnavailable = errors.New("the builder no longer has this path")
	// ErrStream: the answer is not what was asked for.
	ErrStream = errors.New("malformed answer of the builder")
)

// Permanent marks an error of a [Fetcher] that would come again if the same
// were asked again, so that nobody waits for retries.
func Permanent(err error) error { return &permanentError{err} }

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

func isPermanent(err error) bool {
	var p *permanentError
	return errors.As(err, &p)
}
