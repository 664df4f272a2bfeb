package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/drv-thru/drv-thru/core/nix"
)

// links makes the result links of everything that was built, named as nix build
// names them, and registers them as roots.
func (s *localStore) links(ctx context.Context, name string, results []target) error {
	return eachLink(name, results, func(link string, target nix.Path) error { return s.link(ctx, link, target) })
}

// eachLink calls fn for every result link.
func eachLink(name string, results []target, fn func(link string, target nix.Path) error) error {
	for _, r := range results {
		for _, output := range r.outputs {
			link := name
			if r.nth > 0 {
				link += "-" + strconv.Itoa(r.nth)
			}
			if output.name != "out" && output.name != "" {
				link += "-" + output.name
			}
			if err := fn(link, output.path); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *localStore) link(ctx context.Context, link string, target nix.Path) error {
	link, err := filepath.Abs(link)
	if err != nil {
		return err
	}
	if err := replaceLink(link, target); err != nil {
		return linkError(err)
	}
	if err := s.conn.AddIndirectRoots(ctx, link); err != nil {
		return fmt.Errorf("register the result link %s: %w", link, err)
	}
	return nil
}

// checkLinks finds what is in the place of a result link before there is a build that
// took hours.
func (r *buildRun) checkLinks() error {
	if r.flags.noLink || r.flags.dryRun || r.flags.detach {
		return nil
	}
	return eachLink(r.flags.outLink, r.targets, func(link string, _ nix.Path) error {
		if _, err := replaceable(link); err != nil {
			return linkError(err)
		}
		return nil
	})
}

func linkError(err error) error {
	return &hintError{fmt.Errorf("make the result link: %w", err), "name another with --out-link, or make none with --no-link"}
}

// replaceable returns where a link leads, "" for none, and fails when something is in
// its place that is not to be lost.
func replaceable(link string) (old string, err error) {
	old, err = os.Readlink(link)
	switch {
	case err == nil && !strings.HasPrefix(old, nix.StoreDir+"/"):
		return "", fmt.Errorf("%s exists and links to %s, which is not in the store", link, old)
	case errors.Is(err, syscall.EINVAL):
		return "", fmt.Errorf("%s exists and is not a link", link)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	return old, nil
}

// replaceLink makes a link, in the place of an older one into the store but of
// nothing else.
func replaceLink(link string, target nix.Path) error {
	if old, err := replaceable(link); err != nil || old == string(target) {
		return err
	}
	// As Nix does.
	if err := os.MkdirAll(filepath.Dir(link), 0o777); err != nil {
		return err
	}
	// Renaming over the old one leaves no moment without a root.
	for n := range 100 {
		tmp := link + ".tmp-" + strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(n)
		switch err := os.Symlink(string(target), tmp); {
		case errors.Is(err, fs.ErrExist):
			continue
		case err != nil:
			return err
		}
		if err := os.Rename(tmp, link); err != nil {
			_ = os.Remove(tmp)
			return err
		}
		return nil
	}
	return fmt.Errorf("no free name beside %s", link)
}
