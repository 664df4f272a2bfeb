package cache

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/drv-thru/drv-thru/core/nix"
)

// What is small is given when it has come, in the order of the import, and asks for
// nothing; what somebody else has read, or cannot be had, is left out.
func TestAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		paths := []fakePath{newPath(0, 3000), newPath(1, 300<<10), newPath(2, 5000), newPath(3, 7000), newPath(4, 700), newPath(5, 900)}
		read, lost, late := paths[2], paths[3], paths[4]
		m := newFetcher(slices.DeleteFunc(slices.Clone(paths), func(p fakePath) bool { return p.info.Path == lost.info.Path }))
		comes := make(chan struct{})
		m.onRead = func(ctx context.Context, hash string, _ int64) (int, error) {
			if hash == late.info.NarHash.Nix32() {
				<-comes
			}
			return 0, nil
		}
		v := newView(t, shuffled(paths, 1), m, ViewConfig{})
		v.RunAhead(nil)
		synctest.Wait()
		readAll(t, v, read, 64<<10)
		var given []string
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			v.Ahead(t.Context(), upTo(100<<10), func(name string, nar []byte) {
				i := slices.IndexFunc(paths, func(p fakePath) bool { return p.narName() == name })
				if len(nar) != int(paths[i].info.NarSize) {
					t.Errorf("%d bytes of NAR %d", len(nar), i)
				}
				paths[i].check(t, nar, 0)
				given = append(given, name)
			})
		}()
		synctest.Wait()
		if want := []string{paths[0].narName()}; !slices.Equal(given, want) {
			t.Errorf("given before the rest has come: %v", given)
		}
		close(comes)
		<-ended
		if want := []string{paths[0].narName(), late.narName(), paths[5].narName()}; !slices.Equal(given, want) {
			t.Errorf("given %v, want %v", given, want)
		}
		if n := len(m.log()); n != 1 {
			t.Errorf("%d requests", n)
		}
		// It can be read again by whoever lost it.
		readAll(t, v, paths[0], 64<<10)
	})
}

func TestAheadEnds(t *testing.T) {
	never := func(ctx context.Context, _ string, _ int64) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	for name, end := range map[string]func(v *View, cancel func()){
		"cancelled": func(_ *View, cancel func()) { cancel() },
		"closed":    func(v *View, _ func()) { v.Close() },
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newPath(0, 3000)
			m := newFetcher([]fakePath{p})
			m.onRead = never
			v := newView(t, []fakePath{p}, m, ViewConfig{})
			v.RunAhead(nil)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				v.Ahead(ctx, upTo(1<<20), func(string, []byte) { t.Errorf("%s: given", name) })
			}()
			synctest.Wait()
			end(v, cancel)
			<-ended
		})
	}
}

func upTo(most int64) func(string, int64) bool {
	return func(_ string, size int64) bool { return size <= most }
}

// Nobody has a byte of a NAR while it is not known that all paths are signed.
func TestNothingUnsignedAhead(t *testing.T) {
	key, _, other := testKeys(t)
	good, bad := newPath(0, 3000), newPath(1, 3000)
	infos, err := parseNarInfos([]string{signed(good, key), signed(bad, other)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	v := newView(t, nil, newFetcher([]fakePath{good, bad}), ViewConfig{SigningKey: key.ToPublicKey().String()})
	wait := v.AddInfos(infos)
	v.RunAhead(nil)
	v.Ahead(t.Context(), upTo(1<<20), func(name string, _ []byte) { t.Errorf("gave %s", name) })
	if err := wait(); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
	for _, p := range []fakePath{good, bad} {
		if _, err := v.Open(nix.NarURL(p.info.NarHash)); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", p.info.Path, err)
		}
	}
}
