package usage

import (
	"cmp"
	"runtime/debug"
)

// Version is a program's release: what the linker was told, else what go install has
// fetched, or "dev" for what was built from a checkout.
func Version(linked string) string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "(devel)" {
		linked = cmp.Or(linked, info.Main.Version)
	}
	return cmp.Or(linked, "dev")
}
