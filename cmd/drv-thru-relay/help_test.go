package main

import (
	"io"
	"testing"

	"github.com/drv-thru/drv-thru/cmd/internal/usage/usagetest"
)

func TestHelp(t *testing.T) {
	usagetest.Golden(t, command(new(flags), io.Discard, io.Discard))
	usagetest.Everywhere(t, manual())
}
