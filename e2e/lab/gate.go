//go:build linux

package lab

import (
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// gateDir is a directory that every build sandbox of a host shows.
const gateDir = "/gate"

// A Gate is what a build waits at until the test lets it pass: a FIFO that the
// sandbox shows.
type Gate struct {
	host *Host
	name string
	fifo *os.File
	once sync.Once
}

// NewGate makes a closed gate on the host that will build. The name must be
// unique on the host.
func NewGate(t T, h *Host, name string) *Gate {
	t.Helper()
	g := &Gate{host: h, name: name}
	err := h.Do(func() (err error) {
		path := gateDir + "/" + name
		if err := unix.Mkfifo(path, 0o666); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o666); err != nil {
			return err
		}
		// Open for both, the FIFO keeps what is written before a build
		// comes to read it.
		g.fifo, err = os.OpenFile(path, os.O_RDWR, 0)
		return err
	})
	if err != nil {
		t.Fatalf("lab: make gate %s on %s: %v", name, h.name, err)
	}
	t.Cleanup(func() { g.fifo.Close() })
	return g
}

// Open lets every build pass, now and later.
func (g *Gate) Open() {
	g.host.t.Helper()
	g.once.Do(func() {
		if _, err := g.fifo.WriteString(strings.Repeat("\n", 1000)); err != nil {
			g.host.t.Fatalf("lab: open gate %s on %s: %v", g.name, g.host.name, err)
		}
	})
}
