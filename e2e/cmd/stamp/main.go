// Command stamp is the builder of a derivation: it copies a tree and writes
// store paths over bytes of its files, as linkers and install scripts do in
// shebangs, run paths and constants. What is built with other dependencies
// differs in nothing but these.
//
// usage: stamp tree path...
//
// The copy goes to $out, whose path is one of those that are written.
package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// every is how far apart the paths stand.
const every = 96 << 10

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: stamp tree path...")
		os.Exit(2)
	}
	if err := stamp(os.Args[1], os.Getenv("out"), os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func stamp(tree, out string, paths []string) error {
	paths = append(paths, out)
	next := 0
	return filepath.WalkDir(tree, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(tree, name)
		if err != nil {
			return err
		}
		to := filepath.Join(out, rel)
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for at := len(data) / 3 % every; ; at += every {
			path := paths[next%len(paths)]
			if at+len(path) > len(data) {
				break
			}
			copy(data[at:], path)
			next++
		}
		return os.WriteFile(to, data, 0o755)
	})
}
