package nix_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

// testdata was made by Nix 2.8.0: cache is `nix copy --to
// file://…?compression=none` of objects added with each method and algorithm
// (nix-store --add, --add-fixed, builtins.toFile, nix store
// make-content-addressed, a build), signed with `nix store sign` by the keys
// below; drv is what nix-instantiate made of one expression for each kind of
// derivation.
const (
	vectorSecret = "vectors-1:8sobG6b4b4TMINSp2eewC1iF1a68KPd6FwiEAzl3W4h2bPHkksPxkOxkCUNbYwTyL0IBSXEG//fd78zpsBoWXw=="
	vectorPublic = "vectors-1:dmzx5JLD8ZDsZAlDW2ME8i9CAUlxBv/33e/M6bAaFl8="
	otherPublic  = "other.example-2:zbAFHvDOTqJEPMxlpsOFDQCGv/BNTycPukm+nEfAzLw="
)

const selfRef = "38ni0xvxp7h8zgm39kzh9fhqisf48fj4" // refers to itself, fixed:r:sha256

func readFile(tb testing.TB, elem ...string) []byte {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(append([]string{"testdata"}, elem...)...))
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// vectors returns the narinfos of testdata/cache by store path.
func vectors(tb testing.TB) map[nix.Path][]byte {
	tb.Helper()
	files, err := filepath.Glob("testdata/cache/*.narinfo")
	if err != nil || len(files) != 16 {
		tb.Fatal(files, err)
	}
	texts := make(map[nix.Path][]byte)
	for _, f := range files {
		text := readFile(tb, "cache", filepath.Base(f))
		info, err := nix.ParseNarInfo(text)
		if err != nil {
			tb.Fatalf("%s: %v", f, err)
		}
		texts[info.Path] = text
	}
	return texts
}

// vector returns the path info and NAR of one object, by hash part.
func vector(tb testing.TB, hashPart string) (nix.PathInfo, []byte) {
	tb.Helper()
	info, err := nix.ParseNarInfo(readFile(tb, "cache", hashPart+".narinfo"))
	if err != nil {
		tb.Fatal(err)
	}
	return info, readFile(tb, "cache", nix.NarURL(info.NarHash))
}

// drvs returns testdata/drv by store path.
func drvs(tb testing.TB) map[nix.Path][]byte {
	tb.Helper()
	files, err := filepath.Glob("testdata/drv/*.drv")
	if err != nil || len(files) == 0 {
		tb.Fatal(files, err)
	}
	contents := make(map[nix.Path][]byte)
	for _, f := range files {
		p, err := nix.ParseBase(filepath.Base(f))
		if err != nil {
			tb.Fatal(err)
		}
		contents[p] = readFile(tb, "drv", filepath.Base(f))
	}
	return contents
}

// drv returns the one whose name begins with name and a dot.
func drv(tb testing.TB, name string) (nix.Path, []byte) {
	tb.Helper()
	for p, contents := range drvs(tb) {
		if strings.TrimSuffix(p.Name(), ".drv") == name {
			return p, contents
		}
	}
	tb.Fatalf("no derivation %s", name)
	return "", nil
}

func secretKey(tb testing.TB) nix.SecretKey {
	tb.Helper()
	key, err := nix.ParseSecretKey(vectorSecret + "\n")
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func publicKeys(tb testing.TB, text string) []nix.PublicKey {
	tb.Helper()
	var keys []nix.PublicKey
	for word := range strings.FieldsSeq(text) {
		key, err := nix.ParsePublicKey(word)
		if err != nil {
			tb.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys
}
