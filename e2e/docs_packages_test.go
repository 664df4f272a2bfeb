//go:build e2e

package e2e

import (
	"runtime"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// packageDocs are the blocks of the pages about what the packages install. They are
// run where TestPackages comes to them.
type packageDocs struct {
	blocks   map[string]docBlock
	followed map[string]bool
	// What there is in the place of what the pages say.
	id, key string
}

func newPackageDocs(t *testing.T) *packageDocs {
	t.Helper()
	d := &packageDocs{blocks: make(map[string]docBlock), followed: make(map[string]bool)}
	for _, name := range pages(t) {
		for _, b := range blocks(t, name) {
			if b.purpose == "" {
				continue
			}
			if _, double := d.blocks[b.purpose]; double {
				t.Errorf("%v: another block is for %q, too", b, b.purpose)
			}
			d.blocks[b.purpose] = b
		}
	}
	return d
}

// apt is what the machines have for it: nothing that the packages depend on is to be
// fetched.
const apt = "#!/bin/sh\n[ \"$1\" = install ] && shift && exec dpkg -i \"$@\"\n"

// follow runs the block for a purpose as root, where the packages are.
func (d *packageDocs) follow(t *testing.T, m *lab.Machine, purpose string) string {
	t.Helper()
	b, ok := d.blocks[purpose]
	if !ok {
		t.Fatalf("no page has a block for %q", purpose)
	}
	d.followed[purpose] = true
	m.WriteFile(lab.RootUser, "/usr/local/bin/apt", apt)
	m.Run(lab.RootUser, "chmod", "+x", "/usr/local/bin/apt")
	script := strings.NewReplacer("_amd64.deb", "_"+runtime.GOARCH+".deb", "https://relay.example.org", machineRelay, "ENDPOINT_ID", d.id,
		"drv-thru-…-1:…", d.key, "drv-thru-zbslgtcuwy-1:JWtzGCIoGlXYmNW5xeM7YmyolTIV9bqJr8Ij03FNKAk=", d.key).Replace(b.text)
	out, err := m.Command(lab.RootUser, "bash", "-euo", "pipefail", "-c", script).In(packagesDir + "/1").Output()
	if err != nil {
		journal, _ := m.Command(lab.RootUser, "journalctl", "--no-pager", "-n", "60").Output()
		t.Fatalf("%v: %v\n%s", b, err, journal)
	}
	return strings.TrimSpace(string(out))
}

// done wants every block to have been run.
func (d *packageDocs) done(t *testing.T) {
	t.Helper()
	for purpose, b := range d.blocks {
		if !d.followed[purpose] {
			t.Errorf("%v: nothing has run it", b)
		}
	}
}
