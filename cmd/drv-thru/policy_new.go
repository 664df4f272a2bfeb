package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/policy/template"
)

func newPolicyNewCommand(a *app) *ffcli.Command {
	var names []string
	for _, l := range template.Languages {
		names = append(names, l.Name)
	}
	languages := strings.Join(names, ", ")
	fs := a.flags("drv-thru policy new")
	lang := fs.String("lang", "", "`LANGUAGE`: "+languages)
	return &ffcli.Command{
		Name:       "new",
		ShortUsage: "drv-thru policy new --lang LANGUAGE DIR",
		ShortHelp:  "begin a policy in a new folder",
		LongHelp:   "Makes DIR with a small policy that works, its tests, and a README.md with the\ncommands that build and test it.",
		FlagSet:    fs,
		Exec: func(_ context.Context, args []string) error {
			dir, err := a.oneOperand(fs, args, "one folder, which is made")
			if err != nil {
				return err
			}
			l, ok := template.Find(*lang)
			if !ok {
				return usagef("policy new: --lang is one of %s", languages)
			}
			return a.policyNew(l, dir)
		},
	}
}

func (a *app) policyNew(l template.Language, dir string) error {
	files, err := l.Files()
	if err != nil {
		return err
	}
	// An empty folder will do, but nothing is written over.
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return &hintError{fmt.Errorf("make policy: %s is not empty", dir), "name a folder that does not exist"}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make policy: %w", err)
	}
	for name, data := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("make policy: %w", err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return fmt.Errorf("make policy: %w", err)
		}
	}
	fmt.Fprintf(a.stdout, "%s: a policy in %s. Next:\n", dir, l.Title)
	return table(
		a.stdout,
		[]string{"  cd " + dir},
		[]string{"  " + l.Build},
		[]string{"  " + l.Test},
		[]string{"  drv-thru policy test ."},
	)
}
