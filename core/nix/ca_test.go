package nix_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

func TestCAVectors(t *testing.T) {
	for path := range vectors(t) {
		info, _ := vector(t, path.Hash())
		if info.CA == "" {
			continue
		}
		ca, err := nix.ParseCA(info.CA)
		if err != nil || ca.String() != info.CA {
			t.Errorf("%s comes out as %s, %v", info.CA, ca, err)
		}
		self := slices.Contains(info.References, path)
		others := slices.DeleteFunc(slices.Clone(info.References), func(r nix.Path) bool { return r == path })
		slices.Reverse(others)
		if got, err := nix.PathFromCA(path.Name(), ca, others, self); err != nil || got != path {
			t.Errorf("%s makes %s, want %s (%v)", ca, got, path, err)
		}
		if _, err := info.CheckCA(); err != nil {
			t.Error(err)
		}
	}
}

func TestParseCARefuses(t *testing.T) {
	const h = "03kkl7bsg1cc90vfzipb72ap59cmck2zsx4f9265csdjqbixzq5m"
	for _, good := range []string{"text:sha256:" + h, "fixed:sha256:" + h, "fixed:r:blake3:" + h,
		"fixed:r:sha256:b4d8c1d3a4f0d7c2c0c3e3b9a6c2a1f0e5d4c3b2a1908070605040302010ffee"} {
		if _, err := nix.ParseCA(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "text", "text:", "text:sha256", "text:sha256:", "text:md5:4425hx5d1mc9y39llj4k4nm55i",
		"text:r:sha256:" + h, "fixed:" + h, "fixed:r:" + h, "fixed:r:r:sha256:" + h, "fixed:sha3:" + h, "fixed:sha3:", "fixed::", "fixed:sha256:" + h + "0",
		"fixed:sha1:" + h, "source:sha256:" + h, "fixed::" + h, " text:sha256:" + h, "text:sha256:" + h + "\n",
		"fixed:sha256-" + h, "fixed:git:sha1:iwjz551fyw0cxcjgf4l6c879zabd6wpm", strings.Repeat("fixed:", 1000)} {
		_, err := nix.ParseCA(bad)
		if !errors.Is(err, nix.ErrBadCA) || errors.Is(err, nix.ErrGitCA) != strings.HasPrefix(bad, "fixed:git:") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestPathFromCARefuses(t *testing.T) {
	ref := []nix.Path{"/nix/store/" + h32 + "-ref"}
	digest := make([]byte, 32)
	for name, c := range map[string]struct {
		ca   nix.CA
		refs []nix.Path
		self bool
	}{
		"text to itself":        {nix.CA{Method: nix.CAText, Algo: nix.SHA256, Digest: digest}, nil, true},
		"flat with references":  {nix.CA{Method: nix.CAFlat, Algo: nix.SHA256, Digest: digest}, ref, false},
		"flat to itself":        {nix.CA{Method: nix.CAFlat, Algo: nix.SHA256, Digest: digest}, nil, true},
		"sha1 with references":  {nix.CA{Method: nix.CANar, Algo: nix.SHA1, Digest: digest[:20]}, ref, false},
		"blake3 and references": {nix.CA{Method: nix.CANar, Algo: nix.BLAKE3, Digest: digest}, ref, false},
		"text by blake3":        {nix.CA{Method: nix.CAText, Algo: nix.BLAKE3, Digest: digest}, nil, false},
		"short digest":          {nix.CA{Method: nix.CANar, Algo: nix.SHA256, Digest: digest[:20]}, nil, false},
		"nothing":               {},
	} {
		if p, err := nix.PathFromCA("x", c.ca, c.refs, c.self); !errors.Is(err, nix.ErrBadCA) {
			t.Errorf("%s: %s, %v", name, p, err)
		}
	}
	if _, err := nix.PathFromCA("a/b", nix.CA{Method: nix.CANar, Algo: nix.SHA256, Digest: digest}, nil, false); !errors.Is(err, nix.ErrBadPath) {
		t.Error(err)
	}
}

// FuzzCA: what is accepted prints in one form, which means the same.
func FuzzCA(f *testing.F) {
	for path := range vectors(f) {
		info, _ := vector(f, path.Hash())
		f.Add(info.CA, path.Name())
	}
	f.Add("fixed:r:sha256:b4d8c1d3a4f0d7c2c0c3e3b9a6c2a1f0e5d4c3b2a1908070605040302010ffee", "x.drv")
	f.Add("text:sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", ".")
	f.Fuzz(func(t *testing.T, text, name string) {
		ca, err := nix.ParseCA(text)
		if err != nil {
			return
		}
		again, err := nix.ParseCA(ca.String())
		if err != nil || again.String() != ca.String() || !slices.Equal(again.Digest, ca.Digest) {
			t.Fatal(text, ca, again, err)
		}
		p, err := nix.PathFromCA(name, ca, nil, false)
		if err == nil {
			if q, err := nix.ParsePath(string(p)); err != nil || q.Name() != name {
				t.Fatal(p, err)
			}
		}
	})
}
