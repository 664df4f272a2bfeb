package policy

import (
	"context"
	"errors"

	"github.com/tetratelabs/wazero/experimental"
)

// output keeps what an instance writes, and kills one that writes too much.
type output struct {
	name    string
	limit   int
	kill    context.CancelCauseFunc
	data    []byte
	written int
}

var errOutputLimit = errors.New("output limit")

// Write implements [io.Writer].
func (o *output) Write(p []byte) (int, error) {
	o.written += len(p)
	if room := o.limit - len(o.data); len(p) > room {
		o.data = append(o.data, p[:room]...)
		o.kill(errorf(CodeOutputLimit, "more than %d bytes on %s", o.limit, o.name))
		return room, errOutputLimit
	}
	o.data = append(o.data, p...)
	return len(p), nil
}

// String returns what was kept.
func (o *output) String() string { return string(o.data) }

// memory is the linear memory of one instance, and kills one that asks for more
// than MaxMemory: otherwise what a failed allocation leads to (an exit code, a
// trap, a loop) would hide why.
type memory struct {
	kill    context.CancelCauseFunc
	data    []byte
	largest uint64
}

// Allocate implements [experimental.MemoryAllocator].
func (m *memory) Allocate(_, _ uint64) experimental.LinearMemory { return m }

// Reallocate implements [experimental.LinearMemory].
func (m *memory) Reallocate(size uint64) []byte {
	if size > MaxMemory {
		m.kill(errorf(CodeMemory, "asked for %d bytes of memory, more than %d", size, MaxMemory))
		return nil
	}
	if size > uint64(cap(m.data)) {
		grown := make([]byte, size, min(max(size, 2*uint64(cap(m.data))), MaxMemory))
		copy(grown, m.data)
		m.data = grown
	}
	m.data = m.data[:size]
	m.largest = max(m.largest, size)
	return m.data
}

// Free implements [experimental.LinearMemory].
func (m *memory) Free() { m.data = nil }

// clock is the monotonic clock of one instance: a microsecond passes with every
// look at it, and a sleep takes no time but counts.
type clock struct {
	now int64 // nanoseconds
}

func (c *clock) read() int64 {
	c.now += 1000
	return c.now
}

func (c *clock) sleep(ns int64) {
	if ns > 0 && c.now+ns > c.now {
		c.now += ns
	}
}
