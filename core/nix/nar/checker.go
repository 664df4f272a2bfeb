package nar

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Kind is the kind of a node.
type Kind uint8

// The kinds of node that an archive can hold.
const (
	Regular Kind = iota + 1
	Directory
	Symlink
)

// Node describes a node when its contents, entries or end are about to come.
type Node struct {
	// Depth is 0 for the root.
	Depth int
	// Name is the entry's name, empty for the root. Valid during the call only.
	Name []byte
	Kind Kind
	// Executable and Size (in bytes) are of regular files.
	Executable bool
	Size       uint64
	// Target is of symlinks. Valid during the call only.
	Target []byte
}

// Handler is told what a Checker finds; nil functions are not called. An error
// ends the check.
type Handler struct {
	Node func(Node) error
	// Contents gets the bytes of the regular file announced last, in pieces.
	Contents func([]byte) error
}

// state says which string the grammar expects next.
type state uint8

const (
	wantMagic state = iota
	wantOpen
	wantType
	wantKind
	wantExecOrContents
	wantExecValue
	wantContentsWord
	wantContents
	wantTargetWord
	wantTarget
	wantNodeClose
	wantEntryOrClose
	wantEntryOpen
	wantNameWord
	wantName
	wantNodeWord
	wantEntryClose
	finished
)

// stateLimit is the longest string that each state takes; wantContents is not
// a string held in memory and has no entry.
var stateLimit = [finished]int{
	wantName:   MaxNameLen,
	wantTarget: MaxTargetLen,
}

// expected is what a state demands, where it demands one word.
var expected = [finished]string{
	wantMagic:        magic,
	wantOpen:         wordOpen,
	wantType:         wordType,
	wantContentsWord: wordBytes,
	wantTargetWord:   wordTarget,
	wantNodeClose:    wordClose,
	wantEntryOpen:    wordOpen,
	wantNameWord:     wordName,
	wantNodeWord:     wordNode,
	wantEntryClose:   wordClose,
}

var errWrite = errors.New("write after an error or the end")

// Checker is an io.Writer that takes the bytes of an archive and accepts
// exactly the canonical form: names valid, sorted and unique, padding zero,
// nothing missing, nothing behind, and nothing that Nix begins to unpack and then
// finds too deep. It allocates at most a few kilobytes plus the names of the open
// directories, whatever the bytes declare.
//
// The zero value checks; set Handler before the first Write to see the tree.
type Checker struct {
	Handler Handler

	state state
	err   error

	// A string is collected in word when it does not lie in one Write whole:
	// eight bytes of length first, then the bytes with their padding.
	word    []byte
	wordLen int // length of the string being read, valid once inString
	inBody  bool

	// The contents being passed through, and their padding.
	left uint64
	pad  int

	executable bool
	depth      int
	// The stack of open directories: the name that came last in each, as
	// ranges of one buffer.
	names  []byte
	starts []int
	total  uint64
}

// Write takes the next bytes. After an error every call returns it.
func (c *Checker) Write(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n := 0
	for n < len(p) && c.err == nil {
		var used int
		switch {
		case c.state == finished:
			c.err = fmt.Errorf("%w: bytes behind its end", ErrSyntax)
		case c.left > 0:
			used, c.err = c.contents(p[n:])
		case c.pad > 0:
			used, c.err = c.contentsPadding(p[n:])
		default:
			used, c.err = c.readString(p[n:])
		}
		n += used
	}
	c.total += uint64(n)
	return n, c.err
}

// Close fails unless exactly one whole archive was written.
func (c *Checker) Close() error {
	if c.err == nil && c.state != finished {
		c.err = fmt.Errorf("%w: it ends too soon, after %d bytes", ErrSyntax, c.total)
	}
	if c.err != nil {
		return c.err
	}
	c.err = errWrite
	return nil
}

func (c *Checker) contents(p []byte) (int, error) {
	n := len(p)
	if uint64(n) > c.left {
		n = int(c.left)
	}
	c.left -= uint64(n)
	if c.Handler.Contents != nil {
		if err := c.Handler.Contents(p[:n]); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (c *Checker) contentsPadding(p []byte) (int, error) {
	n := min(len(p), c.pad)
	if !allZero(p[:n]) {
		return n, fmt.Errorf("%w: padding is not zero", ErrSyntax)
	}
	c.pad -= n
	return n, nil
}

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// readString consumes (a part of) a length-prefixed string and hands the whole
// string to the grammar. It returns how much of p it used.
func (c *Checker) readString(p []byte) (int, error) {
	used := 0
	if !c.inBody {
		length, n, ok := c.take(p, align)
		used = n
		if !ok {
			return used, nil
		}
		size := binary.LittleEndian.Uint64(length)
		c.word = c.word[:0]
		if c.state == wantContents {
			return used, c.startContents(size)
		}
		limit := stateLimit[c.state]
		if limit == 0 {
			limit = maxWordLen
		}
		if size > uint64(limit) {
			return used, fmt.Errorf("%w: string of %d bytes where at most %d may be", ErrSyntax, size, limit)
		}
		c.wordLen = int(size)
		c.inBody = true
	}
	body, n, ok := c.take(p[used:], c.wordLen+padding(uint64(c.wordLen)))
	used += n
	if !ok {
		return used, nil
	}
	c.inBody = false
	if !allZero(body[c.wordLen:]) {
		return used, fmt.Errorf("%w: padding is not zero", ErrSyntax)
	}
	err := c.step(body[:c.wordLen])
	c.word = c.word[:0]
	return used, err
}

// take returns want bytes: from p directly when nothing was held back, else
// from what gathered in word. It returns how much of p it used.
func (c *Checker) take(p []byte, want int) (got []byte, used int, ok bool) {
	if len(c.word) == 0 && len(p) >= want {
		return p[:want], want, true
	}
	used = min(len(p), want-len(c.word))
	c.word = append(c.word, p[:used]...)
	return c.word, used, len(c.word) == want
}

func (c *Checker) startContents(size uint64) error {
	// A larger size could not be added up, and no file has it.
	if size > math.MaxInt64-align {
		return fmt.Errorf("%w: file of %d bytes", ErrSyntax, size)
	}
	c.left, c.pad = size, padding(size)
	c.state = wantNodeClose
	return c.found(Node{Kind: Regular, Executable: c.executable, Size: size})
}

// found completes the node and tells the handler.
func (c *Checker) found(n Node) error {
	if c.Handler.Node == nil {
		return nil
	}
	n.Depth = c.depth
	if c.depth > 0 {
		n.Name = c.names[c.starts[c.depth-1]:]
	}
	return c.Handler.Node(n)
}

// step feeds one string to the grammar.
func (c *Checker) step(s []byte) error {
	if word := expected[c.state]; word != "" {
		if string(s) != word {
			return fmt.Errorf("%w: %q where %q belongs", ErrSyntax, s, word)
		}
		return c.afterWord()
	}
	switch c.state {
	case wantKind:
		return c.kind(s)
	case wantExecOrContents:
		switch string(s) {
		case wordExec:
			c.executable = true
			c.state = wantExecValue
			return nil
		case wordBytes:
			c.state = wantContents
			return nil
		}
	case wantExecValue:
		if len(s) == 0 {
			c.state = wantContentsWord
			return nil
		}
	case wantTarget:
		if len(s) == 0 || bytes.IndexByte(s, 0) >= 0 {
			return fmt.Errorf("%w: invalid target of a symlink", ErrSyntax)
		}
		c.state = wantNodeClose
		return c.found(Node{Kind: Symlink, Target: s})
	case wantEntryOrClose:
		switch string(s) {
		case wordEntry:
			c.state = wantEntryOpen
			return nil
		case wordClose:
			c.closeDirectory()
			return nil
		}
	case wantName:
		return c.name(s)
	}
	return fmt.Errorf("%w: unexpected %q", ErrSyntax, s)
}

// afterWord moves on from a state that demanded one word and got it.
func (c *Checker) afterWord() error {
	switch c.state {
	case wantNodeClose:
		c.closeNode()
	case wantEntryClose:
		c.state = wantEntryOrClose
	case wantNodeWord:
		c.state = wantOpen
	default:
		c.state++
	}
	return nil
}

func (c *Checker) kind(s []byte) error {
	switch string(s) {
	case wordRegular:
		c.executable = false
		c.state = wantExecOrContents
		return nil
	case wordLink:
		c.state = wantTargetWord
		return nil
	case wordDir:
		c.state = wantEntryOrClose
		err := c.found(Node{Kind: Directory})
		c.depth++
		c.starts = append(c.starts, len(c.names))
		return err
	}
	return fmt.Errorf("%w: unknown type %q", ErrSyntax, s)
}

func (c *Checker) name(s []byte) error {
	if err := checkName(s); err != nil {
		return err
	}
	if c.depth == MaxLevels {
		return fmt.Errorf("%w: directories nest deeper than %d levels", ErrSyntax, MaxLevels)
	}
	start := c.starts[c.depth-1]
	if last := c.names[start:]; bytes.Compare(last, s) >= 0 {
		return fmt.Errorf("%w: name %q does not sort after %q", ErrSyntax, s, last)
	}
	c.names = append(c.names[:start], s...)
	if n := len(c.names) + c.depth; n > MaxPathLen {
		return fmt.Errorf("%w: path of %d bytes, at most %d can be unpacked", ErrSyntax, n, MaxPathLen)
	}
	c.state = wantNodeWord
	return nil
}

func (c *Checker) closeDirectory() {
	c.depth--
	c.names = c.names[:c.starts[c.depth]]
	c.starts = c.starts[:c.depth]
	c.closeNode()
}

func (c *Checker) closeNode() {
	if c.depth == 0 {
		c.state = finished
	} else {
		c.state = wantEntryClose
	}
}
