// A policy for tickets of drv-thru: it allows builds by the names of their
// derivations, and can shorten them. Its settings:
//
//	{"allow": ["hello-*", "stdenv"], "max_build_seconds": 900}
//
// Build it with "GOOS=wasip1 GOARCH=wasm go build -o policy.wasm .", test it with
// "go test ." and "drv-thru policy test .".
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
)

// Request is the part of the request that this policy looks at. All of it is
// told by "drv-thru policy schema request".
type Request struct {
	Event  string `json:"event"` // "create", "build", "start"
	Ticket struct {
		Limits struct {
			MaxBuildSeconds uint64 `json:"max_build_seconds"` // 0: no limit
		} `json:"limits"`
	} `json:"ticket"`
	Request struct {
		Roots            []Named `json:"roots"`
		RootsTruncated   bool    `json:"roots_truncated"`
		ToBuild          []Named `json:"to_build"` // known from the event "start" on
		ToBuildTruncated bool    `json:"to_build_truncated"`
	} `json:"request"`
	Settings struct {
		Allow           []string `json:"allow"`
		MaxBuildSeconds uint64   `json:"max_build_seconds"`
	} `json:"settings"`
}

// Named is a derivation.
type Named struct {
	Name string `json:"name"`
}

// Decision is the answer: see "drv-thru policy schema decision".
type Decision struct {
	ABI      string  `json:"abi"`
	Decision string  `json:"decision"` // "allow", "deny", "narrow"
	Reason   string  `json:"reason,omitempty"`
	Limits   *Limits `json:"limits,omitempty"`
}

// Limits are those that become tighter.
type Limits struct {
	MaxBuildSeconds uint64 `json:"max_build_seconds,omitempty"`
}

func deny(format string, args ...any) Decision {
	return Decision{Decision: "deny", Reason: fmt.Sprintf(format, args...)}
}

func decide(r Request) Decision {
	if len(r.Settings.Allow) == 0 {
		return deny("the policy has no list of what to allow")
	}
	if r.Request.RootsTruncated || r.Request.ToBuildTruncated {
		return deny("the list of derivations is too long to check")
	}
	for _, list := range [][]Named{r.Request.Roots, r.Request.ToBuild} {
		for _, d := range list {
			if !allowed(d.Name, r.Settings.Allow) {
				return deny("%s is not allowed", d.Name)
			}
		}
	}
	most, now := r.Settings.MaxBuildSeconds, r.Ticket.Limits.MaxBuildSeconds
	if most > 0 && (now == 0 || most < now) {
		return Decision{Decision: "narrow", Limits: &Limits{MaxBuildSeconds: most}}
	}
	return Decision{Decision: "allow"}
}

func allowed(name string, patterns []string) bool {
	for _, p := range patterns {
		if ok, err := path.Match(p, name); ok && err == nil {
			return true
		}
	}
	return false
}

func main() {
	var r Request
	if err := json.NewDecoder(os.Stdin).Decode(&r); err != nil {
		fmt.Fprintln(os.Stderr, err) // for the builder's owner
		os.Exit(1)                   // denies
	}
	d := decide(r)
	d.ABI = "ticket-policy/1"
	if err := json.NewEncoder(os.Stdout).Encode(d); err != nil {
		os.Exit(1)
	}
}
