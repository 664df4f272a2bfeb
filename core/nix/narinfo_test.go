package nix_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

func TestNarInfoVectors(t *testing.T) {
	keys := publicKeys(t, vectorPublic)
	for path, text := range vectors(t) {
		info, err := nix.ParseNarInfo(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.MarshalNarInfo(); !bytes.Equal(got, text) {
			t.Errorf("%s comes out as\n%swant\n%s", path, got, text)
		}
		if key, ok := info.VerifySig(keys); !ok || key.Name != "vectors-1" {
			t.Errorf("%s: signature not accepted", path)
		}
		if sig := info.Sign(secretKey(t)); !slices.Contains(info.Sigs, sig) {
			t.Errorf("%s: our signature is %s, Nix's %s", path, sig, info.Sigs)
		}
	}
}

func TestFingerprint(t *testing.T) {
	info, _ := vector(t, selfRef)
	want := "1;/nix/store/38ni0xvxp7h8zgm39kzh9fhqisf48fj4-self-ref;" +
		"sha256:1x9shk5nzapx636d54a6hw8wml8f4263wk7cyylh7p0j89nss0ys;392;" +
		"/nix/store/38ni0xvxp7h8zgm39kzh9fhqisf48fj4-self-ref,/nix/store/5j6k1amj1lgii173sf31i9g3cyjsilf4-lib.txt"
	if got := info.Fingerprint(); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	slices.Reverse(info.References)
	if got := info.Fingerprint(); got != want {
		t.Errorf("with unsorted references %s\nwant\n%s", got, want)
	}
}

func TestVerifySig(t *testing.T) {
	info, _ := vector(t, "8ccag28lb07dlampi6ajflm11dn8qqfx")
	zeroKey := "vectors-1:" + strings.Repeat("A", 43) + "="
	for _, c := range []struct {
		keys, want string
	}{
		{vectorPublic, "vectors-1"},
		{otherPublic, "other.example-2"},
		{zeroKey, ""},
		{zeroKey + " " + vectorPublic, "vectors-1"},
		{strings.Replace(vectorPublic, "vectors-1", "vectors-2", 1), ""},
		{"", ""},
	} {
		key, ok := info.VerifySig(publicKeys(t, c.keys))
		if key.Name != c.want || ok != (c.want != "") {
			t.Errorf("%s: %q, %v", c.keys, key.Name, ok)
		}
	}
	keys := publicKeys(t, vectorPublic)
	for n, want := range map[int]bool{nix.MaxSigs - 1: true, nix.MaxSigs: false} {
		crowded := info
		crowded.Sigs = append(slices.Repeat([]string{"a:b"}, n), info.Sign(secretKey(t)))
		if _, ok := crowded.VerifySig(keys); ok != want {
			t.Errorf("a signature behind %d others: %t", n, ok)
		}
	}
	for what, change := range map[string]func(*nix.PathInfo){
		"size":      func(i *nix.PathInfo) { i.NarSize++ },
		"hash":      func(i *nix.PathInfo) { i.NarHash[0] ^= 1 },
		"reference": func(i *nix.PathInfo) { i.References = i.References[1:] },
		"path":      func(i *nix.PathInfo) { i.Path += "x" },
		"signature": func(i *nix.PathInfo) {
			for k := range i.Sigs {
				i.Sigs[k] = strings.Replace(i.Sigs[k], "=", "A", 1)
			}
		},
	} {
		changed := info
		changed.Sigs = slices.Clone(info.Sigs)
		change(&changed)
		if _, ok := changed.VerifySig(keys); ok {
			t.Errorf("accepted with another %s", what)
		}
	}
}

func TestParseKeys(t *testing.T) {
	for _, bad := range []string{"", "x", "x:", ":AAAA", "x:AAAA", vectorPublic, vectorSecret[:len(vectorSecret)-4],
		"a b" + vectorSecret[9:], strings.Replace(vectorSecret, "h2bP", "h2bQ", 1),
		strings.Repeat("n", 1000) + vectorSecret} {
		if _, err := nix.ParseSecretKey(bad); err == nil {
			t.Errorf("secret key %q accepted", bad)
		} else if len(bad) > 60 && strings.Contains(err.Error(), bad[20:50]) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
	if pub := secretKey(t).ToPublicKey().String(); pub != vectorPublic {
		t.Errorf("public half %s", pub)
	}
	for _, bad := range []string{"x", "x:AAAA", vectorSecret, vectorPublic + "=", vectorPublic[:20], ":" + vectorPublic, "\x7f" + vectorPublic} {
		if _, err := nix.ParsePublicKey(bad); err == nil {
			t.Errorf("public key %q accepted", bad)
		}
	}
}

func TestParseNarInfoRefuses(t *testing.T) {
	good := string(readFile(t, "cache", selfRef+".narinfo"))
	if _, err := nix.ParseNarInfo([]byte(strings.TrimSuffix(good, "\n") + "\nFuture: key: with colon\n")); err != nil {
		t.Errorf("unknown key: %v", err)
	}
	line := func(key string) string {
		i := strings.Index(good, key+": ")
		return good[i : i+strings.IndexByte(good[i:], '\n')+1]
	}
	hash := line("NarHash")
	sigs := strings.Repeat(line("Sig"), nix.MaxSigs)
	refs := "References: " + strings.Repeat("38ni0xvxp7h8zgm39kzh9fhqisf48fj4-x ", nix.MaxNarInfo/40) + "\n"
	for name, text := range map[string]string{
		"empty":                  "",
		"no path":                strings.Replace(good, line("StorePath"), "", 1),
		"no NAR hash":            strings.Replace(good, hash, "", 1),
		"no NAR size":            strings.Replace(good, line("NarSize"), "", 1),
		"no URL":                 strings.Replace(good, line("URL"), "", 1),
		"no compression":         strings.Replace(good, line("Compression"), "", 1),
		"compressed":             strings.Replace(good, "none", "xz", 1),
		"other URL":              strings.Replace(good, "URL: nar/1", "URL: nar/0", 1),
		"URL elsewhere":          strings.Replace(good, "URL: ", "URL: http://127.0.0.1/", 1),
		"other file hash":        strings.Replace(good, "FileHash: sha256:1", "FileHash: sha256:0", 1),
		"other file size":        strings.Replace(good, "FileSize: 392", "FileSize: 393", 1),
		"size 0":                 strings.ReplaceAll(good, ": 392", ": 0"),
		"size +1":                strings.ReplaceAll(good, ": 392", ": +392"),
		"size 0392":              strings.ReplaceAll(good, ": 392", ": 0392"),
		"size 2^63":              strings.ReplaceAll(good, ": 392", ": 9223372036854775808"),
		"size 2^64":              strings.ReplaceAll(good, ": 392", ": 18446744073709551616"),
		"md5":                    strings.Replace(good, "NarHash: sha256", "NarHash: md5", 1),
		"path twice":             good + line("StorePath"),
		"hash twice":             good + hash,
		"references twice":       good + line("References"),
		"bad path":               strings.Replace(good, "StorePath: /nix/store/", "StorePath: /nix/store/../", 1),
		"bad reference":          strings.Replace(good, "References: ", "References: ../", 1),
		"two spaces":             strings.Replace(good, "-self-ref 5j6", "-self-ref  5j6", 1),
		"bad deriver":            good + "Deriver: x.drv\n",
		"bad CA":                 strings.Replace(good, "fixed:r", "fixed:x", 1),
		"too many signatures":    good + sigs,
		"signature with control": good + "Sig: a\rb\n",
		"empty signature":        good + "Sig: \n",
		"line without a colon":   good + "hello\n",
		"empty line":             "\n" + good,
		"too long":               good + "X: " + strings.Repeat("x", nix.MaxNarInfo) + "\n",
		"references, too long":   strings.Replace(good, line("References"), refs+refs, 1),
	} {
		if info, err := nix.ParseNarInfo([]byte(text)); !errors.Is(err, nix.ErrBadNarInfo) {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
	}
}

func TestUnknownDeriver(t *testing.T) {
	good := string(readFile(t, "cache", selfRef+".narinfo"))
	info, err := nix.ParseNarInfo([]byte(good + "Deriver: unknown-deriver\n"))
	if err != nil || info.Deriver != "" {
		t.Error(info.Deriver, err)
	}
}

func manyPaths(n int) []nix.Path {
	all := make([]nix.Path, n)
	for i := range all {
		all[i] = nix.Path(fmt.Sprintf("/nix/store/%032d-x", i))
	}
	return all
}

func TestValidate(t *testing.T) {
	good, _ := vector(t, selfRef)
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	most := good
	most.References, most.Sigs = manyPaths(nix.MaxReferences), slices.Repeat([]string{"a:b"}, nix.MaxSigs)
	if err := most.Validate(); err != nil {
		t.Errorf("as many as may be: %v", err)
	}
	for name, change := range map[string]func(*nix.PathInfo){
		"path":                func(i *nix.PathInfo) { i.Path = "/etc/passwd" },
		"deriver":             func(i *nix.PathInfo) { i.Deriver = "x" },
		"hash":                func(i *nix.PathInfo) { i.NarHash = nix.Hash{} },
		"size":                func(i *nix.PathInfo) { i.NarSize = 0 },
		"huge":                func(i *nix.PathInfo) { i.NarSize = 1 << 63 },
		"reference":           func(i *nix.PathInfo) { i.References = []nix.Path{"x"} },
		"unsorted":            func(i *nix.PathInfo) { slices.Reverse(i.References) },
		"duplicate":           func(i *nix.PathInfo) { i.References[0] = i.References[1] },
		"too many references": func(i *nix.PathInfo) { i.References = manyPaths(nix.MaxReferences + 1) },
		"too many sigs":       func(i *nix.PathInfo) { i.Sigs = slices.Repeat([]string{"a:b"}, nix.MaxSigs+1) },
		"sig with newline":    func(i *nix.PathInfo) { i.Sigs = []string{"a:b\nStorePath: x"} },
		"sig of a terminal":   func(i *nix.PathInfo) { i.Sigs = []string{"a:\x7f"} },
		"long sig":            func(i *nix.PathInfo) { i.Sigs = []string{strings.Repeat("a", 1025)} },
		"CA with newline":     func(i *nix.PathInfo) { i.CA += "\nSig: x" },
	} {
		bad := good
		bad.References = slices.Clone(good.References)
		change(&bad)
		if err := bad.Validate(); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
}

// FuzzNarInfo: what is accepted comes out as a narinfo of the same meaning.
func FuzzNarInfo(f *testing.F) {
	for _, text := range vectors(f) {
		f.Add(text)
	}
	f.Add([]byte("StorePath: x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		info, err := nix.ParseNarInfo(text)
		if err != nil {
			if !errors.Is(err, nix.ErrBadNarInfo) || !reflect.DeepEqual(info, nix.PathInfo{}) {
				t.Fatal(info, err)
			}
			return
		}
		if err := info.Validate(); err != nil {
			t.Fatal(err)
		}
		again, err := nix.ParseNarInfo(info.MarshalNarInfo())
		if err != nil || !reflect.DeepEqual(info, again) {
			t.Fatal(fmt.Sprintf("%+v", info), fmt.Sprintf("%+v", again), err)
		}
	})
}
