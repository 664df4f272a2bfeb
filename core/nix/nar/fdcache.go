package nar

import (
	"io"
	"io/fs"
	"sync"
)

// maxOpenFiles is how many files a Layout keeps open between reads. Ranges are
// read in order, so it only has to exceed the readers at work at once.
const maxOpenFiles = 8

// openedFile is what a tree opens: *os.File, or another in tests.
type openedFile interface {
	io.ReaderAt
	io.Closer
}

// handle is an open file of the cache. Its fields belong to the cache's lock.
type handle struct {
	file  openedFile
	index int
	users int
	gone  bool // no longer in the cache: the last user closes it
}

// fdCache keeps the files that were read in part last, most recent at the end.
// The zero value is ready.
type fdCache struct {
	mu      sync.Mutex
	handles []*handle
	closed  bool
}

// acquire returns the open file with this index, opening it when needed.
func (c *fdCache) acquire(index int, open func(int) (openedFile, error)) (*handle, error) {
	c.mu.Lock()
	if h := c.find(index); h != nil {
		c.mu.Unlock()
		return h, nil
	}
	c.mu.Unlock()
	// Opening may take a disk's time: not under the lock. Two readers may both
	// open the file; the one that comes second then closes its own.
	f, err := open(index)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = f.Close()
		return nil, fs.ErrClosed
	}
	if h := c.find(index); h != nil {
		_ = f.Close()
		return h, nil
	}
	h := &handle{file: f, index: index, users: 1}
	c.handles = append(c.handles, h)
	if len(c.handles) > maxOpenFiles {
		c.drop(c.handles[0])
		c.handles = append(c.handles[:0], c.handles[1:]...)
	}
	return h, nil
}

// find returns the handle and makes it the most recent. The lock is held.
func (c *fdCache) find(index int) *handle {
	for i, h := range c.handles {
		if h.index == index {
			h.users++
			c.handles = append(append(c.handles[:i], c.handles[i+1:]...), h)
			return h
		}
	}
	return nil
}

// drop closes the handle now or when its last user is done. The lock is held.
func (c *fdCache) drop(h *handle) {
	h.gone = true
	if h.users == 0 {
		_ = h.file.Close()
	}
}

func (c *fdCache) release(h *handle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h.users--
	if h.gone && h.users == 0 {
		_ = h.file.Close()
	}
}

func (c *fdCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, h := range c.handles {
		c.drop(h)
	}
	c.handles = nil
}
