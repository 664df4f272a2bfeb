package nixstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
)

// checkSuffix is what Nix appends to the path of an output to keep another result
// of the same build (libstore, checkSuffix).
const checkSuffix = ".check"

// maxDiffering bounds the files that are named.
const maxDiffering = 20

// kept is how Nix says where it has kept the other result; its quotes depend on
// the version.
var kept = regexp.MustCompile(`output ['"]([^'"]+)['"] differs from ['"]([^'"]+)['"]`)

// differences names the files in which the two results differ that a message is
// about, if both are there.
func differences(ctx context.Context, message string) string {
	first, second, ok := keptResults(message)
	if !ok {
		return ""
	}
	return compare(ctx, first, second)
}

// keptResults finds the two results in a message, which may be coloured.
func keptResults(message string) (first, second string, ok bool) {
	m := kept.FindStringSubmatch(daemon.StripANSI(message))
	if m == nil || m[2] != m[1]+checkSuffix {
		return "", "", false
	}
	_, err := nix.ParsePath(m[1])
	return m[1], m[2], err == nil
}

// compare says how two trees differ.
func compare(ctx context.Context, first, second string) string {
	var names []string
	n, err := differing(ctx, first, second, ".", func(name string) {
		if len(names) < maxDiffering {
			names = append(names, name)
		}
	})
	switch {
	case err != nil:
		return "\nwhat differs could not be found out: " + err.Error()
	case n == 0:
		return ""
	}
	text := "\nthe two results differ in: " + strings.Join(names, ", ")
	if n > len(names) {
		text += fmt.Sprintf(" and %d more", n-len(names))
	}
	return text
}

// differing tells of each file in which two trees differ, and returns how many
// there are. A directory that only one has counts as one.
func differing(ctx context.Context, first, second, name string, tell func(string)) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	a, b := filepath.Join(first, name), filepath.Join(second, name)
	infoA, errA := os.Lstat(a)
	infoB, errB := os.Lstat(b)
	only := ""
	switch {
	case errors.Is(errA, fs.ErrNotExist):
		only = " (only in the second)"
	case errors.Is(errB, fs.ErrNotExist):
		only = " (only in the first)"
	case errA != nil || errB != nil:
		return 0, errors.Join(errA, errB)
	case infoA.IsDir() && infoB.IsDir():
		return differingIn(ctx, first, second, name, tell)
	}
	if only == "" {
		same, err := sameFile(ctx, a, infoA, b, infoB)
		if same || err != nil {
			return 0, err
		}
	}
	tell(name + only)
	return 1, nil
}

func differingIn(ctx context.Context, first, second, dir string, tell func(string)) (int, error) {
	var names []string
	for _, root := range []string{first, second} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	sum := 0
	for _, name := range slices.Compact(names) {
		n, err := differing(ctx, first, second, filepath.Join(dir, name), tell)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// sameFile compares as a NAR would: kind, contents, and whether it can be run.
func sameFile(ctx context.Context, a string, infoA fs.FileInfo, b string, infoB fs.FileInfo) (bool, error) {
	const run = 0o111
	switch {
	case infoA.Mode().Type() != infoB.Mode().Type():
		return false, nil
	case infoA.Mode().Type() == fs.ModeSymlink:
		toA, errA := os.Readlink(a)
		toB, errB := os.Readlink(b)
		return toA == toB, errors.Join(errA, errB)
	case !infoA.Mode().IsRegular():
		return true, nil
	case infoA.Mode()&run != infoB.Mode()&run, infoA.Size() != infoB.Size():
		return false, nil
	}
	fileA, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer fileA.Close()
	fileB, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer fileB.Close()
	return sameBytes(ctx, fileA, fileB)
}

// compareUnit is how much is compared between two looks at the context.
const compareUnit = 1 << 20

func sameBytes(ctx context.Context, a, b io.Reader) (bool, error) {
	bufA, bufB := make([]byte, compareUnit), make([]byte, compareUnit)
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		switch {
		case !bytes.Equal(bufA[:n], bufB[:m]):
			return false, nil
		case errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF):
			return true, nil
		case errA != nil || errB != nil:
			return false, errors.Join(errA, errB)
		}
	}
}
