package nix

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/zeebo/blake3"
)

// CAMethod says which bytes of a store object a content address is the hash of.
type CAMethod string

// The methods, by their spelling in a content address.
const (
	// CAText is a single file that may refer to other paths: a .drv or the result of builtins.toFile.
	CAText CAMethod = "text:"
	// CAFlat is the contents of a single file.
	CAFlat CAMethod = "fixed:"
	// CANar is the NAR of the object.
	CANar CAMethod = "fixed:r:"

	caGit = "fixed:git:"
)

// HashAlgo is one of the hash algorithms of Nix, by its name there.
type HashAlgo string

// The algorithms. Nix still takes the broken MD5 and SHA-1 for fixed outputs, and
// whoever made both of two colliding objects can swap them: here as there. BLAKE3
// needs Nix ≥ 2.27 with its experimental feature.
const (
	MD5    HashAlgo = "md5"
	SHA1   HashAlgo = "sha1"
	SHA256 HashAlgo = "sha256"
	SHA512 HashAlgo = "sha512"
	BLAKE3 HashAlgo = "blake3"
)

var (
	// ErrBadCA is wrapped by every error of ParseCA.
	ErrBadCA = errors.New("not a content address")
	// ErrGitCA says that a content address uses Git's tree hashing, an
	// experimental feature of Nix that drv-thru does not verify. It wraps ErrBadCA.
	ErrGitCA = fmt.Errorf("%w: Git tree hashing (fixed:git:) is not supported", ErrBadCA)
)

// Size returns the digest's length in bytes, 0 for an unknown algorithm.
func (a HashAlgo) Size() int {
	switch a {
	case MD5:
		return md5.Size
	case SHA1:
		return sha1.Size
	case SHA256, BLAKE3:
		return sha256.Size
	case SHA512:
		return sha512.Size
	}
	return 0
}

// New returns a fresh hash, nil for an unknown algorithm.
func (a HashAlgo) New() hash.Hash {
	switch a {
	case MD5:
		return md5.New()
	case SHA1:
		return sha1.New()
	case SHA256:
		return sha256.New()
	case SHA512:
		return sha512.New()
	case BLAKE3:
		return blake3.New()
	}
	return nil
}

// CA is a content address (Nix libstore/content-address.cc).
type CA struct {
	Method CAMethod
	Algo   HashAlgo
	// Digest has Algo.Size() bytes.
	Digest []byte
}

// ParseCA reads text:sha256:<hash>, fixed:<algorithm>:<hash> or
// fixed:r:<algorithm>:<hash>; the hash in hex, Nix's base32 or base64.
func ParseCA(s string) (CA, error) {
	var ca CA
	var rest string
	if len(s) > maxLineLen {
		return ca, fmt.Errorf("%w: longer than %d bytes", ErrBadCA, maxLineLen)
	}
	if strings.HasPrefix(s, caGit) {
		return ca, ErrGitCA
	}
	for _, ca.Method = range []CAMethod{CAText, CANar, CAFlat} {
		var ok bool
		if rest, ok = strings.CutPrefix(s, string(ca.Method)); ok {
			break
		}
		ca.Method = ""
	}
	if ca.Method == "" {
		return CA{}, fmt.Errorf("%w: %s begins with neither \"text:\" nor \"fixed:\"", ErrBadCA, quote(s))
	}
	algo, text, ok := strings.Cut(rest, ":")
	ca.Algo = HashAlgo(algo)
	if !ok || ca.Algo.Size() == 0 {
		return CA{}, fmt.Errorf("%w: %s has no known hash algorithm", ErrBadCA, quote(s))
	}
	if ca.Method == CAText && ca.Algo != SHA256 {
		return CA{}, fmt.Errorf("%w: %s: text is always addressed by sha256", ErrBadCA, quote(s))
	}
	ca.Digest = make([]byte, ca.Algo.Size())
	if err := decodeDigest(ca.Digest, s, text); err != nil {
		return CA{}, fmt.Errorf("%w: %w", ErrBadCA, err)
	}
	return ca, nil
}

// String returns the form that Nix keeps, with the hash in Nix's base32.
func (ca CA) String() string {
	return string(ca.Method) + string(ca.Algo) + ":" + nixbase32.EncodeToString(ca.Digest)
}

// PathFromCA computes the store path of an object named name with this content
// address and these references (Nix libstore/store-dir-config.cc,
// makeFixedOutputPathFromCA). refs are the references to other paths, in any
// order; self says that the object refers to itself.
func PathFromCA(name string, ca CA, refs []Path, self bool) (Path, error) {
	if err := CheckName(name); err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrBadPath, quote(name), err)
	}
	if ca.Algo.Size() == 0 || len(ca.Digest) != ca.Algo.Size() {
		return "", fmt.Errorf("%w: digest of %d bytes for %q", ErrBadCA, len(ca.Digest), ca.Algo)
	}
	digest := string(ca.Algo) + ":" + hex.EncodeToString(ca.Digest)
	switch {
	case ca.Method == CAText && self:
		return "", fmt.Errorf("%w: a text object cannot refer to itself", ErrBadCA)
	case ca.Method == CAText && ca.Algo == SHA256:
		return makePath(typeWithRefs("text", refs, false), digest, name), nil
	case ca.Method == CANar && ca.Algo == SHA256:
		return makePath(typeWithRefs("source", refs, self), digest, name), nil
	case ca.Method != CANar && ca.Method != CAFlat:
		return "", fmt.Errorf("%w: method %q with %q", ErrBadCA, ca.Method, ca.Algo)
	case len(refs) > 0 || self:
		return "", fmt.Errorf("%w: only text: and fixed:r:sha256: objects can have references", ErrBadCA)
	}
	prefix := strings.TrimPrefix(string(ca.Method), "fixed:")
	inner := sha256.Sum256([]byte("fixed:out:" + prefix + digest + ":"))
	return OutputPath(inner, name), nil
}

// OutputPath returns the path of the output "out" that is not content-addressed,
// from what Nix calls hashDerivationModulo.
func OutputPath(modulo Hash, name string) Path {
	return makePath("output:out", "sha256:"+hex.EncodeToString(modulo[:]), name)
}

// makePath is Nix's makeStorePath: the fingerprint's SHA-256 folded to 20 bytes.
func makePath(kind, digest, name string) Path {
	sum := sha256.Sum256([]byte(kind + ":" + digest + ":" + StoreDir + ":" + name))
	var folded [20]byte
	for i, b := range sum {
		folded[i%len(folded)] ^= b
	}
	return Path(storePrefix + nixbase32.EncodeToString(folded[:]) + "-" + name)
}

// typeWithRefs is Nix's makeType: the references belong to the object's address.
func typeWithRefs(kind string, refs []Path, self bool) string {
	var b strings.Builder
	b.WriteString(kind)
	for _, r := range SortedPaths(refs) {
		b.WriteByte(':')
		b.WriteString(string(r))
	}
	if self {
		b.WriteString(":self")
	}
	return b.String()
}

// splitSelf returns the references without the path itself, and whether it was there.
func (i PathInfo) splitSelf() (others []Path, self bool) {
	k := slices.Index(i.References, i.Path)
	if k < 0 {
		return i.References, false
	}
	others = make([]Path, 0, len(i.References)-1)
	others = append(others, i.References[:k]...)
	return append(others, i.References[k+1:]...), true
}

// CheckCA computes the store path from the content address, name and
// references, and fails unless it is Path. It says nothing of the contents.
func (i PathInfo) CheckCA() (CA, error) {
	ca, err := ParseCA(i.CA)
	if err != nil {
		return CA{}, err
	}
	others, self := i.splitSelf()
	want, err := PathFromCA(i.Path.Name(), ca, others, self)
	if err != nil {
		return CA{}, err
	}
	if want != i.Path {
		return CA{}, fmt.Errorf("%w: %s with %d references makes %s, not %s",
			ErrContentAddress, ca, len(i.References), want, i.Path)
	}
	return ca, nil
}
