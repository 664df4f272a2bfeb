// Allows builds by the names of what is built. Its settings:
//
//	{
//	  "allow": ["hello-*", "stdenv-linux"],
//	  "fetch": ["*.tar.gz", "*.patch"],
//	  "features": ["big-parallel"]
//	}
//
// What is asked for and everything that would be built for it must match allow;
// fixed outputs, which have the network, match fetch instead; and nothing may
// require other system features. A name is a derivation's without its hash.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
)

type request struct {
	Event   string
	Request struct {
		Roots            []derivation
		RootsTruncated   bool         `json:"roots_truncated"`
		ToBuild          []derivation `json:"to_build"`
		ToBuildTruncated bool         `json:"to_build_truncated"`
	}
	Settings struct{ Allow, Fetch, Features []string }
}

type derivation struct {
	Name        string
	FixedOutput bool `json:"fixed_output"`
	Features    []string
}

type decision struct {
	ABI      string `json:"abi"`
	Decision string `json:"decision"`
	Reason   string `json:"reason,omitempty"`
}

func deny(format string, args ...any) decision {
	return decision{Decision: "deny", Reason: fmt.Sprintf(format, args...)}
}

func decide(r request) decision {
	for _, pattern := range append(r.Settings.Allow, r.Settings.Fetch...) {
		if _, err := path.Match(pattern, ""); err != nil {
			return deny("%q is no pattern", pattern)
		}
	}
	build := r.Request
	if build.RootsTruncated || build.ToBuildTruncated {
		return deny("so much would be built that the list was cut")
	}
	// Before the event "start" it is not known what a root is: fetching may do.
	for _, d := range build.Roots {
		if !matches(d.Name, r.Settings.Allow) && !matches(d.Name, r.Settings.Fetch) {
			return deny("%s is not on the list", d.Name)
		}
	}
	for _, d := range build.ToBuild {
		list, what := r.Settings.Allow, "built"
		if d.FixedOutput {
			list, what = r.Settings.Fetch, "fetched"
		}
		if !matches(d.Name, list) {
			return deny("%s would have to be %s and is not on the list", d.Name, what)
		}
		for _, f := range d.Features {
			if !slices.Contains(r.Settings.Features, f) {
				return deny("%s requires the feature %s", d.Name, f)
			}
		}
	}
	return decision{Decision: "allow"}
}

func matches(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

func main() {
	var r request
	if err := json.NewDecoder(os.Stdin).Decode(&r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	d := decide(r)
	d.ABI = "ticket-policy/1"
	if err := json.NewEncoder(os.Stdout).Encode(d); err != nil {
		os.Exit(1)
	}
}
