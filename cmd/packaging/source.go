package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// A source is the checkout that a release is made of.
type source struct {
	dir       string
	version   string    // semantic, without the v
	time      time.Time // what every file of the release is dated
	toolchain string    // the Go that go.mod names
}

// openSource finds the checkout around the working directory. number overrides
// the version that git tells.
func openSource(ctx context.Context, number string) (*source, error) {
	dir, err := output(ctx, ".", "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, fmt.Errorf("a release is made of a git checkout: %w", err)
	}
	s := &source{dir: dir}
	if s.time, err = s.date(ctx); err != nil {
		return nil, err
	}
	if s.version = strings.TrimPrefix(number, "v"); s.version == "" {
		if s.version, err = s.describe(ctx); err != nil {
			return nil, err
		}
	}
	if !semver.IsValid("v" + s.version) {
		return nil, fmt.Errorf("the version %q is not a semantic one, such as 1.2.3", s.version)
	}
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return nil, err
	}
	mod, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		return nil, err
	}
	if mod.Toolchain == nil {
		return nil, errors.New("go.mod names no toolchain: another Go would write other bytes")
	}
	s.toolchain = mod.Toolchain.Name
	return s, nil
}

func (s *source) date(ctx context.Context) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		var err error
		if text, err = output(ctx, s.dir, "git", "show", "--no-show-signature", "-s", "--format=%ct", "HEAD"); err != nil {
			return time.Time{}, err
		}
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// describe is the version of the commit: that of its tag, or a pseudo-version
// as Go makes them, which sorts before the next tag. What differs from the
// commit is called dirty.
func (s *source) describe(ctx context.Context) (string, error) {
	version, err := output(ctx, s.dir, "git", "describe", "--tags", "--exact-match", "--match", "v[0-9]*")
	if err != nil {
		// Without any tag, the version is one before all.
		last, _ := output(ctx, s.dir, "git", "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*")
		hash, err := output(ctx, s.dir, "git", "rev-parse", "HEAD")
		if err != nil {
			return "", err
		}
		version = module.PseudoVersion(semver.Major(last), last, s.time, hash[:12])
	}
	status, err := output(ctx, s.dir, "git", "status", "--porcelain", "--untracked-files=no")
	if err != nil {
		return "", err
	}
	if status != "" {
		version += "+dirty"
	}
	return strings.TrimPrefix(version, "v"), nil
}

// packageVersion is the version as dpkg and rpm sort it: what precedes a
// release has a tilde, and neither takes a second hyphen.
func (s *source) packageVersion() string {
	number, rest, pre := strings.Cut(s.version, "-")
	if !pre {
		return number
	}
	return number + "~" + strings.ReplaceAll(rest, "-", ".")
}

// tagVersion is the version where a plus may not stand.
func (s *source) tagVersion() string { return strings.ReplaceAll(s.version, "+", "-") }

// output runs a program and returns what it prints.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}
