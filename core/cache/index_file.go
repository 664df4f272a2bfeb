package cache

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
)

// An index file:
//
//	"DTINDEX\x01"
//	varint, narinfo     the path's, as it was signed
//	varint, varint      length of the skeleton (nar.Layout) and of its zstd form
//	zstd skeleton
//	manifest            package chunk's, to the end
//	32 bytes            BLAKE3 of everything before
//
// The narinfo says what the rest is about. Signatures are not taken from it:
// making one anew costs less than checking one.
const (
	indexMagic = "DTINDEX\x01"
	// maxSkeleton bounds a skeleton that is kept; what has more entries is cut
	// anew by each process.
	maxSkeleton = 64 << 20
)

var errIndex = errors.New("damaged index file")

// known is what an index file holds.
type known struct {
	info     nix.PathInfo
	narinfo  []byte
	skeleton []byte
	manifest *chunk.Manifest
}

// of tells whether it is about this path as it is today.
func (k *known) of(info nix.PathInfo) bool {
	return k.info.Path == info.Path && k.info.NarHash == info.NarHash && k.info.NarSize == info.NarSize &&
		slices.Equal(k.info.References, nix.SortedPaths(info.References))
}

var (
	skeletonEncoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic("make zstd encoder: " + err.Error()) // only wrong options fail
		}
		return e
	})
	skeletonDecoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxSkeleton))
		if err != nil {
			panic("make zstd decoder: " + err.Error())
		}
		return d
	})
)

// writeKnown writes an index file and returns its size.
func writeKnown(name string, k *known) (int64, error) {
	if len(k.skeleton) > maxSkeleton {
		return 0, fmt.Errorf("a layout of %d bytes", len(k.skeleton))
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	n, err := encodeKnown(f, k)
	return n, errors.Join(err, f.Close())
}

func encodeKnown(w io.Writer, k *known) (int64, error) {
	sum := blake3.New()
	out := &counter{w: w}
	bw := bufio.NewWriterSize(io.MultiWriter(out, sum), 64<<10)
	packed := skeletonEncoder().EncodeAll(k.skeleton, nil)
	head := append([]byte(indexMagic), binary.AppendUvarint(nil, uint64(len(k.narinfo)))...)
	head = append(head, k.narinfo...)
	head = binary.AppendUvarint(head, uint64(len(k.skeleton)))
	head = binary.AppendUvarint(head, uint64(len(packed)))
	for _, part := range [][]byte{head, packed} {
		if _, err := bw.Write(part); err != nil {
			return out.n, err
		}
	}
	if err := k.manifest.Write(bw); err != nil {
		return out.n, err
	}
	if err := bw.Flush(); err != nil {
		return out.n, err
	}
	_, err := out.Write(sum.Sum(nil))
	return out.n, err
}

// counter counts what passes through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func readKnown(name string) (*known, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return decodeKnown(f, info.Size())
}

// decodeKnown reads an index file of size bytes. What it returns has the right
// checksum.
func decodeKnown(r io.Reader, size int64) (*known, error) {
	sum := blake3.New()
	body := size - int64(sum.Size())
	if body < int64(len(indexMagic)) {
		return nil, fmt.Errorf("%w: %d bytes", errIndex, size)
	}
	hashed := io.TeeReader(io.LimitReader(r, body), sum)
	br := bufio.NewReaderSize(hashed, 64<<10)
	k, err := decodeBody(br, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	if n, err := io.Copy(io.Discard, br); n > 0 || err != nil {
		return nil, fmt.Errorf("%w: %d bytes behind the manifest", errIndex, n)
	}
	var want [32]byte
	if _, err := io.ReadFull(r, want[:]); err != nil {
		return nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	if !bytes.Equal(sum.Sum(nil), want[:]) {
		return nil, fmt.Errorf("%w: wrong checksum", errIndex)
	}
	return k, nil
}

func decodeBody(br *bufio.Reader, size int64) (*known, error) {
	var magic [len(indexMagic)]byte
	if _, err := io.ReadFull(br, magic[:]); err != nil {
		return nil, err
	}
	if string(magic[:]) != indexMagic {
		return nil, errors.New("another format")
	}
	k := new(known)
	var err error
	if k.narinfo, err = readPart(br, min(size, nix.MaxNarInfo)); err != nil {
		return nil, err
	}
	if k.info, err = nix.ParseNarInfo(k.narinfo); err != nil {
		return nil, err
	}
	length, err := binary.ReadUvarint(br)
	if err != nil {
		return nil, err
	}
	packed, err := readPart(br, min(size, maxSkeleton))
	if err != nil {
		return nil, err
	}
	if k.skeleton, err = skeletonDecoder().DecodeAll(packed, nil); err != nil {
		return nil, err
	}
	if uint64(len(k.skeleton)) != length {
		return nil, fmt.Errorf("a layout of %d bytes instead of %d", len(k.skeleton), length)
	}
	if k.manifest, err = chunk.ReadManifest(br, int64(k.info.NarSize)); err != nil {
		return nil, err
	}
	return k, nil
}

// readPart reads a length and as many bytes, of which there cannot be more than
// most.
func readPart(br *bufio.Reader, most int64) ([]byte, error) {
	n, err := binary.ReadUvarint(br)
	if err != nil {
		return nil, err
	}
	if n > uint64(most) {
		return nil, fmt.Errorf("a part of %d bytes", n)
	}
	p := make([]byte, n)
	_, err = io.ReadFull(br, p)
	return p, err
}
