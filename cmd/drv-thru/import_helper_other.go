//go:build !linux

package main

import (
	"context"
	"errors"
)

// serveImportHelper fails: mounting for others is Linux's.
func (a *app) serveImportHelper(context.Context, *importHelperFlags) error {
	return errors.New("the import helper runs on Linux only")
}
