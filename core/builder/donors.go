package builder

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
)

const (
	// maxDonors and maxDonorBytes bound the earlier inputs, and their manifests'
	// bytes, that are searched for the chunks of a new one.
	maxDonors     = 64
	maxDonorBytes = 64 << 20
)

// donorStore has the inputs that are complete.
type donorStore interface {
	OpenNar(ctx context.Context, path nix.Path) (cache.Nar, error)
}

// fill takes the chunks that were written before, then those that the sender
// has sent as part of other inputs. A donor that has changed or is gone gives
// less, and what it does not give is asked for.
func (in *incoming) fill(ctx context.Context, a *intake, donors donorStore) error {
	if !in.work.enter(ctx, a.from.group) {
		return context.Cause(ctx)
	}
	defer in.work.leave(a.from.group)
	if err := a.resume(ctx); err != nil {
		return err
	}
	in.disk.Lock()
	all, _, err := in.list(a.from.knows)
	in.disk.Unlock()
	if err != nil {
		return err
	}
	// Earlier versions of the same source, then what was sent last.
	rank := func(k kept) int {
		if p, err := k.path(); err == nil && p.Name() == a.info.Path.Name() {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(all, func(x, y kept) int { return cmp.Compare(rank(x), rank(y)) })
	w, err := a.writer()
	if err != nil {
		return err
	}
	defer w.Close()
	var bytes int64
	for i := range all[:min(len(all), maxDonors)] {
		k := &all[i]
		if bytes += k.manifest; bytes > maxDonorBytes || a.isWhole() {
			break
		}
		if !k.taken && in.name(k) == a.name {
			continue // itself
		}
		d := donor{in: in, a: a, kept: k}
		if err := d.search(); err != nil || len(d.found) == 0 {
			continue // damaged or of no use
		}
		if err := d.give(ctx, w, donors); err != nil {
			return err
		}
		now := in.now()
		_ = os.Chtimes(in.file(k), now, now) // it may be gone
	}
	return nil
}

func (a *intake) isWhole() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.left == 0
}

// donor is an earlier input, in the store or on its way there.
type donor struct {
	in    *incoming
	a     *intake
	kept  *kept
	found []donation
}

// donation is a chunk of the donor that the intake lacks.
type donation struct {
	off    int64
	size   int
	id     chunk.ID
	substs []chunk.Subst
}

// search finds what the intake lacks in the donor's manifest.
func (d *donor) search() error {
	f, err := os.Open(d.in.file(d.kept))
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	head, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	var hash string
	var size int64
	if _, err := fmt.Sscanf(string(head), "%s %d\n", &hash, &size); err != nil {
		return err
	}
	dec, err := chunk.NewDecoder(r, size)
	if err != nil {
		return err
	}
	seen := make(map[uint32]bool)
	var last []chunk.Subst // what may reach into the next chunk
	for {
		c, err := dec.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if same := d.a.list.find(c.ID); len(same) > 0 && !seen[same[0]] && slices.ContainsFunc(same, func(i uint32) bool { return !d.a.has(int(i)) }) {
			seen[same[0]] = true
			d.found = append(d.found, donation{c.Offset, int(c.Size), c.ID, slices.Concat(last, c.Substs)})
		}
		if n := len(c.Substs); n > 0 {
			last = slices.Clone(c.Substs[n-1:])
		} else {
			last = nil
		}
	}
}

// give copies what was found and is still what the manifest says.
func (d *donor) give(ctx context.Context, w *writer, donors donorStore) error {
	read, done, err := d.open(ctx, donors)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return nil // collected
	}
	defer done()
	buf := chunkBuffers.Get().(*chunkBuffer)
	defer chunkBuffers.Put(buf)
	for i := range d.found {
		g := &d.found[i]
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p := buf[:g.size]
		if read(p, g.off) != nil {
			return nil // no longer what it was
		}
		chunk.Mask(p, g.off, g.substs)
		if chunk.Sum(p) != g.id {
			continue
		}
		if _, err := w.keep(ctx, g.id, p); err != nil {
			return err
		}
	}
	return nil
}

// open returns how to read the donor's NAR.
func (d *donor) open(ctx context.Context, donors donorStore) (read func(p []byte, off int64) error, done func(), err error) {
	if !d.kept.taken {
		f, err := os.Open(d.in.name(d.kept) + endSpool)
		if err != nil {
			return nil, nil, err
		}
		return func(p []byte, off int64) error { return readFull(f, p, off) }, func() { _ = f.Close() }, nil
	}
	path, err := d.kept.path()
	if err != nil {
		return nil, nil, err
	}
	n, err := donors.OpenNar(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	return func(p []byte, off int64) error { return readFull(n, p, off) }, func() { _ = n.Close() }, nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil // though it may be the end
	}
	return err
}
