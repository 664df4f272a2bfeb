package main

import "runtime/debug"

// release is set by the linker in release builds.
var release string

// version is the program's release, "dev" for what was built from a checkout.
var version = func() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}()

// softwareName is what peers and logs are told.
func softwareName() string { return "drv-thru/" + version }
