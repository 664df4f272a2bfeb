package main

import (
	"testing"

	"github.com/drv-thru/drv-thru/cmd/internal/usage/usagetest"
)

func TestHelp(t *testing.T) {
	a := new(app)
	usagetest.Golden(t, a.root())
	usagetest.Everywhere(t, a.manual())
}
