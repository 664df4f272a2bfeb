package builder_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// noise is text that neither compresses to little nor repeats itself.
func noise(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, 0))
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789 \n"
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[r.IntN(len(letters))]
	}
	return string(b)
}

// begin creates a build that wants one source.
func (e *env) begin(c *bt.Client, id uint32, src bt.Object) wire.BuildID {
	e.t.Helper()
	b, err := c.Put(bt.ID(id), bt.Request(withSource(src)...))
	if err != nil || !slices.Contains(b.Wanted, 0) {
		e.t.Fatalf("%+v, %v", b, err)
	}
	return b.ID
}

// complete sends the derivation of a begun build and waits for its end.
func (e *env) complete(c *bt.Client, id uint32, src bt.Object) {
	e.t.Helper()
	if _, err := c.Send(bt.ID(id), bt.Frame(1, withSource(src)[1].Nar)); err != nil {
		e.t.Fatal(err)
	}
	if r := e.finish(c, id); r.Error != nil {
		e.t.Fatal(r.Error)
	}
}

// uploads lists the files of large inputs by how they end.
func (e *env) uploads() map[string]int {
	e.t.Helper()
	found := make(map[string]int)
	err := filepath.WalkDir(filepath.Join(filepath.Dir(e.cfg.Dir), "uploads"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found[filepath.Ext(p)]++
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.t.Fatal(err)
	}
	return found
}

func count(ranges [][2]int) (n int) {
	for _, r := range ranges {
		n += r[1]
	}
	return n
}

func TestOnlyMissingChunksAreAskedFor(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	text := noise(1, 3<<20)
	first := bt.Source("src", text)
	all := len(bt.Cut(first).Chunks)
	for i, tt := range []struct {
		name string
		src  bt.Object
		most int
	}{
		{"all is new", first, all},
		{"a line is changed", bt.Source("src", text[:1<<20]+"changed\n"+text[1<<20:]), 3},
		{"another name", bt.Source("other", text+"more"), 3},
		{"a piece of it", bt.Source("piece", text[1<<20:2<<20]), 4},
	} {
		id := e.begin(c, uint32(i), tt.src)
		_, sent, err := c.SendLarge(id, 0, tt.src)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if sent > tt.most || sent == 0 {
			t.Errorf("%s: %d chunks were sent, want at most %d", tt.name, sent, tt.most)
		}
		e.complete(c, uint32(i), tt.src)
		if !e.store.Has(tt.src.Info.Path) {
			t.Errorf("%s: it is not in the store", tt.name)
		}
	}
	if got := e.uploads(); got[".taken"] != 4 || len(got) != 1 {
		t.Errorf("what is left is %v", got)
	}
}

// Sources with references are cut with these masked: a change of what they refer
// to alone sends nothing but the manifest.
func TestReferencesAreMasked(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	text := noise(2, 1<<20)
	with := func(dep bt.Object) bt.Object {
		archive := bt.FileNar(text[:chunk.MaxSize] + string(dep.Info.Path) + text[chunk.MaxSize:] + string(dep.Info.Path))
		hash := nix.SumHash(archive)
		ca := nix.CA{Method: nix.CANar, Algo: nix.SHA256, Digest: hash[:]}
		refs := []nix.Path{dep.Info.Path}
		p, err := nix.PathFromCA("src", ca, refs, false)
		if err != nil {
			t.Fatal(err)
		}
		return bt.Object{Info: nix.PathInfo{
			Path: p, NarHash: hash, NarSize: uint64(len(archive)), CA: ca.String(), References: refs,
		}, Nar: archive}
	}
	for i, name := range []string{"one", "two"} {
		dep := bt.Source("dep", name)
		src := with(dep)
		top, _ := bt.Derivation(bt.Drv{Name: "top", Sources: []nix.Path{dep.Info.Path, src.Info.Path}})
		objects := []bt.Object{dep, src, top}
		b, err := c.Put(bt.ID(uint32(i)), bt.Request(objects...))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			_, _, err := c.SendLarge(b.ID, 1, src)
			wantCode(t, err, wire.CodeInputReferences)
		}
		if _, err := c.Send(b.ID, bt.Frame(0, dep.Nar)); err != nil {
			t.Fatal(err)
		}
		_, sent, err := c.SendLarge(b.ID, 1, src)
		if err != nil || sent != 0 {
			t.Errorf("%s: %d chunks were sent, %v", name, sent, err)
		}
		if _, err := c.Send(b.ID, bt.Frame(2, top.Nar)); err != nil {
			t.Fatal(err)
		}
		if r := e.finish(c, uint32(i)); r.Error != nil {
			t.Fatal(r.Error)
		}
	}
}

// What others have sent, and what the builder has, is asked for as if it were not
// there, chunk by chunk, and the answer is the same.
func TestChunksTellNothingOfOthers(t *testing.T) {
	e := start(t)
	victim, other := e.holder(1), e.holder(2)
	secret := bt.Source("secret", noise(3, 1<<20))
	e.begin(victim, 1, secret)
	if _, _, err := victim.SendLarge(bt.ID(1), 0, secret); err != nil {
		t.Fatal(err)
	}
	e.complete(victim, 1, secret)
	partly := bt.Source("partly", noise(4, 1<<20))
	e.begin(victim, 2, partly)
	cut := bt.Cut(partly)
	if _, err := victim.PutManifest(bt.ID(2), 0, cut.Manifest); err != nil {
		t.Fatal(err)
	}
	if err := victim.PutChunks(bt.ID(2), 0, cut.Frames(0, 1, 2)); err != nil {
		t.Fatal(err)
	}
	for i, known := range []bt.Object{secret, partly} {
		// The same but for one byte, as a guess would be; and under its own name
		// with a hash that is not right.
		guess := bt.Source(known.Info.Path.Name(), string(known.Nar))
		liar := known
		liar.Info.NarHash = guess.Info.NarHash
		for k, o := range []bt.Object{guess, liar} {
			id := e.begin(other, uint32(10+2*i+k), o)
			all := bt.Cut(o)
			missing, err := other.PutManifest(id, 0, all.Manifest)
			if err != nil {
				t.Fatal(err)
			}
			if n := count(missing); n != len(all.Chunks) {
				t.Errorf("%d of %d chunks are asked of somebody who has sent none", n, len(all.Chunks))
			}
		}
	}
	// Another client with the victim's ticket shares what was sent with it.
	friend := &bt.Client{Server: e.server, ID: other.ID, Secret: victim.Secret}
	again := bt.Source("again", string(secret.Nar))
	e.begin(friend, 20, again)
	if _, sent, err := friend.SendLarge(bt.ID(20), 0, again); err != nil || sent > 3 {
		t.Errorf("%d chunks were sent with the same ticket, %v", sent, err)
	}
	// So does the victim with another ticket. Its friend, attached to that build,
	// does not get to know what the victim has sent with the first.
	third := e.holder(3)
	victim2 := &bt.Client{Server: e.server, ID: victim.ID, Secret: third.Secret}
	again = bt.Source("again", string(secret.Nar)+"and again")
	e.begin(victim2, 21, again)
	third.ID = key.ID{77}
	all := bt.Cut(again)
	if missing, err := third.PutManifest(bt.ID(21), 0, all.Manifest); err != nil || count(missing) != len(all.Chunks) {
		t.Errorf("%d of %d chunks, %v", count(missing), len(all.Chunks), err)
	}
	if _, sent, err := victim2.SendLarge(bt.ID(21), 0, again); err != nil || sent > 3 {
		t.Errorf("%d chunks were sent by the same client, %v", sent, err)
	}
}

// Trusted clients are told nothing of each other either.
func TestTrustedClientsShareNoChunks(t *testing.T) {
	e := start(t, func(c *builder.Config) {
		c.Clients = map[key.ID]builder.TrustedClient{{70}: {Name: "one"}, {71}: {Name: "two"}}
	})
	one, two := &bt.Client{Server: e.server, ID: key.ID{70}}, &bt.Client{Server: e.server, ID: key.ID{71}}
	secret := bt.Source("secret", noise(3, 1<<20))
	e.begin(one, 1, secret)
	if _, _, err := one.SendLarge(bt.ID(1), 0, secret); err != nil {
		t.Fatal(err)
	}
	e.complete(one, 1, secret)
	for id, c := range []*bt.Client{one, two} {
		guess := bt.Source("guess", string(secret.Nar))
		e.begin(c, uint32(10+id), guess)
		all := bt.Cut(guess)
		missing, err := c.PutManifest(bt.ID(uint32(10+id)), 0, all.Manifest)
		if err != nil || (count(missing) == len(all.Chunks)) != (c == two) {
			t.Errorf("%d of %d chunks are asked of client %d, %v", count(missing), len(all.Chunks), id, err)
		}
	}
}

// While an input arrives, its sender goes by one manifest.
func TestOneManifestAtATime(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	src := bt.Source("src", noise(8, 600_000))
	cut := bt.Cut(src)
	other, err := chunk.ReadManifest(bytes.NewReader(cut.Manifest), int64(src.Info.NarSize))
	if err != nil {
		t.Fatal(err)
	}
	other.Chunks[0].Size, other.Chunks[1].Size = other.Chunks[0].Size-100, other.Chunks[1].Size+100
	other.Chunks[0].ID, other.Chunks[1].ID = chunk.ID{1}, chunk.ID{2}
	liar := src
	liar.Info.NarHash = nix.SumHash(nil)
	if _, err := c.PutManifest(e.begin(c, 1, src), 0, cut.Manifest); err != nil {
		t.Fatal(err)
	}
	_, err = c.PutManifest(e.begin(c, 2, src), 0, rawManifest(other))
	wantCode(t, err, wire.CodeConflict)
	_, err = c.PutManifest(e.begin(c, 3, liar), 0, cut.Manifest)
	wantCode(t, err, wire.CodeConflict)
	if _, err := c.PutManifest(e.begin(c, 4, src), 0, cut.Manifest); err != nil {
		t.Error(err)
	}
}

// stuckNars are read by nobody until they are let go.
type stuckNars struct {
	*bt.Store
	opened chan struct{}
	free   chan struct{}
}

func (s *stuckNars) OpenNar(ctx context.Context, p nix.Path) (cache.Nar, error) {
	if p.Name() == "known" {
		s.opened <- struct{}{}
		<-s.free
	}
	return s.Store.OpenNar(ctx, p)
}

// Inputs that take long to put together, of what their sender has sent before, leave
// room for those of others.
func TestPuttingTogetherIsShared(t *testing.T) {
	const share = 3
	stuck := &stuckNars{opened: make(chan struct{}, 100), free: make(chan struct{})}
	e := start(t, func(c *builder.Config) {
		stuck.Store = c.Store.(*bt.Store)
		c.Store = stuck
	})
	a, b := e.holder(1), e.holder(2)
	text := noise(1, 1<<20)
	known := bt.Source("known", text)
	if _, _, err := a.SendLarge(e.begin(a, 1, known), 0, known); err != nil {
		t.Fatal(err)
	}
	e.complete(a, 1, known)
	for len(stuck.opened) > 0 {
		<-stuck.opened
	}
	var sending sync.WaitGroup
	for i := range 2 * share {
		src := bt.Source(fmt.Sprint("next", i), text+fmt.Sprint(i))
		id := e.begin(a, uint32(10+i), src)
		sending.Go(func() {
			if _, err := a.PutManifest(id, 0, bt.Cut(src).Manifest); err != nil {
				t.Error(err)
			}
		})
	}
	free := sync.OnceFunc(func() { close(stuck.free) })
	defer free()
	for range share {
		<-stuck.opened
	}
	other := bt.Source("other", noise(2, 1<<20))
	id := e.begin(b, 2, other)
	sent := make(chan error, 1)
	go func() {
		_, err := b.PutManifest(id, 0, bt.Cut(other).Manifest)
		sent <- err
	}()
	eventually(t, "another's manifest", func() bool {
		select {
		case err := <-sent:
			return err == nil
		default:
			return false
		}
	})
	free()
	sending.Wait()
}

// A donor that was collected or has changed gives nothing, and its chunks are
// asked for.
func TestDonorsAreNotBelieved(t *testing.T) {
	text := noise(6, 1<<20)
	src, next := bt.Source("src", text), bt.Source("src", text+"more")
	all := len(bt.Cut(next).Chunks)
	for name, tt := range map[string]struct {
		change func(e *env)
		least  int
	}{
		"collected":     {func(e *env) { e.store.Delete(src.Info.Path) }, all},
		"other content": {func(e *env) { e.store.Add(bt.Object{Info: src.Info, Nar: bt.FileNar(noise(7, 1<<20))}) }, all},
		"shorter":       {func(e *env) { e.store.Add(bt.Object{Info: src.Info, Nar: src.Nar[:1000]}) }, all},
		"one byte": {func(e *env) {
			spoiled := slices.Clone(src.Nar)
			spoiled[200_000] ^= 1
			e.store.Add(bt.Object{Info: src.Info, Nar: spoiled})
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t)
			c := e.holder(1)
			e.begin(c, 1, src)
			if _, _, err := c.SendLarge(bt.ID(1), 0, src); err != nil {
				t.Fatal(err)
			}
			e.complete(c, 1, src)
			tt.change(e)
			e.begin(c, 2, next)
			_, sent, err := c.SendLarge(bt.ID(2), 0, next)
			if err != nil || sent < tt.least {
				t.Errorf("%d chunks were sent, want at least %d; %v", sent, tt.least, err)
			}
			e.complete(c, 2, next)
		})
	}
}

// A manifest of chunks that are all there makes no other NAR of them, and whoever
// claims so pays for another build.
func TestLyingManifestEndsTheBuild(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	src := bt.Source("src", noise(9, 600_000))
	e.begin(c, 1, src)
	if _, _, err := c.SendLarge(bt.ID(1), 0, src); err != nil {
		t.Fatal(err)
	}
	e.complete(c, 1, src)
	claimed := bt.Source("src", noise(10, 600_000))
	e.begin(c, 2, claimed)
	_, sent, err := c.SendLarge(bt.ID(2), 0, bt.Object{Info: claimed.Info, Nar: src.Nar})
	wantCode(t, err, wire.CodeInputHash)
	if sent > 1 { // the path's own hash is masked, and stands in neither
		t.Errorf("%d chunks were sent", sent)
	}
	wantCode(t, e.finish(c, 2).Error, wire.CodeInputHash)
	if e.store.Has(claimed.Info.Path) {
		t.Error("it is in the store")
	}
}

func TestChunksCountForTheLimit(t *testing.T) {
	e := start(t)
	src := bt.Source("src", noise(11, 600_000))
	size := src.Info.NarSize
	c := e.holder(1, func(r *builder.TicketRecord) { r.Limits.MaxUploadBytes = ticket.Size(size + 2000) })
	e.begin(c, 1, src)
	if _, _, err := c.SendLarge(bt.ID(1), 0, src); err != nil {
		t.Fatal(err)
	}
	e.complete(c, 1, src)
	// All of both but a few chunks is there, yet they weigh what they weigh.
	a, b := bt.Source("a", noise(11, 600_000)+"a"), bt.Source("b", noise(11, 600_000)+"b")
	top, _ := bt.Derivation(bt.Drv{Name: "top", Sources: []nix.Path{a.Info.Path, b.Info.Path}})
	_, err := c.Put(bt.ID(2), bt.Request(a, b, top))
	wantCode(t, err, wire.CodeUploadLimit)
	r, err := c.Get(bt.ID(1))
	if err != nil || r.Result.UploadBytes < size {
		t.Errorf("%+v, %v", r.Result, err)
	}
}

// Chunks that are there may be sent again, but not without end.
func TestChunksInVain(t *testing.T) {
	e := start(t)
	src := bt.Source("src", strings.Repeat(noise(12, 1000), 600)) // equal chunks
	cut := bt.Cut(src)
	c := e.holder(1, func(r *builder.TicketRecord) { r.Limits.MaxUploadBytes = 1 << 20 })
	id := e.begin(c, 1, src)
	if _, err := c.PutManifest(id, 0, cut.Manifest); err != nil {
		t.Fatal(err)
	}
	n := len(cut.Chunks[0])
	body := bytes.Repeat(cut.Frames(0), wire.MaxInputChunkBytes/n)
	var err error
	for range 2 + 65<<20/(wire.MaxInputChunkBytes-n) {
		if err = c.PutChunks(id, 0, body); err != nil {
			break
		}
	}
	wantCode(t, err, wire.CodeUploadLimit)
}

// Two builds of one client send the same source at the same time.
func TestTwoBuildsSendTheSameChunks(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	src := bt.Source("src", noise(13, 2<<20))
	e.begin(c, 1, src)
	e.begin(c, 2, src)
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			id := bt.ID(uint32(1 + i))
			for {
				_, _, err := c.SendLarge(id, 0, src)
				if wire.CodeOf(err) == wire.CodeInputIncomplete {
					continue // the other was first
				}
				if err != nil {
					t.Error(err)
				}
				return
			}
		})
	}
	wg.Wait()
	for i := range 2 {
		e.complete(c, uint32(1+i), src)
	}
	if got := e.uploads(); got[".taken"] != 1 || len(got) != 1 {
		t.Errorf("what is left is %v", got)
	}
}

// A connection that ends before the answer has the end of an input asked for
// again: while it is being added, and when it was.
func TestEndOfAnInputIsRepeated(t *testing.T) {
	e := start(t)
	adding, add := make(chan struct{}), make(chan struct{})
	e.store.OnImport = func(info nix.PathInfo) error {
		if info.Path.Name() == "src" {
			close(adding)
			<-add
		}
		return nil
	}
	c := e.holder(1)
	src := bt.Source("src", noise(17, 1<<20))
	id := e.begin(c, 1, src)
	cut := bt.Cut(src)
	missing, err := c.PutManifest(id, 0, cut.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range cut.Requests(missing) {
		if err := c.PutChunks(id, 0, body); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.Finish(id, 1)
	wantCode(t, err, wire.CodeInputSize)
	_, err = c.Finish(id, 2)
	wantCode(t, err, wire.CodeInputUnasked)

	end := func(when string) {
		b, err := c.Finish(id, 0)
		if err != nil || slices.Contains(b.Wanted, 0) {
			t.Errorf("%s: %+v, %v", when, b, err)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { end("first") })
	<-adding
	wg.Go(func() { end("while it is added") })
	close(add)
	wg.Wait()
	end("afterwards")
	e.complete(c, 1, src)
}

// A client that vanishes in the middle of a chunk leaves what was whole, and
// nothing of it beyond retention.
func TestClientVanishesWithinAChunk(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	src := bt.Source("src", noise(14, 600_000))
	cut := bt.Cut(src)
	id := e.begin(c, 1, src)
	if _, err := c.PutManifest(id, 0, cut.Manifest); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		resp, err := c.Do(http.MethodPut, "/v1/builds/"+string(id)+"/inputs/0/chunks", r)
		if err == nil {
			err = resp.Body.Close()
		}
		done <- err
	}()
	if _, err := w.Write(cut.Frames(0, 1)[:len(cut.Frames(0))+100]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first chunk is kept", func() bool {
		names, _ := filepath.Glob(filepath.Join(filepath.Dir(e.cfg.Dir), "uploads", "*", "*.have"))
		if len(names) != 1 {
			return false
		}
		info, err := os.Stat(names[0])
		return err == nil && info.Size() > 0
	})
	w.CloseWithError(errors.New("vanished"))
	if err := <-done; err == nil {
		t.Error("no error")
	}
	if missing, err := c.PutManifest(id, 0, cut.Manifest); err != nil || !slices.Equal(missing, [][2]int{{1, len(cut.Chunks) - 1}}) {
		t.Errorf("missing are %v, %v", missing, err)
	}
	if _, err := c.Cancel(id); err != nil {
		t.Fatal(err)
	}
	if got := e.uploads(); got[".spool"] != 1 {
		t.Errorf("what is left is %v", got)
	}
	e.stop()
	e.advance(25 * time.Hour)
	e.run()
	eventually(t, "nothing is left", func() bool { return len(e.uploads()) == 0 })
}

// Who is still sending what another request has sent is told that the build has ended.
func TestBuildEndsDuringARequest(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	src := bt.Source("src", noise(1, 400<<10))
	id := e.begin(c, 1, src)
	cut := bt.Cut(src)
	if _, err := c.PutManifest(id, 0, cut.Manifest); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	defer w.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := c.Do(http.MethodPut, "/v1/builds/"+string(id)+"/inputs/0/chunks", r)
		sent <- err
	}()
	if _, err := w.Write(cut.Frames(0)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a chunk of it is there", func() bool {
		missing, err := c.PutManifest(id, 0, cut.Manifest)
		return err == nil && missing[0][0] == 1
	})
	if _, _, err := c.SendLarge(id, 0, src); err != nil {
		t.Fatal(err)
	}
	e.complete(c, 1, src)
	wantCode(t, <-sent, wire.CodeInputUnasked)
}
