// Allows builds whose sources are all known: those of a flake and of what its
// flake.lock names. Its settings:
//
//	{
//	  "flake_lock": (the contents of flake.lock),
//	  "sources": ["sha256-…"]
//	}
//
// sources has the NAR hashes of the flake itself and of files that the evaluation
// copies to the store one by one, such as patches. All of them for one package:
//
//	nix path-info --json $(nix-store -qR $(nix path-info --derivation .#hello) | grep -v '\.drv$')
//
// A source is known by its contents, so a changed file is another source.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
)

type request struct {
	Event   string
	Request struct {
		Sources []struct {
			Path    string
			NarHash string `json:"nar_hash"`
		}
		SourcesTruncated bool `json:"sources_truncated"`
	}
	Settings struct {
		FlakeLock struct {
			Nodes map[string]struct {
				Locked struct{ NarHash string }
			}
		} `json:"flake_lock"`
		Sources []string
	}
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
	known := slices.Clone(r.Settings.Sources)
	for _, node := range r.Settings.FlakeLock.Nodes {
		if node.Locked.NarHash != "" {
			known = append(known, node.Locked.NarHash)
		}
	}
	if len(known) == 0 {
		return deny("the policy knows no sources")
	}
	if r.Request.SourcesTruncated {
		return deny("there are so many sources that the list was cut")
	}
	for _, s := range r.Request.Sources {
		if !slices.Contains(known, s.NarHash) {
			return deny("the source %s (%s) is not known", s.Path, s.NarHash)
		}
	}
	return decision{Decision: "allow"}
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
