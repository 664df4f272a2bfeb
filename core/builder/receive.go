package builder

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// smallNar is the largest NAR that is held in memory while it is verified;
	// larger ones are held in a file.
	smallNar = 256 << 10
	// batchBytes and batchPaths bound what goes to the daemon in one operation.
	// One batch is added while the next is read.
	batchBytes = 4 << 20
	batchPaths = 1024
	// verifyBuffer is what is read and verified at a time.
	verifyBuffer = 128 << 10
	// addTime is how long an addition to the store may go on when nobody waits
	// for it any more. Broken off, it would leave half a path: Nix unpacks to
	// the final place.
	addTime = 30 * time.Second
)

var verifyBuffers = sync.Pool{New: func() any { return new([verifyBuffer]byte) }}

// receiver reads one request's frames.
type receiver struct {
	b       *build
	ctx     context.Context
	session Session
	body    io.Reader
	last    int // index of the last frame
	broken  bool

	batch   []ImportItem
	indexes []int
	size    uint64
	adding  chan error // of the batch that is being added
}

func (rx *receiver) frames() error {
	var head [wire.InputFrameHeader]byte
	for {
		if _, err := io.ReadFull(rx.body, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return readFailed(err)
		}
		i := int(binary.BigEndian.Uint32(head[:4]))
		if err := rx.frame(i, binary.BigEndian.Uint64(head[4:])); err != nil {
			return err
		}
	}
}

// readFailed tells a client that is still there what was wrong with its body.
func readFailed(err error) error {
	if wire.CodeOf(err) != "" {
		return err
	}
	return fmt.Errorf("%w: %w", badRequest("the inputs break off: %s", clipText(err.Error())), err)
}

func (rx *receiver) frame(i int, size uint64) error {
	info, err := rx.expect(i, size)
	if err != nil {
		return err
	}
	rx.last = i
	switch {
	case isChunked(&info):
		return wire.Errorf(wire.CodeInputSize, "%s has %d bytes; from %d on an input comes in chunks", info.Path, size, wire.ChunkedInput)
	case info.Path.IsDrv() && size > maxDerivation:
		return wire.Errorf(wire.CodeInputDerivation, "%s has %d bytes; at most %d", info.Path, size, maxDerivation)
	}
	held, err := rx.hold(info)
	if err != nil {
		return err
	}
	return rx.take(i, info, held, rx.body)
}

// expect checks a frame's head against what was asked for.
func (rx *receiver) expect(i int, size uint64) (nix.PathInfo, error) {
	b := rx.b
	b.mu.Lock()
	defer b.mu.Unlock()
	cl := b.closure
	if cl == nil || !b.wanted[i] {
		return nix.PathInfo{}, wire.Errorf(wire.CodeInputUnasked, "entry %d of the closure", i)
	}
	info := cl.infos[i]
	switch {
	case i <= rx.last:
		return info, wire.Errorf(wire.CodeInputReferences, "%s comes out of order", info.Path)
	case size != info.NarSize:
		return info, wire.Errorf(wire.CodeInputSize, "%s: %d bytes stated, %d are to be sent", info.Path, info.NarSize, size)
	}
	if most := b.limits.MaxUploadBytes; most > 0 && b.sent+rx.size+size > uint64(most) {
		return info, uploadLimit(b.sent+rx.size+size, most)
	}
	for _, ref := range info.References {
		if k := cl.index[ref]; k != i && b.wanted[k] {
			return info, wire.Errorf(wire.CodeInputReferences, "%s came before %s, which it refers to", info.Path, ref)
		}
	}
	return info, nil
}

// take verifies a NAR and puts it into the batch. No byte of it reaches the
// daemon before all of it was found good: Nix unpacks to the final place and
// leaves it there when the NAR then turns out to be bad.
//
// The NAR comes from a reader, which may be where it is held already.
func (rx *receiver) take(i int, info nix.PathInfo, held *holding, from io.Reader) error {
	v, err := newVerifier(info)
	if err != nil {
		_ = held.Close() // nothing of it is needed any more
		return inputError(info.Path, err)
	}
	err = verify(v, held, from, info)
	if err == nil && info.Path.IsDrv() {
		err = rx.derivation(info, v.Contents())
	}
	if err != nil {
		_ = held.Close() // nothing of it is needed any more
		return err
	}
	rx.batch = append(rx.batch, ImportItem{Info: info, Nar: held})
	rx.indexes = append(rx.indexes, i)
	rx.b.pending(i)
	if rx.size += info.NarSize; rx.size >= batchBytes || len(rx.batch) >= batchPaths {
		return rx.flush()
	}
	return nil
}

// verify moves a NAR from the request to where it is held, if it is not yet.
func verify(v *nix.CAVerifier, held *holding, from io.Reader, info nix.PathInfo) error {
	there := from == io.Reader(held)
	buf := verifyBuffers.Get().(*[verifyBuffer]byte)
	defer verifyBuffers.Put(buf)
	for left := info.NarSize; left > 0; {
		n, err := io.ReadFull(from, buf[:min(left, verifyBuffer)])
		left -= uint64(n)
		if _, verr := v.Write(buf[:n]); verr != nil {
			return inputError(info.Path, verr)
		}
		if there {
			if err != nil {
				return fmt.Errorf("hold %s: %w", info.Path, err)
			}
			continue
		}
		if err != nil {
			return readFailed(err)
		}
		if _, err := held.Write(buf[:n]); err != nil {
			return fmt.Errorf("hold %s: %w", info.Path, err)
		}
	}
	if err := v.Close(); err != nil {
		return inputError(info.Path, err)
	}
	return held.rewind()
}

// hold makes room for a NAR: in memory, or in a file that has no name, so that
// nothing is left of it however this process ends.
func (rx *receiver) hold(info nix.PathInfo) (*holding, error) {
	// It is on the disk twice until it is added.
	space, err := rx.b.s.reserveDisk(2 * info.NarSize)
	if err != nil {
		return nil, err
	}
	held := &holding{giveBack: space.end}
	if info.NarSize <= smallNar {
		return held, nil
	}
	if held.file, err = os.CreateTemp(rx.b.dir, ".input-*"); err != nil {
		space.end()
		return nil, fmt.Errorf("hold %s: %w", info.Path, err)
	}
	if err := os.Remove(held.file.Name()); err != nil {
		return nil, fmt.Errorf("hold %s: %w", info.Path, errors.Join(err, held.Close()))
	}
	return held, nil
}

// holding is a NAR between the client and the daemon: written, rewound, read.
type holding struct {
	memory   bytes.Buffer
	file     *os.File
	giveBack func() // ends the reservation of disk space
}

func (h *holding) Write(p []byte) (int, error) {
	if h.file != nil {
		return h.file.Write(p)
	}
	return h.memory.Write(p)
}

func (h *holding) Read(p []byte) (int, error) {
	if h.file != nil {
		return h.file.Read(p)
	}
	return h.memory.Read(p)
}

func (h *holding) rewind() error {
	if h.file == nil {
		return nil
	}
	_, err := h.file.Seek(0, io.SeekStart)
	return err
}

// Close gives the room back. It is called once.
func (h *holding) Close() error {
	h.giveBack()
	h.memory = bytes.Buffer{}
	if h.file == nil {
		return nil
	}
	return h.file.Close()
}

// derivation checks that a .drv is one, and that its references are its inputs,
// which Nix takes for granted when it looks for what a build needs.
func (rx *receiver) derivation(info nix.PathInfo, text []byte) error {
	d, err := nix.ParseDerivation(info.Path.Name(), text)
	if err != nil {
		return wire.Errorf(wire.CodeInputDerivation, "%s: %s", info.Path, clipText(err.Error()))
	}
	if !slices.Equal(d.References(), info.References) {
		return wire.Errorf(wire.CodeInputDerivation, "%s: its references are not its inputs", info.Path)
	}
	p, err := plan(info.Path, d)
	if err != nil {
		return err
	}
	rx.b.notePlanned(p)
	return nil
}

// flush hands the batch to the daemon, once the one before is in.
func (rx *receiver) flush() error {
	if len(rx.batch) == 0 {
		return nil
	}
	batch, indexes := rx.batch, rx.indexes
	rx.batch, rx.indexes, rx.size = nil, nil, 0
	if err := rx.wait(); err != nil {
		rx.b.settled(indexes, false)
		release(batch)
		return err
	}
	adding := make(chan error, 1)
	rx.adding = adding
	go func() {
		ctx, cancel := outlast(rx.ctx, addTime)
		defer cancel()
		err := rx.session.Import(ctx, batch)
		rx.b.settled(indexes, err == nil)
		release(batch)
		adding <- err
	}()
	return nil
}

// end adds what was verified and returns the first failure, which err may be.
func (rx *receiver) end(err error) error {
	// What was verified before a failure stays, as long as somebody may ask for
	// the rest.
	if rx.b.ctx.Err() != nil {
		rx.drop()
	}
	err = cmp.Or(err, rx.flush(), rx.wait())
	if rx.broken {
		rx.b.dropSession()
	}
	return err
}

// drop forgets the batch.
func (rx *receiver) drop() {
	rx.b.settled(rx.indexes, false)
	release(rx.batch)
	rx.batch, rx.indexes, rx.size = nil, nil, 0
}

// outlast returns a context that ends some time after ctx does.
func outlast(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-late.Done():
		}
	})
	return late, func() {
		stop()
		cancel()
	}
}

func release(batch []ImportItem) {
	for _, item := range batch {
		_ = item.Nar.(*holding).Close() // nothing of it is needed any more
	}
}

// wait waits for the batch that is being added.
func (rx *receiver) wait() error {
	if rx.adding == nil {
		return nil
	}
	err := <-rx.adding
	rx.adding = nil
	return rx.importError(err)
}

func (rx *receiver) importError(err error) error {
	if err == nil {
		return nil
	}
	rx.broken = true
	var said *daemon.Error
	if !errors.As(err, &said) {
		return storeError(err)
	}
	var code wire.Code
	switch text := said.Error(); {
	// Nix alone checks the paths of outputs that come from the derivation itself.
	case strings.Contains(text, " has incorrect "):
		code = wire.CodeInputDerivation
	// Nix 2.17 to 2.34 hash what refers to itself in another way (see core/nix).
	case strings.Contains(text, "ca hash mismatch importing path"):
		code = wire.CodeInputAddress
	default:
		return storeError(err)
	}
	return fmt.Errorf("%w: %w", wire.Errorf(code, "%s", clipText(said.Error())), err)
}

// newVerifier makes the verifier of a content-addressed path, or of one whose
// signature was found good, which vouches for its NAR hash.
func newVerifier(info nix.PathInfo) (*nix.CAVerifier, error) {
	if info.CA == "" {
		return nix.NewNarVerifier(info)
	}
	return nix.NewCAVerifier(info)
}

func inputError(path nix.Path, err error) error {
	code := wire.CodeInputNar
	switch {
	case errors.Is(err, nix.ErrNarSize):
		code = wire.CodeInputSize
	case errors.Is(err, nix.ErrNarHash):
		code = wire.CodeInputHash
	case errors.Is(err, nix.ErrContentAddress):
		code = wire.CodeInputAddress
	}
	return wire.Errorf(code, "%s: %s", path, clipText(err.Error()))
}
