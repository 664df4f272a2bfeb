package nix_test

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/nar"
)

func verify(info nix.PathInfo, data []byte, piece int) ([]byte, error) {
	v, err := nix.NewCAVerifier(info)
	if err != nil {
		return nil, err
	}
	return run(v, data, piece)
}

func run(v *nix.CAVerifier, data []byte, piece int) ([]byte, error) {
	if piece == 0 {
		piece = len(data) + 1
	}
	for chunk := range slices.Chunk(data, piece) {
		if n, err := v.Write(chunk); err != nil || n != len(chunk) {
			if again := v.Close(); !errors.Is(again, err) {
				return nil, fmt.Errorf("Write failed with %v, Close with %v", err, again)
			}
			return v.Contents(), err
		}
	}
	err := v.Close()
	return v.Contents(), err
}

func TestVerifierAcceptsVectors(t *testing.T) {
	addressed := 0
	for path := range vectors(t) {
		info, data := vector(t, path.Hash())
		for _, piece := range []int{0, 1, 7, 31, 100} {
			v, err := nix.NewNarVerifier(info)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := run(v, data, piece); err != nil {
				t.Errorf("%s as a signed path, in pieces of %d: %v", path, piece, err)
			}
			if info.CA == "" {
				if _, err := verify(info, data, piece); !errors.Is(err, nix.ErrContentAddress) {
					t.Errorf("%s is input-addressed: %v", path, err)
				}
				continue
			}
			addressed++
			contents, err := verify(info, data, piece)
			if err != nil {
				t.Errorf("%s, in pieces of %d: %v", path, piece, err)
			}
			if path.IsDrv() != (contents != nil) {
				t.Errorf("%s: contents of %d bytes", path, len(contents))
			}
			if path.IsDrv() && !bytes.Equal(contents, readFile(t, "drv", path.Base())) {
				t.Errorf("%s: other contents", path)
			}
		}
	}
	if addressed != 15*5 {
		t.Errorf("%d content-addressed runs", addressed)
	}
}

func TestVerifierRefusesOtherBytes(t *testing.T) {
	for path := range vectors(t) {
		info, data := vector(t, path.Hash())
		if info.CA == "" {
			continue
		}
		for i := range data {
			bad := slices.Clone(data)
			bad[i] ^= 0x20
			contents, err := verify(info, bad, 0)
			if !errors.Is(err, nix.ErrNarSyntax) && !errors.Is(err, nix.ErrNarHash) && !errors.Is(err, nix.ErrNarSize) && !errors.Is(err, nix.ErrContentAddress) {
				t.Fatalf("%s with byte %d changed: %v", path, i, err)
			}
			if contents != nil {
				t.Fatalf("%s with byte %d changed: contents given out", path, i)
			}
			// Whoever lies about the contents can also lie about the NAR hash.
			lie := info
			lie.NarHash = nix.SumHash(bad)
			_, err = verify(lie, bad, 0)
			if !errors.Is(err, nix.ErrNarSyntax) && !errors.Is(err, nix.ErrNarSize) && !errors.Is(err, nix.ErrContentAddress) {
				t.Fatalf("%s with byte %d changed and the NAR hash made to fit: %v", path, i, err)
			}
		}
	}
}

// The NAR hash is what gets signed, and of a signed path it is all that vouches for
// the contents.
func TestVerifierBelievesNoNarHash(t *testing.T) {
	for path := range vectors(t) {
		info, data := vector(t, path.Hash())
		info.NarHash[0] ^= 1
		v, err := nix.NewNarVerifier(info)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := run(v, data, 0); !errors.Is(err, nix.ErrNarHash) {
			t.Errorf("%s as a signed path: %v", path, err)
		}
		if info.CA == "" {
			continue
		}
		if _, err := verify(info, data, 0); !errors.Is(err, nix.ErrNarHash) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// There is no verdict before Close, and nothing comes after it.
func TestVerifierEndsWithClose(t *testing.T) {
	info, data := vector(t, "6z5jmh5fzcal8382xd4chj1fnqbammv5")
	v, err := nix.NewCAVerifier(info)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(data); err != nil {
		t.Fatal(err)
	}
	if v.Contents() != nil {
		t.Error("contents are given out that nobody has approved")
	}
	if err := v.Close(); err != nil || v.Contents() == nil {
		t.Fatal(err)
	}
	if _, err := v.Write(nil); !errors.Is(err, nix.ErrNarSize) {
		t.Errorf("write after Close: %v", err)
	}
}

func TestVerifierLengths(t *testing.T) {
	info, data := vector(t, selfRef)
	if _, err := verify(info, data[:len(data)-8], 0); !errors.Is(err, nix.ErrNarSize) {
		t.Errorf("8 bytes missing: %v", err)
	}
	if _, err := verify(info, nil, 0); !errors.Is(err, nix.ErrNarSize) {
		t.Errorf("nothing: %v", err)
	}
	if _, err := verify(info, append(slices.Clone(data), 0), 1); !errors.Is(err, nix.ErrNarSize) {
		t.Errorf("a byte more: %v", err)
	}
	info.NarSize++
	if _, err := verify(info, append(slices.Clone(data), 0), 0); !errors.Is(err, nix.ErrNarSyntax) {
		t.Errorf("a byte more, declared: %v", err)
	}
	info.NarSize = uint64(len(data) - 8)
	if _, err := verify(info, data[:len(data)-8], 0); !errors.Is(err, nix.ErrNarSyntax) {
		t.Errorf("8 bytes missing, declared: %v", err)
	}
}

// caInfo makes the path info of an archive under a method of its own, so that
// only the verifier can object.
func caInfo(t *testing.T, name string, method nix.CAMethod, algo nix.HashAlgo, hashed, archive []byte, refs ...nix.Path) nix.PathInfo {
	t.Helper()
	h := algo.New()
	h.Write(hashed)
	ca := nix.CA{Method: method, Algo: algo, Digest: h.Sum(nil)}
	p, err := nix.PathFromCA(name, ca, refs, false)
	if err != nil {
		t.Fatal(err)
	}
	return nix.PathInfo{Path: p, NarHash: nix.SumHash(archive), NarSize: uint64(len(archive)), CA: ca.String(), References: refs}
}

func fileNar(contents string, executable bool) []byte {
	var b bytes.Buffer
	_ = nar.WriteFile(&b, []byte(contents), executable)
	return b.Bytes()
}

func TestVerifierMethods(t *testing.T) {
	plain, program := fileNar("hello\n", false), fileNar("hello\n", true)
	_, tree := vector(t, "nrs1016mkhd1zpq12p9fpzmwdcafq8p1")
	algos := []nix.HashAlgo{nix.MD5, nix.SHA1, nix.SHA256, nix.SHA512, nix.BLAKE3}
	for _, algo := range algos {
		if _, err := verify(caInfo(t, "x", nix.CAFlat, algo, []byte("hello\n"), plain), plain, 0); err != nil {
			t.Errorf("flat %s: %v", algo, err)
		}
		if _, err := verify(caInfo(t, "x", nix.CANar, algo, tree, tree), tree, 0); err != nil {
			t.Errorf("NAR %s: %v", algo, err)
		}
		if _, err := verify(caInfo(t, "x", nix.CAFlat, algo, []byte("hello\n"), program), program, 0); !errors.Is(err, nix.ErrContentAddress) {
			t.Errorf("flat %s program: %v", algo, err)
		}
		if _, err := verify(caInfo(t, "x", nix.CAFlat, algo, tree, tree), tree, 0); !errors.Is(err, nix.ErrContentAddress) {
			t.Errorf("flat %s tree: %v", algo, err)
		}
		if _, err := verify(caInfo(t, "x", nix.CAFlat, algo, plain, plain), plain, 0); !errors.Is(err, nix.ErrContentAddress) {
			t.Errorf("flat %s of the NAR: %v", algo, err)
		}
	}
	// A directory's only file is not the path's.
	var folder bytes.Buffer
	for _, w := range []string{"nix-archive-1", "(", "type", "directory", "entry", "(", "name", "a", "node"} {
		folder.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(w))))
		folder.WriteString(w)
		folder.Write(make([]byte, -len(w)&7))
	}
	folder.Write(plain[len("nix-archive-1")+8+3:])
	for range 2 {
		folder.WriteString("\x01\x00\x00\x00\x00\x00\x00\x00)\x00\x00\x00\x00\x00\x00\x00")
	}
	for _, method := range []nix.CAMethod{nix.CAFlat, nix.CAText, nix.CANar} {
		hashed := []byte("hello\n")
		if method == nix.CANar {
			hashed = folder.Bytes()
		}
		_, err := verify(caInfo(t, "x", method, nix.SHA256, hashed, folder.Bytes()), folder.Bytes(), 0)
		if method == nix.CANar && err != nil || method != nix.CANar && !errors.Is(err, nix.ErrContentAddress) {
			t.Errorf("%s a directory with one file: %v", method, err)
		}
	}
	for name, archive := range map[string][]byte{"program": program, "tree": tree, "other": fileNar("other\n", false)} {
		if _, err := verify(caInfo(t, "x", nix.CAText, nix.SHA256, []byte("hello\n"), archive), archive, 0); !errors.Is(err, nix.ErrContentAddress) {
			t.Errorf("text %s: %v", name, err)
		}
	}
}

func TestVerifierBelievesNoPath(t *testing.T) {
	good, data := vector(t, "h29di9fd5fm7i6w5hhmxswbjxvm05bl6") // text with a reference
	for name, change := range map[string]func(*nix.PathInfo){
		"other name":            func(i *nix.PathInfo) { i.Path += "x" },
		"other hash part":       func(i *nix.PathInfo) { i.Path = nix.Path(strings.Replace(string(i.Path), "h29", "h28", 1)) },
		"reference left out":    func(i *nix.PathInfo) { i.References = nil },
		"reference to itself":   func(i *nix.PathInfo) { i.References = append(i.References, i.Path) },
		"other method":          func(i *nix.PathInfo) { i.CA = strings.Replace(i.CA, "text", "fixed:r", 1) },
		"no content address":    func(i *nix.PathInfo) { i.CA = "" },
		"git":                   func(i *nix.PathInfo) { i.CA = "fixed:git:sha1:iwjz551fyw0cxcjgf4l6c879zabd6wpm" },
		"flat with a reference": func(i *nix.PathInfo) { i.CA = strings.Replace(i.CA, "text", "fixed", 1) },
	} {
		info := good
		info.References = slices.Clone(good.References)
		change(&info)
		_, err := verify(info, data, 0)
		if !errors.Is(err, nix.ErrContentAddress) && !errors.Is(err, nix.ErrBadCA) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A file in the NAR that claims to be longer than the NAR.
func TestVerifierDeclaredSize(t *testing.T) {
	data := fileNar("hello\n", false)
	i := bytes.Index(data, []byte("hello"))
	data[i-4] = 1 // 2^32 + 6
	info := caInfo(t, "x", nix.CANar, nix.SHA256, data, data)
	if _, err := verify(info, data, 0); !errors.Is(err, nix.ErrNarSize) {
		t.Error(err)
	}
}

func TestVerifierSelfReferences(t *testing.T) {
	info, data := vector(t, selfRef)
	// Writing the NULs that the hash puts there instead of the references must not pass.
	bad := bytes.ReplaceAll(data, []byte(selfRef), make([]byte, len(selfRef)))
	info.NarHash = nix.SumHash(bad)
	if _, err := verify(info, bad, 0); !errors.Is(err, nix.ErrContentAddress) {
		t.Error(err)
	}
}

// Nix 2.17 to 2.34 leave the places of the references out of the hash, so that
// an archive with NULs instead of one of them has the same address. It is refused,
// but not as damage.
func TestVerifierSelfReferencesWithoutPlaces(t *testing.T) {
	nuls := strings.Repeat("\x00", nix.HashPartLen)
	masked := nix.SumHash(fileNar(nuls+" and "+nuls, false))
	ca := nix.CA{Method: nix.CANar, Algo: nix.SHA256, Digest: masked[:]}
	p, err := nix.PathFromCA("x", ca, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, contents := range []string{p.Hash() + " and " + p.Hash(), p.Hash() + " and " + nuls} {
		data := fileNar(contents, false)
		info := nix.PathInfo{
			Path: p, CA: ca.String(), References: []nix.Path{p},
			NarHash: nix.SumHash(data), NarSize: uint64(len(data)),
		}
		if _, err := verify(info, data, 0); !errors.Is(err, nix.ErrContentAddress) || !strings.Contains(err.Error(), "Nix 2.17 to 2.34") {
			t.Errorf("%q: %v", contents, err)
		}
	}
}

// A reference to itself that is stated and stands nowhere has no place to be hashed.
func TestVerifierSelfReferenceNowhere(t *testing.T) {
	data := fileNar("hello\n", false)
	sum := nix.SumHash(data)
	ca := nix.CA{Method: nix.CANar, Algo: nix.SHA256, Digest: sum[:]}
	p, err := nix.PathFromCA("x", ca, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	info := nix.PathInfo{Path: p, CA: ca.String(), References: []nix.Path{p}, NarHash: sum, NarSize: uint64(len(data))}
	if _, err := verify(info, data, 0); err != nil {
		t.Error(err)
	}
}

func TestDrvSizeLimit(t *testing.T) {
	info, err := nix.TextInfo("x.drv", []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nix.NewCAVerifier(info); err != nil {
		t.Error(err)
	}
	info.NarSize = uint64(nar.FileSize(nix.MaxDrvSize, false)) + 1
	if _, err := nix.NewCAVerifier(info); !errors.Is(err, nix.ErrNarSize) {
		t.Error(err)
	}
}

func TestTextInfo(t *testing.T) {
	want, _ := vector(t, "6z5jmh5fzcal8382xd4chj1fnqbammv5")
	d := readFile(t, "drv", want.Path.Base())
	got, err := nix.TextInfo(want.Path.Name(), d, want.References)
	got.Sigs = want.Sigs
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v, %v\nwant %+v", got, err, want)
	}
	if _, err := nix.TextInfo("a/b", d, nil); !errors.Is(err, nix.ErrBadPath) {
		t.Error(err)
	}
}

// The hash of a hash's name in two ways, so that no algorithm is mixed up.
func TestHashAlgos(t *testing.T) {
	m, b := md5.Sum([]byte("x")), blake3.Sum256([]byte("x"))
	for algo, want := range map[nix.HashAlgo][]byte{nix.MD5: m[:], nix.BLAKE3: b[:]} {
		h := algo.New()
		_, _ = io.WriteString(h, "x")
		if got := h.Sum(nil); hex.EncodeToString(got) != hex.EncodeToString(want) || algo.Size() != len(want) {
			t.Errorf("%s: %x, want %x", algo, got, want)
		}
	}
	if nix.HashAlgo("sha3").New() != nil || nix.HashAlgo("").Size() != 0 {
		t.Error("unknown algorithm known")
	}
}

// FuzzVerifier: nothing but the vector itself passes for the vector, whatever
// the pieces; and a signed path's verifier agrees with the checker.
func FuzzVerifier(f *testing.F) {
	var infos []nix.PathInfo
	var nars [][]byte
	for _, hashPart := range []string{selfRef, "nrs1016mkhd1zpq12p9fpzmwdcafq8p1", "h29di9fd5fm7i6w5hhmxswbjxvm05bl6", "sqgvxd36x3mz2j8h9ngr73qz2sxflli3", "zdx3x739klpva5cnxlvm0i54v1nqvdcf"} {
		info, data := vector(f, hashPart)
		infos, nars = append(infos, info), append(nars, data)
		f.Add(data, uint8(len(infos)-1), uint8(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, which, piece uint8) {
		k := int(which) % len(infos)
		if _, err := verify(infos[k], data, int(piece)); (err == nil) != bytes.Equal(data, nars[k]) {
			t.Fatalf("%s: %v", infos[k].Path, err)
		}
		if len(data) == 0 {
			return
		}
		lie := infos[k]
		lie.NarHash, lie.NarSize = nix.SumHash(data), uint64(len(data))
		v, err := nix.NewNarVerifier(lie)
		if err != nil {
			t.Fatal(err)
		}
		_, err = run(v, data, int(piece))
		var c nar.Checker
		_, _ = c.Write(data)
		if closed := c.Close(); (closed == nil) != (err == nil) {
			t.Fatalf("verifier %v, checker %v", err, closed)
		}
	})
}

// BenchmarkVerifier reports the time as a multiple of SHA-256 over the same
// bytes in the same run; a flat file needs two hashes where that is not the NAR's.
func BenchmarkVerifier(b *testing.B) {
	contents := bytes.Repeat([]byte("0123456789abcdef"), 64<<20/16)
	archive := fileNar(string(contents), false)
	start := time.Now()
	sum := sha256.Sum256(archive)
	bare := time.Since(start)
	for _, c := range []struct {
		name   string
		method nix.CAMethod
		algo   nix.HashAlgo
		hashed []byte
	}{{"nar-sha256", nix.CANar, nix.SHA256, archive}, {"flat-sha256", nix.CAFlat, nix.SHA256, contents}, {"nar-sha1", nix.CANar, nix.SHA1, archive}} {
		b.Run(c.name, func(b *testing.B) {
			h := c.algo.New()
			h.Write(c.hashed)
			ca := nix.CA{Method: c.method, Algo: c.algo, Digest: h.Sum(nil)}
			p, err := nix.PathFromCA("x", ca, nil, false)
			if err != nil {
				b.Fatal(err)
			}
			benchVerify(b, nix.PathInfo{Path: p, NarHash: sum, NarSize: uint64(len(archive)), CA: ca.String()}, archive, bare)
		})
	}
	b.Run("self", func(b *testing.B) {
		// The address is wrong, but that shows only at the end.
		ca := nix.CA{Method: nix.CANar, Algo: nix.SHA256, Digest: sum[:]}
		p, err := nix.PathFromCA("x", ca, nil, true)
		if err != nil {
			b.Fatal(err)
		}
		benchVerify(b, nix.PathInfo{Path: p, NarHash: sum, NarSize: uint64(len(archive)), CA: ca.String(), References: []nix.Path{p}}, archive, bare)
	})
}

func benchVerify(b *testing.B, info nix.PathInfo, archive []byte, bare time.Duration) {
	b.SetBytes(int64(len(archive)))
	fastest := time.Duration(1 << 62)
	for b.Loop() {
		start := time.Now()
		if _, err := verify(info, archive, 256<<10); err != nil && !errors.Is(err, nix.ErrContentAddress) {
			b.Fatal(err)
		}
		fastest = min(fastest, time.Since(start))
	}
	b.ReportMetric(float64(fastest)/float64(bare), "×sha256")
}
