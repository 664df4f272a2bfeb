package client

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// requestBytes is how much one request carries of a large path: little enough
	// to be over soon when another way to the builder is the better one, and
	// requestsAtOnce of them fill the window of a connection.
	requestBytes   = 4 << 20
	requestsAtOnce = 4
	// sideBySide is how many bytes of large paths travel at a time, if it is more
	// than one path, so that many of them do not cost their round trips one after
	// another. Larger ones come one by one: what is complete counts when the
	// connection ends.
	sideBySide  = 4 << 20
	pathsAtOnce = 16
	// maxAgain is how often chunks may be missing that the builder has taken.
	maxAgain = 3
)

// cutting is a large path in chunks.
type cutting struct {
	manifest chunk.Manifest
	encoded  []byte
}

// cuts keeps the manifests of what is being sent, so that a connection that was
// lost does not cost another look at every byte.
type cuts struct {
	mu sync.Mutex
	of map[int]*cutting
}

func (c *cuts) get(i int) *cutting {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of[i]
}

// set keeps a path's manifest, nil forgets it.
func (c *cuts) set(i int, k *cutting) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case k == nil:
		delete(c.of, i)
	case c.of == nil:
		c.of = map[int]*cutting{i: k}
	default:
		c.of[i] = k
	}
}

// chunkSender sends the large paths of one attempt.
type chunkSender struct {
	s    *Session
	id   wire.BuildID
	in   *Inputs
	t    *tally
	slot chan struct{} // of requestsAtOnce
}

// sendPaths sends large paths, and ends each once those that it refers to are
// ended.
func (c *chunkSender) sendPaths(ctx context.Context, indexes []int) (wire.Build, error) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(pathsAtOnce)
	room := semaphore.NewWeighted(sideBySide)
	ended := make(map[int]chan struct{}, len(indexes))
	for _, i := range indexes {
		ended[i] = make(chan struct{})
	}
	var mu sync.Mutex
	var last wire.Build
	for _, i := range indexes {
		weight := int64(min(c.in.Wire[i].NarSize, sideBySide))
		if room.Acquire(gctx, weight) != nil {
			break // another has failed, and says why
		}
		g.Go(func() error {
			defer room.Release(weight)
			build, err := c.sendPath(gctx, i, ended)
			if err != nil {
				return err
			}
			close(ended[i])
			mu.Lock()
			defer mu.Unlock()
			// Of answers that overtake each other the newest wants least.
			if last.ID == "" || len(build.Wanted) < len(last.Wanted) {
				last = build
			}
			return nil
		})
	}
	err := g.Wait()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return last, err
}

// sendPath sends what the builder lacks of a path, and ends it.
func (c *chunkSender) sendPath(ctx context.Context, i int, ended map[int]chan struct{}) (wire.Build, error) {
	path, size := c.in.Paths[i], c.in.Wire[i].NarSize
	nar, err := c.s.Files.OpenNar(ctx, path)
	if err != nil {
		return wire.Build{}, fmt.Errorf("read what is to be sent: %w", err)
	}
	defer nar.Close()
	if uint64(nar.Size()) != size {
		return wire.Build{}, fmt.Errorf("%s is damaged: its archive has %d bytes, the local Nix knows %d", path, nar.Size(), size)
	}
	cut := c.s.cuts.get(i)
	if cut == nil {
		if cut, err = c.cut(ctx, i, nar); err != nil {
			return wire.Build{}, err
		}
		c.s.cuts.set(i, cut)
	}
	for again := 0; ; again++ {
		build, err := c.sendOnce(ctx, i, nar, cut, ended, again > 0)
		if wire.CodeOf(err) == wire.CodeInputIncomplete && again < maxAgain {
			continue // another build of this client may just have ended it
		}
		if err == nil {
			c.s.cuts.set(i, nil)
		}
		return build, err
	}
}

// sendOnce states a path's manifest, sends what is missing and ends the path.
func (c *chunkSender) sendOnce(ctx context.Context, i int, nar Nar, cut *cutting, ended map[int]chan struct{}, again bool) (wire.Build, error) {
	if err := c.sendChunks(ctx, i, nar, cut, again); err != nil {
		return wire.Build{}, err
	}
	for _, r := range c.in.Wire[i].References {
		first, ok := ended[r]
		if !ok || r == i {
			continue
		}
		select {
		case <-first:
		case <-ctx.Done():
			return wire.Build{}, context.Cause(ctx)
		}
	}
	return c.s.API.FinishInput(ctx, c.id, i, len(c.in.Paths))
}

// cut makes the manifest of a path.
func (c *chunkSender) cut(ctx context.Context, i int, nar Nar) (*cutting, error) {
	var references []nix.Path
	for _, r := range c.in.Wire[i].References {
		references = append(references, c.in.Paths[r])
	}
	k := &cutting{manifest: chunk.Manifest{Refs: chunk.RefsOf(c.in.Paths[i], references)}}
	var err error
	k.manifest.Size, err = chunk.Cut(ctx, io.NewSectionReader(nar, 0, nar.Size()), k.manifest.Refs, func(p chunk.Chunk, _ []byte) error {
		p.Substs = append([]chunk.Subst(nil), p.Substs...)
		k.manifest.Chunks = append(k.manifest.Chunks, p)
		return nil
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("read what is to be sent: %w", err)
	}
	var b bytes.Buffer
	if err := k.manifest.Write(&b); err != nil {
		return nil, fmt.Errorf("describe %s: %w", c.in.Paths[i], err)
	}
	if len(k.manifest.Chunks) > wire.MaxInputChunks || b.Len() > wire.MaxInputManifest {
		return nil, fmt.Errorf("%s has %d bytes, more than a builder takes of one path", c.in.Paths[i], nar.Size())
	}
	k.encoded = b.Bytes()
	return k, nil
}

// sendChunks states the manifest and sends what is missing.
func (c *chunkSender) sendChunks(ctx context.Context, i int, nar Nar, cut *cutting, again bool) error {
	c.t.onWire(len(cut.encoded))
	missing, err := c.s.API.PutManifest(ctx, c.id, i, cut.encoded, len(cut.manifest.Chunks))
	if err != nil {
		return err
	}
	var left int64
	for _, r := range missing {
		for _, k := range cut.manifest.Chunks[r[0] : r[0]+r[1]] {
			left += int64(k.Size)
		}
	}
	if !again {
		c.t.skip(nar.Size() - left)
	}
	// more ends with the first failure: no more requests are begun. When it is the
	// path's, those that go by another may still arrive.
	more, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	g, ctx := errgroup.WithContext(ctx)
	for _, ordinals := range requests(cut.manifest.Chunks, missing) {
		select {
		case c.slot <- struct{}{}:
		case <-more.Done():
			return cmp.Or(g.Wait(), context.Cause(more))
		}
		g.Go(func() error {
			defer func() { <-c.slot }()
			body := &chunkBody{
				s: c.s, nar: nar, manifest: &cut.manifest, ordinals: ordinals,
				t: c.t, scratch: scratches.Get().(*scratch),
			}
			err := c.s.API.PutChunks(ctx, c.id, i, body)
			_ = body.Close()
			// What failed on this side hides behind the transport's error.
			if lerr := body.failed(); lerr != nil {
				err = fmt.Errorf("read what is to be sent: %s: %w", c.in.Paths[i], lerr)
			}
			if err != nil {
				stop(err)
			}
			if mayPass(err) {
				return nil
			}
			return err
		})
	}
	return cmp.Or(g.Wait(), context.Cause(more))
}

// requests distributes the missing chunks over requests.
func requests(chunks []chunk.Chunk, missing [][2]int) (all [][]int) {
	var one []int
	size := 0
	for _, r := range missing {
		for i := r[0]; i < r[0]+r[1]; i++ {
			n := int(chunks[i].Size)
			if size+n > requestBytes {
				all, one, size = append(all, one), nil, 0
			}
			one, size = append(one, i), size+n
		}
	}
	if len(one) > 0 {
		all = append(all, one)
	}
	return all
}
