package main

import (
	"cmp"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// programs are the commands of a release.
var programs = []string{"drv-thru", "drv-thru-relay"}

// A platform is what a release is made for, by Go's names.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

var supported = []platform{{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "arm64"}}

func platformNames() []string {
	var names []string
	for _, p := range supported {
		names = append(names, p.String())
	}
	return names
}

func parsePlatforms(list string) ([]platform, error) {
	var platforms []platform
	for name := range strings.SplitSeq(list, ",") {
		i := slices.Index(platformNames(), name)
		if i < 0 {
			return nil, fmt.Errorf("there is no release for %q, only for %s", name, strings.Join(platformNames(), ", "))
		}
		platforms = append(platforms, supported[i])
	}
	return platforms, nil
}

// A build is what a platform's files are made of.
type build struct {
	platform
	dir  string // has the programs
	docs []docFile
}

// build compiles the programs.
func (r *release) build(ctx context.Context, p platform) (*build, error) {
	b := &build{platform: p, dir: filepath.Join(r.work, p.os+"-"+p.arch)}
	for _, name := range programs {
		args := append([]string{"build"}, r.goFlags()...)
		args = append(args, "-o", filepath.Join(b.dir, name), "./cmd/"+name)
		if err := r.goCommand(ctx, p, args...).run(); err != nil {
			return nil, fmt.Errorf("build %s for %s: %w", name, p, err)
		}
	}
	return b, nil
}

// goFlags are those that make two builds alike: no path of this machine, no
// state of the checkout beyond its version.
func (r *release) goFlags() []string {
	return []string{"-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.release=" + r.version}
}

// A command is one of package os/exec whose error has its output.
type command struct{ *exec.Cmd }

func (c command) run() error {
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(c.Args, " "), err, out)
	}
	return nil
}

// goCommand is a go command in the checkout. Of the environment it takes what
// says where modules come from and where caches are, and nothing that changes
// the code.
func (r *release) goCommand(ctx context.Context, p platform, args ...string) command {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(),
		"GOOS="+p.os, "GOARCH="+p.arch, "GOAMD64=v1", "GOARM64=v8.0", "CGO_ENABLED=0",
		"GOTOOLCHAIN="+r.toolchain, "GOFLAGS=-mod=readonly", "GOEXPERIMENT=", "GOFIPS140=off", "GOWORK=off")
	return command{cmd}
}

// A docFile is a man page or a completion script, which the programs write
// themselves.
type docFile struct {
	program string
	path    string // on this machine
	target  string // below /usr/share
}

// docs has the programs write their man pages and completions, as built for this
// machine, whatever the release is for.
func (r *release) docs(ctx context.Context, host *build) ([]docFile, error) {
	dir := filepath.Join(r.work, "docs")
	var all []docFile
	for _, program := range programs {
		exe := filepath.Join(host.dir, program)
		man := filepath.Join(dir, program, "man")
		if err := (command{exec.CommandContext(ctx, exe, "man", man)}).run(); err != nil {
			return nil, err
		}
		pages, err := filepath.Glob(filepath.Join(man, "*.1"))
		if err != nil {
			return nil, err
		}
		if len(pages) == 0 {
			return nil, fmt.Errorf("%s wrote no man pages", program)
		}
		for _, page := range pages {
			packed, err := gzipFile(page)
			if err != nil {
				return nil, err
			}
			all = append(all, docFile{program, packed, "man/man1/" + filepath.Base(packed)})
		}
		for shell, target := range map[string]string{
			"bash": "bash-completion/completions/" + program,
			"zsh":  "zsh/site-functions/_" + program,
			"fish": "fish/vendor_completions.d/" + program + ".fish",
		} {
			script, err := output(ctx, dir, exe, "completion", shell)
			if err != nil {
				return nil, err
			}
			path := filepath.Join(dir, program, shell)
			if err := os.WriteFile(path, []byte(script+"\n"), 0o644); err != nil {
				return nil, err
			}
			all = append(all, docFile{program, path, target})
		}
	}
	slices.SortFunc(all, func(a, b docFile) int { return cmp.Compare(a.target, b.target) })
	return all, nil
}

// gzipFile writes file.gz beside a file, without name or date in it.
func gzipFile(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	f, err := os.Create(path + ".gz")
	if err != nil {
		return "", err
	}
	defer f.Close()
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return "", err
	}
	if _, err := z.Write(text); err != nil {
		return "", err
	}
	if err := z.Close(); err != nil {
		return "", err
	}
	return path + ".gz", f.Close()
}
