package main

import (
	"os/exec"
	"sync"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix"
)

// nom finds nix-output-monitor, which shows builds on a terminal; "" without it.
func nom() string {
	program, err := exec.LookPath("nom")
	if err != nil {
		return ""
	}
	return program
}

// importProgress adds up what arrives of all NARs.
type importProgress struct {
	to client.Observer
	// received tells how much has come over the wire.
	received func() uint64

	mu   sync.Mutex
	nars map[nix.Path]uint64 // bytes so far
	now  client.Transfer
}

func newImportProgress(to client.Observer, received func() uint64) *importProgress {
	return &importProgress{to: to, received: received, nars: make(map[nix.Path]uint64)}
}

// begin says what is expected.
func (i *importProgress) begin(paths int, bytes int64) {
	i.mu.Lock()
	i.now.Paths, i.now.Total = paths, bytes
	now := i.now
	i.mu.Unlock()
	i.to.Transfer(now)
}

// piece takes note of a piece that arrived.
func (i *importProgress) piece(p cache.Progress) {
	i.mu.Lock()
	if done := min(p.Fetched, p.Size); done > i.nars[p.Path] {
		i.now.Done = min(i.now.Done+int64(done-i.nars[p.Path]), i.now.Total)
		i.nars[p.Path] = done
	}
	i.now.Wire = int64(i.received())
	now := i.now
	i.mu.Unlock()
	i.to.Transfer(now)
}

// end says that all is there.
func (i *importProgress) end() {
	i.mu.Lock()
	i.now.Done = i.now.Total
	now := i.now
	i.mu.Unlock()
	i.to.Transfer(now)
}
