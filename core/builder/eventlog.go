package builder

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// flushEvery and flushBytes bound how long and how much an event waits to
	// be written and seen: one write then carries thousands of log lines.
	flushEvery = 50 * time.Millisecond
	flushBytes = 256 << 10
	// markEvery is the distance of the index's marks in the file, and so what a
	// reader skips through at most to find its event.
	markEvery = 256 << 10
	// DefaultMaxLog bounds one build's events; what is logged beyond is dropped.
	DefaultMaxLog = 2 << 30
)

// errLogGone says that a build's events are no longer kept.
var errLogGone = wire.Errorf(wire.CodeNotFound, "the build's events are no longer kept")

// eventLog is a build's events: a file of lines, the very bytes that a reader
// is sent, and a sparse index into it. Appending never waits for a reader.
type eventLog struct {
	path string
	now  func() time.Time
	max  int64

	mu      sync.Mutex
	file    *os.File // nil once closed
	buf     []byte   // encoded, not yet written
	open    uint64   // the build whose lines the last event in buf has, 0 for none
	size    int64    // of the file
	seq     int64    // of the last event, written or not
	written int64    // of the last event in the file
	marks   []mark
	timer   *time.Timer
	waiting bool // the timer will flush
	full    bool // max is reached
	ended   bool // the last event is in the file
	err     error
	changed chan struct{} // closed when there is more to read; nil if nobody waits
}

// mark says that the line of event seq begins at off.
type mark struct{ seq, off int64 }

// openEventLog opens or creates the log at path, dropping an incomplete last
// line that a crash left.
func openEventLog(path string, now func() time.Time, limit int64) (*eventLog, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open events: %w", err)
	}
	l := &eventLog{path: path, now: now, max: limit, file: f}
	if err := l.scan(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("read events: %w", err)
	}
	if err := f.Truncate(l.size); err != nil {
		f.Close()
		return nil, fmt.Errorf("open events: %w", err)
	}
	if _, err := f.Seek(l.size, io.SeekStart); err != nil {
		f.Close()
		return nil, fmt.Errorf("open events: %w", err)
	}
	l.timer = time.AfterFunc(time.Hour, l.tick)
	l.timer.Stop()
	return l, nil
}

// readEventLog opens a log that nobody writes any more.
func readEventLog(path string) (*eventLog, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, errLogGone
		}
		return nil, fmt.Errorf("open events: %w", err)
	}
	defer f.Close()
	l := &eventLog{path: path, ended: true}
	if err := l.scan(f); err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return l, nil
}

// scan builds the index of what is in the file.
func (l *eventLog) scan(r io.Reader) error {
	br := bufio.NewReaderSize(r, 256<<10)
	var off int64
	for {
		line, err := br.ReadSlice('\n')
		off += int64(len(line))
		switch {
		case err == nil:
			l.seq++
			l.written = l.seq
			l.mark(l.seq+1, off)
			l.size = off
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil
		default:
			return err
		}
	}
}

// mark notes where event seq begins, if the last mark is far enough behind.
func (l *eventLog) mark(seq, off int64) {
	if n := len(l.marks); n == 0 || off-l.marks[n-1].off >= markEvery {
		l.marks = append(l.marks, mark{seq, off})
	}
}

// add appends an event and numbers it. State changes and the end are written at
// once, everything else within flushEvery.
func (l *eventLog) add(e *wire.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Time = l.now()
	urgent := true
	switch e.Type {
	case wire.EventStart, wire.EventStop, wire.EventResult:
		urgent = false
		if l.over() {
			return
		}
	}
	l.append(urgent, func(b []byte, seq int64) ([]byte, error) {
		e.Seq = seq
		return appendEvent(b, e)
	})
	if e.Type == wire.EventFinished {
		l.close()
	}
}

// log appends output: a piece of at most wire.MaxLogPiece bytes.
func (l *eventLog) log(of wire.Log, piece []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over() {
		return
	}
	var build uint64
	if !of.More && !of.PostBuild && of.Level == 0 && utf8.Valid(piece) {
		build = of.Activity
	}
	if build != 0 && build == l.open && len(l.buf)+len(piece) < flushBytes {
		l.join(piece)
		return
	}
	at := l.now()
	l.append(false, func(b []byte, seq int64) ([]byte, error) {
		return appendLog(b, seq, at, &of, piece), nil
	})
	if len(l.buf) > 0 {
		l.open = build
	}
}

// join adds a line to the event before it, which nobody has seen yet: an event of
// its own would be many times as long as a short line.
func (l *eventLog) join(line []byte) {
	l.buf = append(l.buf[:len(l.buf)-len(logEnd)], `\n`...)
	l.buf = append(appendEscaped(l.buf, line), logEnd...)
	if len(l.buf) >= flushBytes {
		l.flush()
	}
}

// over reports whether the log has reached its limit, and says so in it once.
func (l *eventLog) over() bool {
	if l.full || l.size+int64(len(l.buf)) < l.max {
		return l.full
	}
	l.full = true
	at := l.now()
	text := fmt.Sprintf("the log is longer than %d bytes; the rest is not kept", l.max)
	l.append(true, func(b []byte, seq int64) ([]byte, error) {
		return appendLog(b, seq, at, &wire.Log{}, []byte(text)), nil
	})
	return true
}

func (l *eventLog) append(urgent bool, encode func([]byte, int64) ([]byte, error)) {
	if l.file == nil {
		return // after the end nothing counts
	}
	b, err := encode(l.buf, l.seq+1)
	if err != nil {
		l.err = err
		return
	}
	l.seq++
	l.mark(l.seq, l.size+int64(len(l.buf)))
	l.buf, l.open = b, 0
	switch {
	case urgent || len(l.buf) >= flushBytes:
		l.flush()
	case !l.waiting:
		l.waiting = true
		l.timer.Reset(flushEvery)
	}
}

func (l *eventLog) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = false
	l.flush()
}

// flush writes what is buffered. A disk that refuses it costs log lines, never
// the build: what could not be written is dropped and numbered no more, and from
// then on only state changes and the end are tried.
func (l *eventLog) flush() {
	if len(l.buf) == 0 || l.file == nil {
		return
	}
	if _, err := l.file.Write(l.buf); err != nil {
		l.err = errors.Join(err, l.rewind())
	} else {
		l.size += int64(len(l.buf))
		l.written = l.seq
	}
	l.buf, l.open = l.buf[:0], 0
	if cap(l.buf) > 4*flushBytes {
		l.buf = nil
	}
	l.wake()
}

// rewind forgets everything that is not in the file whole.
func (l *eventLog) rewind() error {
	l.full = true
	l.seq = l.written
	for n := len(l.marks); n > 0 && l.marks[n-1].seq > l.written+1; n = len(l.marks) {
		l.marks = l.marks[:n-1]
	}
	_, err := l.file.Seek(l.size, io.SeekStart)
	return errors.Join(l.file.Truncate(l.size), err)
}

func (l *eventLog) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// close flushes and closes the file. Readers still get everything.
func (l *eventLog) close() {
	l.flush()
	l.timer.Stop()
	l.ended = true
	if l.file != nil {
		if err := l.file.Close(); err != nil && l.err == nil {
			l.err = err
		}
		l.file = nil
	}
	l.buf = nil
	l.wake()
}

// Close ends the log without a finished event.
func (l *eventLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.close()
	return l.err
}

// last returns the number of the newest event.
func (l *eventLog) last() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seq
}

// extent returns how many bytes can be read, whether more may come, and a
// channel that is closed when that changes.
func (l *eventLog) extent() (written, size int64, ended bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil && !l.ended {
		l.changed = make(chan struct{})
	}
	return l.written, l.size, l.ended, l.changed
}

// near returns the last mark at or before event seq.
func (l *eventLog) near(seq int64) mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := sort.Search(len(l.marks), func(i int) bool { return l.marks[i].seq > seq })
	if i == 0 {
		return mark{seq: 1}
	}
	return l.marks[i-1]
}

// copyTo writes the events from number from on to w until the log has ended or
// ctx is done. idle is called when everything so far was written, and again
// each time that wait returns without more.
func (l *eventLog) copyTo(ctx context.Context, w io.Writer, from int64, idle func() error) error {
	from = max(from, 1)
	f, err := os.Open(l.path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return errLogGone
		}
		return fmt.Errorf("read events: %w", err)
	}
	defer f.Close()
	keepalive := time.NewTicker(wire.EventKeepalive)
	defer keepalive.Stop()
	off := int64(-1) // not known yet
	for {
		written, size, ended, changed := l.extent()
		if off < 0 && written >= from {
			if off, err = l.seek(f, from, size); err != nil {
				return fmt.Errorf("read events: %w", err)
			}
		}
		if off >= 0 {
			if err := copyPart(w, f, off, size); err != nil {
				return err
			}
			off = max(off, size)
		}
		if ended {
			return nil
		}
		if err := idle(); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-keepalive.C:
			if _, err := w.Write([]byte{'\n'}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// eventBuffers are shared, so that a reader who waits, as most do, holds none.
var eventBuffers = sync.Pool{New: func() any { return new([128 << 10]byte) }}

// copyPart writes what is in f from off up to size.
func copyPart(w io.Writer, f *os.File, off, size int64) error {
	if off >= size {
		return nil
	}
	buf := eventBuffers.Get().(*[128 << 10]byte)
	defer eventBuffers.Put(buf)
	for off < size {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		if n == 0 {
			return fmt.Errorf("read events: %w", err)
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// seek returns the offset at which event from begins.
func (l *eventLog) seek(f *os.File, from, size int64) (int64, error) {
	buf := eventBuffers.Get().(*[128 << 10]byte)
	defer eventBuffers.Put(buf)
	at := l.near(from)
	skip := from - at.seq
	off := at.off
	for skip > 0 {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		if n == 0 {
			return 0, err
		}
		chunk := buf[:n]
		for skip > 0 {
			i := bytes.IndexByte(chunk, '\n')
			if i < 0 {
				off += int64(len(chunk))
				break
			}
			off += int64(i + 1)
			chunk = chunk[i+1:]
			skip--
		}
	}
	return off, nil
}
