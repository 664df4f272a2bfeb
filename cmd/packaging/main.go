// Command packaging makes the files of a release: packages for Debian and for
// distributions with RPM, archives, the relay's container image, a bill of
// materials for each program, and the checksums of them all.
//
// usage: go run . [-out DIR] [-only deb,rpm,archive,image,sbom] [-platform linux/amd64,…] [-version VERSION]
//
// It needs Go and git, and fetches Go modules only. Two runs on the same commit
// write the same bytes, wherever the checkout is: nothing comes from the clock,
// the machine or the user. The commit's date stands for the time, unless
// SOURCE_DATE_EPOCH says another.
//
// It is a module of its own, because its dependencies are none of the programs'.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// The kinds of files that a release has.
var kinds = []string{"deb", "rpm", "archive", "image", "sbom"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("packaging", flag.ExitOnError)
	out := fs.String("out", "", "`DIR` to write to (default: dist in the checkout)")
	only := fs.String("only", strings.Join(kinds, ","), "`KINDS` of files to make, separated by commas")
	names := fs.String("platform", strings.Join(platformNames(), ","), "`PLATFORMS` to make them for, separated by commas")
	number := fs.String("version", "", "the `VERSION` (default: the tag of the commit, or one made of its date and hash)")
	fs.Parse(args)
	if fs.NArg() > 0 {
		return fmt.Errorf("takes no arguments, got %q", fs.Args())
	}
	wanted := strings.Split(*only, ",")
	for _, kind := range wanted {
		if !slices.Contains(kinds, kind) {
			return fmt.Errorf("-only: no files are called %q; there are %s", kind, strings.Join(kinds, ", "))
		}
	}
	platforms, err := parsePlatforms(*names)
	if err != nil {
		return fmt.Errorf("-platform: %w", err)
	}

	src, err := openSource(ctx, *number)
	if err != nil {
		return err
	}
	if *out == "" {
		*out = filepath.Join(src.dir, "dist")
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "drv-thru-packaging-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	r := &release{source: src, out: *out, work: work, kinds: wanted, platforms: platforms}
	return r.make(ctx)
}

// A release is one run.
type release struct {
	*source
	out, work string
	kinds     []string
	platforms []platform

	written []string // names in out
}

func (r *release) make(ctx context.Context) error {
	built := make(map[platform]*build)
	host := platform{runtime.GOOS, runtime.GOARCH}
	for _, p := range append(slices.Clone(r.platforms), host) {
		if built[p] != nil {
			continue
		}
		var err error
		if built[p], err = r.build(ctx, p); err != nil {
			return err
		}
	}
	docs, err := r.docs(ctx, built[host])
	if err != nil {
		return err
	}
	return r.pack(built, docs)
}

// pack writes the files of what was built.
func (r *release) pack(built map[platform]*build, docs []docFile) error {
	for _, kind := range r.kinds {
		for _, p := range r.platforms {
			b := built[p]
			b.docs = docs
			var err error
			switch kind {
			case "deb", "rpm":
				err = r.packages(kind, b)
			case "archive":
				err = r.archive(b)
			case "sbom":
				err = r.boms(b)
			}
			if err != nil {
				return fmt.Errorf("%s for %s: %w", kind, p, err)
			}
		}
		if kind == "image" {
			if err := r.image(built); err != nil {
				return fmt.Errorf("image: %w", err)
			}
		}
	}
	return r.checksums()
}

// create makes a file of the release.
func (r *release) create(name string) (*os.File, error) {
	r.written = append(r.written, name)
	return os.OpenFile(filepath.Join(r.out, name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
}
