package builder_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// word is a string of the NAR format.
func word(s string) string {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(s)))
	b = append(b, s...)
	return string(append(b, make([]byte, -len(s)&7)...))
}

// dirNar is the NAR of a directory of empty files, named as told.
func dirNar(names ...string) []byte {
	var b strings.Builder
	put := func(words ...string) {
		for _, w := range words {
			b.WriteString(word(w))
		}
	}
	put("nix-archive-1", "(", "type", "directory")
	for _, n := range names {
		put("entry", "(", "name", n, "node", "(", "type", "regular", "contents", "", ")", ")")
	}
	put(")")
	return []byte(b.String())
}

func deepNar(depth int) []byte {
	var b strings.Builder
	b.WriteString(word("nix-archive-1"))
	for range depth {
		for _, w := range []string{"(", "type", "directory", "entry", "(", "name", "d", "node"} {
			b.WriteString(word(w))
		}
	}
	for _, w := range []string{"(", "type", "regular", "contents", "", ")"} {
		b.WriteString(word(w))
	}
	for range depth {
		b.WriteString(word(")") + word(")"))
	}
	return []byte(b.String())
}

// claim is a source whose info fits an archive, whatever that holds.
func claim(archive []byte) bt.Object {
	hash := nix.SumHash(archive)
	ca := nix.CA{Method: nix.CANar, Algo: nix.SHA256, Digest: hash[:]}
	path, err := nix.PathFromCA("claimed", ca, nil, false)
	if err != nil {
		panic(err)
	}
	return bt.Object{Info: nix.PathInfo{Path: path, NarHash: hash, NarSize: uint64(len(archive)), CA: ca.String()}, Nar: archive}
}

// withSource is a closure of one source and a derivation that needs it.
func withSource(src bt.Object) []bt.Object {
	top, _ := bt.Derivation(bt.Drv{Name: "top", Sources: []nix.Path{src.Info.Path}})
	return []bt.Object{src, top}
}

func TestHostileUploads(t *testing.T) {
	honest := bt.Source("src", strings.Repeat("honest", 100))
	large := bt.Source("src", strings.Repeat("large!", 50_000))
	spoiled := func(o bt.Object, at int) []byte {
		b := slices.Clone(o.Nar)
		b[at] ^= 1
		return b
	}
	lied := func(o bt.Object, change func(*nix.PathInfo)) bt.Object {
		change(&o.Info)
		return o
	}
	for _, tt := range []struct {
		name   string
		src    bt.Object
		frames func(src bt.Object) [][]byte // nil: as the info says
		code   wire.Code
	}{
		{"contents differ", honest, func(bt.Object) [][]byte { return [][]byte{bt.Frame(0, spoiled(honest, 120))} }, wire.CodeInputHash},
		{"magic", honest, func(bt.Object) [][]byte { return [][]byte{bt.Frame(0, spoiled(honest, 9))} }, wire.CodeInputNar},
		{"not asked", honest, func(bt.Object) [][]byte { return [][]byte{bt.Frame(7, honest.Nar)} }, wire.CodeInputUnasked},
		{"asked once", honest, func(bt.Object) [][]byte { return [][]byte{bt.Frame(0, honest.Nar), bt.Frame(0, honest.Nar)} }, wire.CodeInputUnasked},
		{"size differs from stated", honest, func(bt.Object) [][]byte { return [][]byte{bt.Frame(0, append(slices.Clone(honest.Nar), 0))} }, wire.CodeInputSize},
		{"before its references", honest, func(bt.Object) [][]byte {
			return [][]byte{bt.Frame(1, withSource(honest)[1].Nar), bt.Frame(0, honest.Nar)}
		}, wire.CodeInputReferences},
		{"breaks off", honest, func(bt.Object) [][]byte { return [][]byte{bt.Frame(0, honest.Nar)[:200]} }, wire.CodeBadRequest},
		{"breaks off in a head", honest, func(bt.Object) [][]byte { return [][]byte{{0, 0, 0}} }, wire.CodeBadRequest},
		{"stated size lies", lied(honest, func(i *nix.PathInfo) { i.NarSize += 8 }), func(bt.Object) [][]byte {
			return [][]byte{bt.Frame(0, append(slices.Clone(honest.Nar), make([]byte, 8)...))}
		}, wire.CodeInputNar},
		{"names ..", claim(dirNar("..")), nil, wire.CodeInputNar},
		{"names .", claim(dirNar(".")), nil, wire.CodeInputNar},
		{"slash", claim(dirNar("a/b")), nil, wire.CodeInputNar},
		{"empty name", claim(dirNar("")), nil, wire.CodeInputNar},
		{"twice", claim(dirNar("a", "a")), nil, wire.CodeInputNar},
		{"unsorted", claim(dirNar("b", "a")), nil, wire.CodeInputNar},
		{"deep", claim(deepNar(10_000)), nil, wire.CodeInputNar},
		{"large", large, func(bt.Object) [][]byte { return [][]byte{bt.Frame(0, large.Nar)} }, wire.CodeInputSize},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := start(t)
			c := e.holder(1)
			objects := withSource(tt.src)
			b, err := c.Put(bt.ID(1), bt.Request(objects...))
			if err != nil {
				t.Fatal(err)
			}
			if tt.frames != nil {
				_, err = c.Send(b.ID, tt.frames(tt.src)...)
			} else {
				_, err = c.SendWanted(b, objects...)
			}
			wantCode(t, err, tt.code)
			if tt.code != wire.CodeInputUnasked && e.store.Has(tt.src.Info.Path) {
				t.Error("it is in the store")
			}
			// The builder is unharmed: an honest client goes on.
			if r := e.build(e.holder(2), 2, withSource(honest)...); r.Error != nil {
				t.Error(r.Error)
			}
		})
	}
}

func TestHostileClosures(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	src, dep := bt.Source("src", "a"), bt.Source("dep", "b")
	good := bt.Request(withSource(src)...)
	for i, tt := range []struct {
		name   string
		change func(*wire.BuildRequest)
		code   wire.Code
	}{
		{"no roots", func(r *wire.BuildRequest) { r.Roots = nil }, wire.CodeBadRequest},
		{"no closure", func(r *wire.BuildRequest) { r.Closure = nil }, wire.CodeInputReferences},
		{"root is a source", func(r *wire.BuildRequest) { r.Roots[0].Drv = r.Closure[0].Path }, wire.CodeBadRequest},
		{"no outputs", func(r *wire.BuildRequest) { r.Roots[0].Outputs = nil }, wire.CodeBadRequest},
		{"output twice", func(r *wire.BuildRequest) { r.Roots[0].Outputs = []string{"out", "out"} }, wire.CodeBadRequest},
		{"output name", func(r *wire.BuildRequest) { r.Roots[0].Outputs = []string{"out!a"} }, wire.CodeBadRequest},
		{"long label", func(r *wire.BuildRequest) { r.Roots[0].Label = strings.Repeat("x", 2000) }, wire.CodeTooLarge},
		{"outputs of all roots", func(r *wire.BuildRequest) {
			for i := range 512 {
				r.Roots[0].Outputs = append(r.Roots[0].Outputs, fmt.Sprintf("o%0200d", i))
			}
			r.Roots = slices.Repeat(r.Roots, 128)
		}, wire.CodeTooLarge},
		{"mode", func(r *wire.BuildRequest) { r.Mode = "repair" }, wire.CodeBadRequest},
		{"bad path", func(r *wire.BuildRequest) { r.Closure[0].Path += "/.." }, wire.CodeBadRequest},
		{"twice", func(r *wire.BuildRequest) { r.Closure = append(r.Closure, r.Closure[0]) }, wire.CodeBadRequest},
		{"bad hash", func(r *wire.BuildRequest) { r.Closure[0].NarHash = "x" }, wire.CodeBadRequest},
		{"hash in hex", func(r *wire.BuildRequest) { r.Closure[0].NarHash = src.Info.NarHash.Hex() }, wire.CodeBadRequest},
		{"no size", func(r *wire.BuildRequest) { r.Closure[0].NarSize = 0 }, wire.CodeBadRequest},
		{"huge size", func(r *wire.BuildRequest) { r.Closure[0].NarSize = 1 << 63 }, wire.CodeBadRequest},
		{"forward reference", func(r *wire.BuildRequest) { r.Closure[0].References = []int{1} }, wire.CodeInputReferences},
		{"negative reference", func(r *wire.BuildRequest) { r.Closure[0].References = []int{-1} }, wire.CodeInputReferences},
		{"reference twice", func(r *wire.BuildRequest) { r.Closure[1].References = []int{0, 0} }, wire.CodeBadRequest},
		{"path of another address", func(r *wire.BuildRequest) { r.Closure[0].CA = dep.Info.CA }, wire.CodeInputAddress},
		{"path of other references", func(r *wire.BuildRequest) { r.Closure[1].References = nil }, wire.CodeInputAddress},
		{"bad address", func(r *wire.BuildRequest) { r.Closure[0].CA = "fixed:r:sha256:x" }, wire.CodeInputAddress},
		{"git address", func(r *wire.BuildRequest) { r.Closure[0].CA = "fixed:git:sha256:x" }, wire.CodeInputAddress},
		{"unsigned input-addressed", func(r *wire.BuildRequest) { r.Closure[0].CA = "" }, wire.CodeInputUnsigned},
		{"unsigned derivation", func(r *wire.BuildRequest) { r.Closure[1].CA = "" }, wire.CodeInputUnsigned},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := wire.BuildRequest{Roots: slices.Clone(good.Roots), Closure: slices.Clone(good.Closure)}
			tt.change(&req)
			_, err := c.Put(bt.ID(uint32(i)), req)
			wantCode(t, err, tt.code)
			if wire.CodeOf(err) == wire.CodeInputUnsigned {
				return // known only after admission: the build exists, and has failed
			}
			if _, err := c.Get(bt.ID(uint32(i))); wire.CodeOf(err) != wire.CodeNotFound {
				t.Errorf("the build exists: %v", err)
			}
		})
	}
}

func TestDerivationIsChecked(t *testing.T) {
	text := func(name, contents string, refs ...nix.Path) bt.Object {
		info, err := nix.TextInfo(name, []byte(contents), refs)
		if err != nil {
			t.Fatal(err)
		}
		return bt.Object{Info: info, Nar: bt.FileNar(contents)}
	}
	src := bt.Source("src", "a")
	real, _ := bt.Derivation(bt.Drv{Name: "real", Sources: []nix.Path{src.Info.Path}})
	contents := string(real.Nar[bytes.Index(real.Nar, []byte("Derive(")):])
	contents = contents[:strings.LastIndex(contents, `])`)+2]
	fixed := bt.Source("fixed.drv", "no derivation")
	edited := func(old, new string) bt.Object {
		return text("real.drv", strings.Replace(contents, old, new, 1), src.Info.Path)
	}
	for name, tt := range map[string]struct {
		objects []bt.Object
		code    wire.Code
	}{
		"not a derivation":    {[]bt.Object{text("top.drv", "echo hello")}, wire.CodeInputDerivation},
		"reference left out":  {[]bt.Object{src, text("real.drv", contents)}, wire.CodeInputDerivation},
		"addressed as source": {[]bt.Object{fixed}, wire.CodeInputDerivation},
		"long system":         {[]bt.Object{src, edited(bt.System, strings.Repeat("s", 1<<20))}, wire.CodeInputDerivation},
		"many features":       {[]bt.Object{src, edited(`[(`, `[("requiredSystemFeatures","`+strings.Repeat("a ", 1<<20)+`"),(`)}, wire.CodeInputDerivation},
		"output missing":      {[]bt.Object{src, text("real.drv", contents, src.Info.Path)}, wire.CodeBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t)
			c := e.holder(1)
			req := bt.Request(tt.objects...)
			if name == "output missing" {
				req.Roots[0].Outputs = []string{"dev"}
			}
			b, err := c.Put(bt.ID(1), req)
			if err == nil {
				if _, err = c.SendWanted(b, tt.objects...); err == nil {
					err = e.finish(c, 1).Error
				}
			}
			wantCode(t, err, tt.code)
		})
	}
}

// What a stranger writes of a path that its contents make does not come into the store,
// and what is no derivation for sure is refused before a use is spent.
func TestContentAddressedInputs(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	objects := small("a")
	for i := range objects {
		objects[i].Info.Sigs = []string{"cache-1:AAAA"}
	}
	if r := e.build(c, 1, objects...); r.Error != nil {
		t.Fatal(r.Error)
	}
	for _, o := range objects {
		infos, err := e.store.PathInfos(t.Context(), []nix.Path{o.Info.Path})
		if err != nil || len(infos) != 1 || len(infos[o.Info.Path].Sigs) > 0 {
			t.Errorf("%+v, %v", infos, err)
		}
	}
	_, err := c.Put(bt.ID(2), bt.Request(bt.Source("fixed.drv", "no derivation")))
	wantCode(t, err, wire.CodeInputDerivation)
	// One that is far too long is not even read.
	huge, _ := bt.Derivation(bt.Drv{Name: "huge", Inputs: []nix.Path{objects[1].Info.Path}, Sources: []nix.Path{objects[0].Info.Path}})
	huge.Info.NarSize = 33 << 20
	b, err := c.Put(bt.ID(3), bt.Request(objects[0], objects[1], huge))
	if err != nil || !slices.Equal(b.Wanted, []int{2}) {
		t.Fatalf("%v are wanted, %v", b.Wanted, err)
	}
	head := bt.Frame(2, nil)
	binary.BigEndian.PutUint64(head[4:], huge.Info.NarSize)
	_, err = c.Send(b.ID, head)
	wantCode(t, err, wire.CodeInputDerivation)
}

// The frames of one request rise.
func TestInputsComeInOrder(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	one, two := bt.Source("one", "1"), bt.Source("two", "2")
	top, _ := bt.Derivation(bt.Drv{Name: "top", Sources: []nix.Path{one.Info.Path, two.Info.Path}})
	b, err := c.Put(bt.ID(1), bt.Request(one, two, top))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Send(b.ID, bt.Frame(1, two.Nar), bt.Frame(0, one.Nar))
	wantCode(t, err, wire.CodeInputReferences)
}

// The disk space that an input was promised is given back when the input is bad.
func TestInputsGiveRoomBack(t *testing.T) {
	const reserve = 1 << 30
	e := start(t, func(c *builder.Config) { c.MinFree = reserve })
	c := e.holder(1)
	src := bt.Source("src", strings.Repeat("x", 100_000))
	objects, size := withSource(src), src.Info.NarSize
	b, err := c.Put(bt.ID(1), bt.Request(objects...))
	if err != nil {
		t.Fatal(err)
	}
	e.setFree(reserve + 2*size - 1) // it is there twice for a while
	_, err = c.Send(b.ID, bt.Frame(0, src.Nar))
	wantCode(t, err, wire.CodeDisk)
	e.setFree(reserve + 3*size)
	bad := slices.Clone(src.Nar)
	bad[200] ^= 1
	_, err = c.Send(b.ID, bt.Frame(0, bad))
	wantCode(t, err, wire.CodeInputHash)
	if _, err = c.SendWanted(b, objects...); err != nil {
		t.Error(err)
	}
}

func TestHaveNeedsTheNarHash(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	secret := bt.Source("secret", "known to the builder only")
	e.store.Add(secret)
	objects := withSource(secret)
	req := bt.Request(objects...)
	req.Closure[0].NarHash = nix.SumHash([]byte("a guess")).Nix32()
	b, err := c.Put(bt.ID(1), req)
	if err != nil || !slices.Contains(b.Wanted, 0) {
		t.Errorf("a guess: %+v, %v", b, err)
	}
	var plan wire.Plan
	if err := c.JSON(http.MethodPost, "/v1/plan", wire.PlanRequest{Roots: req.Roots, Closure: req.Closure}, &plan); err != nil || !slices.Contains(plan.Wanted, 0) {
		t.Errorf("a guess: %+v, %v", plan, err)
	}
	if b, err = c.Put(bt.ID(2), bt.Request(objects...)); err != nil || slices.Contains(b.Wanted, 0) {
		t.Errorf("the hash: %+v, %v", b, err)
	}
}

// A derivation's text does not give its inputs: whoever states it has to state them
// as well, also where no content address says what it refers to.
func TestHaveNeedsTheReferences(t *testing.T) {
	e := start(t)
	objects := small("secret")
	if r := e.build(e.holder(1), 1, objects...); r.Error != nil {
		t.Fatal(r.Error)
	}
	top := objects[2]
	top.Info.CA, top.Info.References = "", nil
	c := e.holder(2)
	_, err := c.Put(bt.ID(2), bt.Request(top))
	wantCode(t, err, wire.CodeInputUnsigned)
	// Input-addressed is how a path that was built is stated.
	src, dep := objects[0], objects[1]
	built := bt.Built(bt.Source("built", "x").Info.Path, "built")
	built.Info.References = []nix.Path{src.Info.Path}
	e.store.Add(built)
	user, _ := bt.Derivation(bt.Drv{Name: "user", Sources: []nix.Path{built.Info.Path}, Inputs: []nix.Path{dep.Info.Path}})
	if r := e.build(c, 3, src, dep, built, user); r.Error != nil {
		t.Error(r.Error)
	}
	built.Info.References = nil
	_, err = c.Put(bt.ID(4), bt.Request(dep, built, user))
	wantCode(t, err, wire.CodeInputUnsigned)
}

func TestInputAddressedInputs(t *testing.T) {
	secret, public, err := signature.GenerateKeypair("cache-1", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := signature.GenerateKeypair("cache-1", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	path := bt.Source("built", "x").Info.Path
	for name, tt := range map[string]struct {
		prepare func(e *env, o *bt.Object)
		code    wire.Code
		wanted  bool
	}{
		"unsigned":     {func(*env, *bt.Object) {}, wire.CodeInputUnsigned, false},
		"wrong key":    {func(_ *env, o *bt.Object) { o.Info.Sigs = []string{o.Info.Sign(other)} }, wire.CodeInputUnsigned, false},
		"signed":       {func(_ *env, o *bt.Object) { o.Info.Sigs = []string{o.Info.Sign(secret), "junk"} }, "", true},
		"there":        {func(e *env, o *bt.Object) { e.store.Add(*o) }, "", false},
		"substituted":  {func(e *env, o *bt.Object) { e.store.AddUpstream(*o) }, "", false},
		"another here": {func(e *env, o *bt.Object) { e.store.Add(bt.Built(o.Info.Path, "another")) }, wire.CodeInputUnsigned, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t, func(c *builder.Config) { c.TrustedKeys = []nix.PublicKey{public} })
			c := e.holder(1)
			built := bt.Built(path, "contents")
			tt.prepare(e, &built)
			objects := withSource(built)
			req := bt.Request(objects...)
			// A plan foresees it, also where nothing has been fetched yet.
			err := c.JSON(http.MethodPost, "/v1/plan", wire.PlanRequest{Roots: req.Roots, Closure: req.Closure}, new(wire.Plan))
			if wire.CodeOf(err) != tt.code {
				t.Errorf("planned: %v", err)
			}
			b, err := c.Put(bt.ID(1), req)
			if tt.code != "" {
				wantCode(t, err, tt.code)
				return
			}
			if err != nil || slices.Contains(b.Wanted, 0) != tt.wanted {
				t.Fatalf("got %+v, %v", b, err)
			}
			if _, err := c.SendWanted(b, objects...); err != nil {
				t.Fatal(err)
			}
			if r := e.finish(c, 1); r.Error != nil {
				t.Error(r.Error)
			}
			infos, err := e.store.PathInfos(t.Context(), []nix.Path{path})
			if err != nil || len(infos) != 1 || slices.Contains(infos[path].Sigs, "junk") && tt.wanted {
				t.Errorf("got %+v, %v", infos, err)
			}
		})
	}
}

func TestUploadLimit(t *testing.T) {
	e := start(t)
	objects := withSource(bt.Source("src", strings.Repeat("x", 5000)))
	tight := e.holder(1, func(r *builder.TicketRecord) { r.Limits.MaxUploadBytes = 5000; r.MaxUses = 1 })
	_, err := tight.Put(bt.ID(1), bt.Request(objects...))
	wantCode(t, err, wire.CodeUploadLimit)
	if tk, err := e.records.Ticket(t.Context(), tight.Secret.ID()); err != nil || tk.Used != 0 {
		t.Errorf("%d uses spent, %v", tk.Used, err)
	}
	enough := e.holder(2, func(r *builder.TicketRecord) {
		r.Limits.MaxUploadBytes = ticket.Size(objects[0].Info.NarSize + objects[1].Info.NarSize)
	})
	if r := e.build(enough, 2, objects...); r.Error != nil {
		t.Error(r.Error)
	}
}

// What is collected while it has no roots gets some and is sent again, and counts again.
func TestCollectedInputsAreSentAgain(t *testing.T) {
	store := new(rootedStore)
	e := start(t, func(c *builder.Config) {
		store.Store = c.Store.(*bt.Store)
		c.Store = store
	})
	one, two := bt.Source("one", strings.Repeat("1", 3000)), bt.Source("two", strings.Repeat("2", 2000))
	top, _ := bt.Derivation(bt.Drv{Name: "top", Sources: []nix.Path{one.Info.Path, two.Info.Path}})
	again := func(c *bt.Client, id uint32) wire.Build {
		t.Helper()
		b, err := c.Put(bt.ID(id), bt.Request(one, two, top))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Send(b.ID, bt.Frame(0, one.Nar), bt.Frame(1, two.Nar)); err != nil {
			t.Fatal(err)
		}
		e.store.OnImport = func(nix.PathInfo) error { return errors.New("the connection breaks") }
		_, err = c.Send(b.ID, bt.Frame(2, top.Nar))
		wantCode(t, err, wire.CodeStore)
		e.store.OnImport = nil
		e.store.Delete(one.Info.Path)
		e.store.Delete(two.Info.Path)
		// That they are gone is found out by whoever sends next.
		store.rooted = nil
		if b, err = c.Send(b.ID); err != nil || !slices.Equal(b.Wanted, []int{0, 1, 2}) {
			t.Fatalf("%v are wanted, %v", b.Wanted, err)
		}
		if len(store.rooted) != 1 || len(store.rooted[0]) != 3 {
			t.Errorf("rooted %s", store.rooted)
		}
		return b
	}
	limited := e.holder(1, func(r *builder.TicketRecord) {
		r.Limits.MaxUploadBytes = ticket.Size(2*one.Info.NarSize + two.Info.NarSize)
	})
	b := again(limited, 1)
	_, err := limited.Send(b.ID, bt.Frame(0, one.Nar), bt.Frame(1, two.Nar))
	wantCode(t, err, wire.CodeUploadLimit)
	e.store.Delete(one.Info.Path)
	c := e.holder(2)
	if _, err := c.SendWanted(again(c, 2), one, two, top); err != nil {
		t.Fatal(err)
	}
	if r := e.finish(c, 2); r.Error != nil {
		t.Error(r.Error)
	}
}

func TestUploadInPiecesAndCompressed(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	objects := []bt.Object{}
	var sources []nix.Path
	for i := range 3000 {
		src := bt.Source("src", strings.Repeat("x", i))
		objects, sources = append(objects, src), append(sources, src.Info.Path)
	}
	top, _ := bt.Derivation(bt.Drv{Name: "top", Sources: sources})
	objects = append(objects, top)
	b, err := c.Put(bt.ID(1), bt.Request(objects...))
	if err != nil || len(b.Wanted) != 3001 {
		t.Fatal(len(b.Wanted), err)
	}
	// The first request breaks off within a frame; what was whole before stays.
	var frames [][]byte
	for _, i := range b.Wanted[:2500] {
		frames = append(frames, bt.Frame(i, objects[i].Nar))
	}
	all := bytes.Join(frames, nil)
	_, err = c.Send(b.ID, all[:len(all)-1])
	wantCode(t, err, wire.CodeBadRequest)
	if b, err = c.Put(bt.ID(1), bt.Request(objects...)); err != nil || len(b.Wanted) != 3001-2499 {
		t.Fatalf("%d are wanted, %v", len(b.Wanted), err)
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	frames = frames[:0]
	for _, i := range b.Wanted {
		frames = append(frames, bt.Frame(i, objects[i].Nar))
	}
	body := enc.EncodeAll(bytes.Join(frames, nil), nil)
	if _, err := c.Do(http.MethodPut, "/v1/builds/"+string(b.ID)+"/inputs", bytes.NewReader(body), "Content-Encoding", "zstd"); err != nil {
		t.Fatal(err)
	}
	if r := e.finish(c, 1); r.Error != nil {
		t.Error(r.Error)
	}
}

func TestDaemonRefusesAnInput(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	objects := withSource(bt.Source("src", "a"))
	e.store.OnImport = func(nix.PathInfo) error { return errors.New("no space left on device") }
	b, err := c.Put(bt.ID(1), bt.Request(objects...))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.SendWanted(b, objects...)
	wantCode(t, err, wire.CodeStore)
	e.store.OnImport = nil
	if b, err = c.Get(bt.ID(1)); err != nil || len(b.Wanted) != 2 {
		t.Fatalf("got %+v, %v", b, err)
	}
	if _, err = c.SendWanted(b, objects...); err != nil {
		t.Fatal(err)
	}
	if r := e.finish(c, 1); r.Error != nil {
		t.Error(r.Error)
	}
}
