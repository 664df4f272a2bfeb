package builder

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

// A builder's Nix daemon may send builds to other machines. Nix names those by
// the URLs of their stores, which have the user and the files of keys; whoever
// builds is told the host only.

var machineURL = regexp.MustCompile(`\bssh(?:-ng)?://[^\s'"‘’“”]*`)

// MachineName returns what a machine is called: the host, and the port if its
// URL has one. Machines that are reached in another way keep their text.
func MachineName(uri string) string {
	name, _, _ := strings.Cut(uri, "?")
	if _, rest, ok := strings.Cut(name, "://"); ok {
		name = rest
	}
	if i := strings.LastIndexByte(name, '@'); i >= 0 {
		name = name[i+1:]
	}
	return strings.TrimSuffix(name, "/")
}

// withoutURLs replaces the machines' URLs in a text by their names.
func withoutURLs[T string | []byte](text T) T {
	if !strings.Contains(string(text), "ssh") {
		return text
	}
	return T(machineURL.ReplaceAllStringFunc(string(text), MachineName))
}

// BuildingDrv is a derivation that a build is at.
type BuildingDrv struct {
	Drv string `json:"drv"`
	// Machine is the remote builder's name, or wire.MachineSelf.
	Machine string    `json:"machine"`
	Since   time.Time `json:"since"`
}

// maxBuildingDrvs bounds what is remembered of one build; the daemon has at most
// its max-jobs and those of its machines.
const maxBuildingDrvs = 1024

// began notes that the daemon has begun to build a derivation.
func (b *build) began(a *daemon.Activity) {
	d := BuildingDrv{Drv: a.Fields[0].Str, Machine: wire.MachineSelf, Since: b.s.cfg.Now()}
	if len(a.Fields) > 1 && a.Fields[1].IsString && a.Fields[1].Str != "" {
		d.Machine = MachineName(a.Fields[1].Str)
	}
	b.s.cfg.Meter.Began(d.Machine)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.machines == nil {
		b.building, b.machines = make(map[uint64]BuildingDrv), make(map[string]int)
	}
	b.machines[d.Machine]++
	if len(b.building) < maxBuildingDrvs {
		b.building[a.ID] = d
	}
}

// stopped notes that an activity has ended.
func (b *build) stopped(id uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.building, id)
}

// buildingNow lists what is being built, the oldest first. b.mu is held.
func (b *build) buildingNow() []BuildingDrv {
	return slices.SortedFunc(maps.Values(b.building), func(x, y BuildingDrv) int {
		return cmp.Or(x.Since.Compare(y.Since), cmp.Compare(x.Drv, y.Drv))
	})
}
