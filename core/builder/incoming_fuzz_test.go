package builder

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/nar"
	"github.com/drv-thru/drv-thru/core/wire"
)

// seedLarge is a source in chunks: its manifest, and the body that carries them.
func seedLarge(tb testing.TB) (info nix.PathInfo, archive, manifest, body []byte) {
	tb.Helper()
	text := make([]byte, 40<<10)
	for i := range text {
		text[i] = byte(i * i >> 9)
	}
	var b bytes.Buffer
	if err := nar.WriteFile(&b, text, false); err != nil {
		tb.Fatal(err)
	}
	archive = b.Bytes()
	sum := nix.SumHash(archive)
	ca := nix.CA{Method: nix.CANar, Algo: nix.SHA256, Digest: sum[:]}
	path, err := nix.PathFromCA("src", ca, nil, false)
	if err != nil {
		tb.Fatal(err)
	}
	info = nix.PathInfo{Path: path, NarHash: sum, NarSize: uint64(len(archive)), CA: ca.String()}
	var stated bytes.Buffer
	var frames []byte
	refs := chunk.RefsOf(info.Path, info.References)
	enc := chunk.NewEncoder(&stated, refs)
	i := uint32(0)
	_, err = chunk.Cut(tb.Context(), bytes.NewReader(archive), refs, func(c chunk.Chunk, masked []byte) error {
		frames = chunk.AppendFrame(binary.BigEndian.AppendUint32(frames, i), masked, true)
		i++
		return enc.Chunk(c)
	})
	if err == nil {
		err = enc.Close()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return info, archive, stated.Bytes(), frames
}

func fuzzIncoming(t *testing.T) *incoming {
	in, err := newIncoming(t.TempDir(), &Config{Now: func() time.Time { return time.Unix(1e9, 0) }},
		func(uint64) (*promise, error) { return &promise{of: new(reserved)}, nil })
	if err != nil {
		t.Fatal(err)
	}
	return in
}

type noStore struct{}

func (noStore) OpenNar(context.Context, nix.Path) (cache.Nar, error) { return nil, fs.ErrNotExist }

// FuzzLargeInput: whatever manifest and chunks are sent, nothing reaches the
// daemon but the NAR that was stated, and nothing is held in the end.
func FuzzLargeInput(f *testing.F) {
	info, _, manifest, body := seedLarge(f)
	f.Add(manifest, body)
	f.Add(manifest, body[:len(body)-1])
	f.Add(manifest[:len(manifest)-1], body)
	f.Add(manifest, append(bytes.Clone(body), body...))
	f.Add(manifest, []byte{0, 0, 0, 9, 0, 0, 0, 1, 7})
	f.Add(append(bytes.Clone(manifest), 0), []byte{})
	f.Fuzz(func(t *testing.T, manifest, body []byte) {
		in := fuzzIncoming(t)
		keep := &keepSession{}
		b := &build{
			s: &Service{incoming: in}, ctx: t.Context(), cancel: func(error) {}, place: &place{group: "g"},
			closure: &closure{infos: []nix.PathInfo{info}, index: map[nix.Path]int{info.Path: 0}, ca: []bool{true}},
			planned: make(map[nix.Path]Planned), session: keep, complete: make(chan struct{}),
			wanted: map[int]bool{0: true}, toAdd: 1, rec: BuildRecord{Detach: true},
		}
		b.s.queue = newQueue(1)
		l := &largeInput{b: b, c: &caller{client: key.ID{1}}, info: info}
		err := func() error {
			a, err := in.begin(t.Context(), l.sender(), &info, bytes.NewReader(manifest), noStore{})
			if err != nil {
				return err
			}
			if err := b.hold(0, a); err != nil {
				return err
			}
			w, err := a.writer()
			if err != nil {
				return err
			}
			err = l.receive(t.Context(), w, bytes.NewReader(body))
			w.Close()
			if err != nil {
				return err
			}
			a.retain()
			defer a.release()
			return l.finish(t.Context(), a)
		}()
		if err != nil && wire.CodeOf(err) == "" {
			t.Errorf("an error without a code: %v", err)
		}
		if (len(keep.got) == 1) != (err == nil) || len(keep.got) == 1 == b.wanted[0] {
			t.Errorf("%d paths were added, wanted %v, %v", len(keep.got), b.wanted[0], err)
		}
		b.dropIntakes()
		if len(in.open) > 0 || in.units.taken != 0 {
			t.Errorf("%d inputs and %d units are held", len(in.open), in.units.taken)
		}
	})
}

// FuzzDonor: whatever the files of an earlier input say, what is taken from it is
// what the manifest of the new one names.
func FuzzDonor(f *testing.F) {
	info, archive, manifest, _ := seedLarge(f)
	head := fmt.Appendf(nil, "%s %d\n", info.NarHash.Nix32(), info.NarSize)
	f.Add(append(bytes.Clone(head), manifest...), archive)
	f.Add(manifest, archive)
	f.Add(append(bytes.Clone(head), manifest[:60]...), archive[:1000])
	f.Add([]byte("x 9\n"), []byte{})
	f.Fuzz(func(t *testing.T, kept, spool []byte) {
		in := fuzzIncoming(t)
		from := sender{client: key.ID{1}, group: "g"}
		dir := filepath.Join(in.dir, from.dir())
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "00000000000000000000000000000000-src")
		for end, data := range map[string][]byte{endManifest: kept, endSpool: spool, endHave: spool} {
			if err := os.WriteFile(name+end, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		a, err := in.begin(t.Context(), from, &info, bytes.NewReader(manifest), noStore{})
		if err != nil {
			t.Fatal(err)
		}
		defer a.release()
		got, err := os.ReadFile(a.spool())
		if err != nil {
			t.Fatal(err)
		}
		for i := range a.list.ids {
			off, size := a.list.span(i)
			if a.has(i) && !bytes.Equal(got[off:off+int64(size)], archive[off:off+int64(size)]) {
				t.Errorf("chunk %d is taken and not what it should be", i)
			}
		}
	})
}
