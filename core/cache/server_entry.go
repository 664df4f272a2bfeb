package cache

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
)

const (
	// smallNar is the size up to which a NAR is held in memory whole: cutting it
	// anew costs no more than reading what an index would say of it.
	smallNar = 64 << 10
	// keepEntries and keepBytes bound what stays in memory without a user, besides
	// the tree that was used last. An entry that is no small NAR holds its tree open
	// as well.
	keepEntries = 64
	keepSmall   = 4096
	keepBytes   = 32 << 20
	// keepOpen is how long a tree stays open without a user: what garbage collection
	// has removed of it keeps its room on the disk until then.
	keepOpen = time.Minute
	// noticeEvery is how much of a NAR is cut before those that wait for it are
	// woken.
	noticeEvery = 1 << 20
)

// entry is one NAR of which chunks are served: its manifest, as far as it is
// known, and where to read.
type entry struct {
	info nix.PathInfo
	// wanted is closed when the first request asks for it.
	wanted chan struct{}

	mu     sync.Mutex
	opened bool // nar and refs are set
	nar    Nar  // nil for a small one once cut
	refs   []chunk.Ref
	chunks []chunk.Chunk // grows; what is in it never changes
	done   bool          // they are all there are
	err    error         // why there will be no more
	small  []byte        // the masked NAR, when it is small
	next   chan struct{} // closed at the next change, nil when nobody waits
	// The substitutions of the first chunks, which cost has counted.
	substs, counted int

	// Guarded by entries.mu.
	users  int
	asked  bool          // wanted is closed
	dead   bool          // no longer in the table
	idle   *list.Element // in one of the table's lists, while nobody uses it
	weight int64         // in memory, when it became idle
	since  time.Time     // when that was
}

// state is a moment of an entry.
type state struct {
	nar    Nar
	refs   []chunk.Ref
	chunks []chunk.Chunk
	done   bool
	small  []byte
}

// wait returns once the entry has at least n chunks or all that it will have. It
// fails with what kept them from being found out, or with ctx.
func (e *entry) wait(ctx context.Context, n int) (state, error) {
	for {
		e.mu.Lock()
		if e.err != nil {
			e.mu.Unlock()
			return state{}, e.err
		}
		if e.opened && (e.done || len(e.chunks) >= n) {
			st := state{nar: e.nar, refs: e.refs, chunks: e.chunks, done: e.done, small: e.small}
			e.mu.Unlock()
			return st, nil
		}
		if e.next == nil {
			e.next = make(chan struct{})
		}
		next := e.next
		e.mu.Unlock()
		select {
		case <-next:
		case <-ctx.Done():
			return state{}, ctx.Err()
		}
	}
}

// ready tells whether wait(ctx, n) would return at once.
func (e *entry) ready(n int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err != nil || e.opened && (e.done || len(e.chunks) >= n)
}

// change changes the entry and wakes who waits for it.
func (e *entry) change(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
	if e.next != nil {
		close(e.next)
		e.next = nil
	}
}

// fail ends an entry that cannot be had.
func (e *entry) fail(err error) {
	e.change(func() {
		if e.err == nil {
			e.err = err
		}
	})
}

// cost is what it takes in memory, by and large.
func (e *entry) cost() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.chunks[e.counted:] {
		e.substs += len(e.chunks[e.counted+i].Substs)
	}
	e.counted = len(e.chunks)
	n := int64(1024 + len(e.small) + cap(e.chunks)*80 + e.substs*16 + len(e.refs)*chunk.RefLen)
	if e.nar != nil {
		n += int64(len(e.nar.Skeleton())) * 3 / 2
	}
	return n
}

// close gives back what the entry holds open.
func (e *entry) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.nar != nil {
		_ = e.nar.Close() // read only: nothing can be lost
		e.nar = nil
	}
	if e.err == nil {
		e.err = errors.New("entry is closed")
	}
}

// entries are the NARs at hand. Those that nobody uses stay for a while, so that
// the requests of one import find them.
type entries struct {
	mu     sync.Mutex
	byPath map[nix.Path]*entry
	// small and open are those without a user, longest unused first: NARs that
	// are in memory whole, and the others, which hold their tree open.
	small, open list.List
	weight      int64       // of both
	expiry      *time.Timer // of the first in open, nil when there is none
	closed      bool
}

func (t *entries) idle(e *entry) *list.List {
	if e.info.NarSize <= smallNar {
		return &t.small
	}
	return &t.open
}

// get returns the entry of a path and counts the caller as its user, making one
// if there is none: then fresh is true, and the caller has to fill it.
func (t *entries) get(info nix.PathInfo, request bool) (e *entry, fresh bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e = t.byPath[info.Path]
	if e != nil && e.info.NarHash != info.NarHash {
		t.forget(e) // collected and built again
		e = nil
	}
	if e == nil {
		e, fresh = &entry{info: info, wanted: make(chan struct{})}, true
		if t.byPath == nil {
			t.byPath = make(map[nix.Path]*entry)
		}
		e.dead = t.closed
		if !e.dead {
			t.byPath[info.Path] = e
		}
	}
	t.wake(e)
	e.users++
	if request && !e.asked {
		e.asked = true
		close(e.wanted)
	}
	return e, fresh
}

// hold counts one more user of an entry that the caller uses.
func (t *entries) hold(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.users++
}

// wake takes an entry from among those without a user. t.mu is held.
func (t *entries) wake(e *entry) {
	if e.idle != nil {
		t.idle(e).Remove(e.idle)
		t.weight -= e.weight
		e.idle = nil
	}
}

// put ends a use.
func (t *entries) put(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.users--
	if e.users > 0 {
		return
	}
	if e.dead {
		e.close()
		return
	}
	e.weight, e.since = e.cost(), time.Now()
	e.idle = t.idle(e).PushBack(e)
	t.weight += e.weight
	for t.open.Len() > keepEntries || t.open.Len() > 1 && t.heavy() {
		t.forget(t.open.Front().Value.(*entry))
	}
	for t.small.Len() > keepSmall || t.small.Len() > 0 && t.heavy() {
		t.forget(t.small.Front().Value.(*entry))
	}
	if t.expiry == nil && t.open.Len() > 0 {
		t.expiry = time.AfterFunc(keepOpen, t.expire)
	}
}

// heavy tells whether more is kept than should be, besides the tree that was used last:
// one of 100,000 files weighs that much alone, and most likely the next request is for
// it too. t.mu is held.
func (t *entries) heavy() bool {
	weight := t.weight
	if last := t.open.Back(); last != nil {
		weight -= last.Value.(*entry).weight
	}
	return weight > keepBytes
}

// expire forgets the trees that nobody has used for long.
func (t *entries) expire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expiry = nil
	for t.open.Len() > 0 {
		e := t.open.Front().Value.(*entry)
		if left := keepOpen - time.Since(e.since); left > 0 {
			t.expiry = time.AfterFunc(left, t.expire)
			return
		}
		t.forget(e)
	}
}

// forget takes an entry out of the table. t.mu is held.
func (t *entries) forget(e *entry) {
	if e.dead {
		return
	}
	e.dead = true
	delete(t.byPath, e.info.Path)
	t.wake(e)
	if e.users == 0 {
		e.close()
	}
}

// drop forgets an entry that turned out to be wrong.
func (t *entries) drop(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(e)
}

func (t *entries) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, e := range t.byPath {
		t.forget(e)
	}
}
