package policy

import (
	"context"
	"errors"
	"sync"

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
	spare   *sync.Pool // of *[]byte, zeroed, with a capacity of spareMemory
	taken   *[]byte
	data    []byte
	largest uint64
}

// spareMemory is what an instance begins with room for. It is used again: fresh
// memory, copied each time that it grows, costs more than a small program's
// decision.
const spareMemory = 1 << 20

// Allocate implements [experimental.MemoryAllocator].
func (m *memory) Allocate(_, _ uint64) experimental.LinearMemory { return m }

// Reallocate implements [experimental.LinearMemory].
func (m *memory) Reallocate(size uint64) []byte {
	if size > MaxMemory {
		m.kill(errorf(CodeMemory, "asked for %d bytes of memory, more than %d", size, MaxMemory))
		return nil
	}
	if m.data == nil && size <= spareMemory {
		m.taken, _ = m.spare.Get().(*[]byte)
		if m.taken == nil {
			m.taken = new([]byte)
			*m.taken = make([]byte, spareMemory)
		}
		m.data = *m.taken
	}
	if size > uint64(cap(m.data)) {
		grown := make([]byte, size, min(max(size, 2*uint64(cap(m.data))), MaxMemory))
		copy(grown, m.data)
		m.giveBack()
		m.data = grown
	}
	m.data = m.data[:size]
	m.largest = max(m.largest, size)
	return m.data
}

// Free implements [experimental.LinearMemory].
func (m *memory) Free() {
	m.giveBack()
	m.data = nil
}

// giveBack returns the spare memory as it was.
func (m *memory) giveBack() {
	if m.taken != nil {
		clear((*m.taken)[:min(m.largest, spareMemory)])
		m.spare.Put(m.taken)
		m.taken = nil
	}
}

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
