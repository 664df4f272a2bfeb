package main

import "github.com/drv-thru/drv-thru/cmd/internal/usage"

// release is set by the linker in release builds.
var release string

var version = usage.Version(release)

// softwareName is what peers and logs are told.
func softwareName() string { return "drv-thru/" + version }
