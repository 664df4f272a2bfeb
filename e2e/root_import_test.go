//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// Root's Nix needs no daemon, and copies several paths at once, some with the same NAR,
// where the daemon's takes one after the other.
func TestRootImportsManyAtOnce(t *testing.T) {
	for _, root := range lab.Roots {
		t.Run(string(root), func(t *testing.T) {
			t.Parallel()
			p := lab.NewPair(t, root, lab.Trixie)
			client := &lab.Client{Host: p.Client.Host, User: lab.RootUser}
			const n = 60
			client.Host.WriteFile(lab.Alice, "/tmp/blobs.nix", string(lab.Blobs(n, 1500, "many")))
			drv := client.Host.Run(lab.Alice, "nix-instantiate", "/tmp/blobs.nix")
			c := client.BuildCmd(p.Builder.Ticket(), "--no-link", "--print-out-paths", drv+"^*").AddEnv("NIX_REMOTE=local")
			paths := strings.Fields(client.Host.Must(c))
			if len(paths) != n {
				t.Errorf("%d paths, want %d", len(paths), n)
			}
			p.Verify(t)
		})
	}
}
