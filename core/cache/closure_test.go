package cache

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

// testKeys are two signing keys of one name and one of another, made from fixed
// seeds.
func testKeys(t testing.TB) (key, sameName, other nix.SecretKey) {
	t.Helper()
	parse := func(text string) nix.SecretKey {
		k, err := nix.ParseSecretKey(text)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	return parse(secretKey("builder-1", 1)), parse(secretKey("builder-1", 2)), parse(secretKey("other-1", 3))
}

func signed(p fakePath, keys ...nix.SecretKey) string {
	for _, k := range keys {
		p.info.Sigs = append(p.info.Sigs, p.info.Sign(k))
	}
	return string(p.info.MarshalNarInfo())
}

func TestSignatures(t *testing.T) {
	key, sameName, other := testKeys(t)
	p := newPath(1, 100)
	lie := newPath(1, 101)
	lie.info.Sigs = []string{p.info.Sign(key)}
	cases := []struct {
		name, text, want string
	}{
		{"signed", signed(p, key), ""},
		{"signed by several", signed(p, other, sameName, key), ""},
		{"unsigned", signed(p), "is not signed by builder-1"},
		{"by another", signed(p, other), "is not signed by builder-1"},
		{"by another of the same name", signed(p, sameName), "does not fit"},
		{"of something else", string(lie.info.MarshalNarInfo()), "does not fit"},
	}
	cfg := ViewConfig{Fetcher: newFetcher(nil), SigningKey: key.ToPublicKey().String()}
	for _, c := range cases {
		v, err := NewView([]string{signed(newPath(0, 1), key), c.text}, cfg)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (!errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), string(p.info.Path))):
			t.Errorf("%s: %v", c.name, err)
		}
		if v != nil {
			v.Close()
		}
	}
	if _, err := NewView(nil, ViewConfig{Fetcher: cfg.Fetcher, SigningKey: "nonsense"}); err == nil {
		t.Error("a key that is none is accepted")
	}
	if _, err := NewView(nil, ViewConfig{}); err == nil {
		t.Error("no fetcher is accepted")
	}
}

// Of paths that are added without waiting, NARs are shown once all are verified, or not
// at all.
func TestAddInfos(t *testing.T) {
	key, _, other := testKeys(t)
	parse := func(texts ...string) []nix.PathInfo {
		infos, err := parseNarInfos(texts, nil)
		if err != nil {
			t.Fatal(err)
		}
		return infos
	}
	good, bad, twice := newPath(1, 100), newPath(2, 100), newPath(3, 100)
	twice.info.Path = bad.info.Path
	cfg := ViewConfig{Fetcher: newFetcher(nil), SigningKey: key.ToPublicKey().String()}
	for _, c := range []struct {
		infos []nix.PathInfo
		want  error
	}{
		{parse(signed(good, key), signed(bad, key)), nil},
		{parse(signed(good, key), signed(bad, other)), ErrSignature},
		{parse(signed(good, key), signed(bad, key), signed(twice, key)), ErrNarInfo},
	} {
		v, err := NewView(nil, cfg)
		if err != nil {
			t.Fatal(err)
		}
		wait := v.AddInfos(c.infos)
		if _, err := v.Stat(nix.NarInfoURL(good.info.Path)); err != nil {
			t.Errorf("the narinfo is %v", err)
		}
		if _, err := v.Stat(good.narName()); !errors.Is(err, c.want) {
			t.Errorf("want %v, the NAR is %v", c.want, err)
		}
		if err := wait(); !errors.Is(err, c.want) {
			t.Errorf("want %v, got %v", c.want, err)
		}
		v.Close()
	}
}

// What a View shows is what was parsed, not what was sent.
func TestNarInfosAreRendered(t *testing.T) {
	p := newPath(1, 100)
	text := string(p.info.MarshalNarInfo())
	v := newView(t, nil, newFetcher(nil), ViewConfig{})
	if err := v.Add([]string{text + "Evil: yes\n"}); err != nil {
		t.Fatal(err)
	}
	got, err := fs.ReadFile(v, nix.NarInfoURL(p.info.Path))
	if err != nil || string(got) != text {
		t.Errorf("%q, %v", got, err)
	}
}

func TestBadNarInfos(t *testing.T) {
	p, q := newPath(1, 100), newPath(2, 100)
	text := string(p.info.MarshalNarInfo())
	twice := p
	twice.info.NarHash = q.info.NarHash
	otherSize := q
	otherSize.info.NarHash, otherSize.info.NarSize = p.info.NarHash, 7
	huge, huger := p, q
	huge.info.NarSize, huger.info.NarSize = math.MaxInt64, math.MaxInt64
	cases := map[string][]string{
		"empty":                      {""},
		"foreign URL":                {strings.Replace(text, "URL: nar/", "URL: ../", 1)},
		"URL of another":             {strings.Replace(text, p.narName(), q.narName(), 1)},
		"compressed":                 {strings.Replace(text, "Compression: none", "Compression: xz", 1)},
		"no size":                    {strings.Replace(text, "NarSize: 100", "NarSize: 0", 1)},
		"path outside the store":     {strings.Replace(text, "/nix/store/", "/etc/", 1)},
		"100 MB":                     {text + strings.Repeat("x: "+strings.Repeat("y", 97)+"\n", 1_000_000)},
		"one path, two contents":     {text, string(twice.info.MarshalNarInfo())},
		"one NAR hash, two sizes":    {text, string(otherSize.info.MarshalNarInfo())},
		"sizes that overflow in sum": {string(huge.info.MarshalNarInfo()), string(huger.info.MarshalNarInfo())},
	}
	for name, texts := range cases {
		if _, err := NewView(texts, ViewConfig{Fetcher: newFetcher(nil)}); !errors.Is(err, ErrNarInfo) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRealisationNames(t *testing.T) {
	hash, out := strings.Repeat("0a", 32), "00000000000000000000000000000000-x"
	id := "sha256:" + hash + "!out"
	if name, err := realisationName(`{"id":"` + id + `","outPath":"` + out + `"}`); err != nil || name != "realisations/"+id+".doi" {
		t.Error(name, err)
	}
	for _, text := range []string{
		``, `{}`, `[]`,
		`{"id":"sha256:` + hash + `","outPath":"` + out + `"}`,
		`{"id":"sha256:` + hash + `!../../x","outPath":"` + out + `"}`,
		`{"id":"sha256:00!out","outPath":"` + out + `"}`,
		`{"id":"../` + id + `","outPath":"` + out + `"}`,
		`{"id":"` + id + `","outPath":"/etc/passwd"}`,
	} {
		if _, err := NewView(nil, ViewConfig{Fetcher: newFetcher(nil), Realisations: []string{text}}); !errors.Is(err, ErrNarInfo) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzNarInfos(f *testing.F) {
	p := newPath(1, 100, newPath(0, 1))
	f.Add(string(p.info.MarshalNarInfo()), string(newPath(0, 1).info.MarshalNarInfo()))
	f.Add(string(p.info.MarshalNarInfo()), string(p.info.MarshalNarInfo()))
	f.Add("", "StorePath: /nix/store/x\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		v, err := NewView([]string{a, b}, ViewConfig{Fetcher: newFetcher(nil)})
		if err != nil {
			return
		}
		defer v.Close()
		for _, info := range v.Infos() {
			name := nix.NarInfoURL(info.Path)
			text, err := fs.ReadFile(v, name)
			if err != nil || !fs.ValidPath(name) {
				t.Fatal(name, err)
			}
			again, err := nix.ParseNarInfo(text)
			if err != nil || !bytes.Equal(again.MarshalNarInfo(), text) {
				t.Fatalf("%v: %q", err, text)
			}
			if st, err := v.Stat(nix.NarURL(info.NarHash)); err != nil || uint64(st.Size()) != info.NarSize {
				t.Fatal(st, err)
			}
		}
		v.RunAhead(nil)
	})
}

func FuzzRealisation(f *testing.F) {
	f.Add(`{"id":"sha256:` + strings.Repeat("0a", 32) + `!out","outPath":"00000000000000000000000000000000-x"}`)
	f.Fuzz(func(t *testing.T, text string) {
		if name, err := realisationName(text); err == nil && (!fs.ValidPath(name) || strings.Count(name, "/") != 1) {
			t.Errorf("name %q", name)
		}
	})
}
