package builder

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"slices"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/nix/nar"
	"github.com/drv-thru/drv-thru/core/wire"
)

// seedClosure is a derivation that needs one source.
func seedClosure(tb testing.TB) (*wire.BuildRequest, [][]byte) {
	tb.Helper()
	archive := func(text string) []byte {
		var b bytes.Buffer
		if err := nar.WriteFile(&b, []byte(text), false); err != nil {
			tb.Fatal(err)
		}
		return b.Bytes()
	}
	src, err := nix.TextInfo("src", []byte("source"), nil)
	if err != nil {
		tb.Fatal(err)
	}
	text := `Derive([("out","/nix/store/00000000000000000000000000000000-top","","")],[],["` + string(src.Path) +
		`"],"x86_64-linux","/bin/sh",[],[])`
	drv, err := nix.TextInfo("top.drv", []byte(text), []nix.Path{src.Path})
	if err != nil {
		tb.Fatal(err)
	}
	req := &wire.BuildRequest{Roots: []wire.Root{{Drv: string(drv.Path), Outputs: []string{"out"}}}}
	for i, info := range []nix.PathInfo{src, drv} {
		in := wire.Input{Path: string(info.Path), NarHash: info.NarHash.Nix32(), NarSize: info.NarSize, CA: info.CA}
		if i == 1 {
			in.References = []int{0}
		}
		req.Closure = append(req.Closure, in)
	}
	return req, [][]byte{archive("source"), archive(text)}
}

func FuzzClosure(f *testing.F) {
	req, _ := seedClosure(f)
	text, err := json.Marshal(req)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"roots":[{"drv":"/nix/store/x.drv","outputs":["out"]}],"closure":[{"refs":[0,-1,5]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var req wire.BuildRequest
		if decodeBuildRequest(bytes.NewReader(data), &req) != nil {
			return
		}
		c, err := newClosure(req.Roots, req.Closure)
		if err != nil {
			if wire.CodeOf(err) == "" {
				t.Errorf("an error without a code: %v", err)
			}
			return
		}
		for i, info := range c.infos {
			if err := info.Validate(); err != nil {
				t.Errorf("accepted %+v: %v", info, err)
			}
			if _, err := info.CheckCA(); c.ca[i] && err != nil {
				t.Errorf("accepted address of %+v: %v", info, err)
			}
		}
		for _, r := range c.roots {
			if _, ok := c.index[r.Path]; !ok {
				t.Errorf("root %s is outside of the closure", r.Path)
			}
		}
	})
}

// keepSession takes what is imported.
type keepSession struct{ got []nix.PathInfo }

func (k *keepSession) AddTempRoots(context.Context, []nix.Path) error { return nil }
func (k *keepSession) AddRoots(context.Context, []string) error       { return nil }
func (k *keepSession) Close() error                                   { return nil }

func (k *keepSession) Build(context.Context, []daemon.DerivedPath, BuildOptions, daemon.Sink) ([]daemon.BuildResult, error) {
	return nil, nil
}

func (k *keepSession) Import(_ context.Context, items []ImportItem) error {
	for _, item := range items {
		data, err := io.ReadAll(item.Nar)
		if err != nil {
			return err
		}
		if nix.SumHash(data) != item.Info.NarHash {
			panic("a NAR with another hash reached the daemon")
		}
		k.got = append(k.got, item.Info)
	}
	return nil
}

// FuzzInputFrames: whatever is sent, nothing reaches the daemon but what was
// asked for, whole and verified, and what the daemon got is no longer wanted.
func FuzzInputFrames(f *testing.F) {
	req, nars := seedClosure(f)
	var stream []byte
	for i, n := range nars {
		stream = binary.BigEndian.AppendUint32(stream, uint32(i))
		stream = binary.BigEndian.AppendUint64(stream, uint64(len(n)))
		stream = append(stream, n...)
	}
	f.Add(stream)
	f.Add(stream[:len(stream)-1])
	f.Add(stream[len(nars[0])+12:])
	f.Add([]byte{0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 7})
	f.Add([]byte{0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		cl, err := newClosure(req.Roots, req.Closure)
		if err != nil {
			t.Fatal(err)
		}
		keep := &keepSession{}
		s := &Service{cfg: Config{FreeDisk: func() (uint64, error) { return 1 << 62, nil }}}
		s.tuned.Store(&Tuning{})
		b := &build{
			s: s, dir: t.TempDir(),
			ctx: t.Context(), closure: cl, planned: make(map[nix.Path]Planned), session: keep, complete: make(chan struct{}),
			wanted: map[int]bool{0: true, 1: true}, toAdd: 2,
		}
		err = b.receive(t.Context(), bytes.NewReader(data))
		if err != nil && wire.CodeOf(err) == "" {
			t.Errorf("an error without a code: %v", err)
		}
		for i, info := range cl.infos {
			got := slices.ContainsFunc(keep.got, func(k nix.PathInfo) bool { return k.Path == info.Path })
			if got == b.wanted[i] {
				t.Errorf("%s: in the store %v, wanted %v", info.Path, got, b.wanted[i])
			}
		}
		if len(keep.got) > 2 {
			t.Errorf("%d paths were added", len(keep.got))
		}
	})
}
