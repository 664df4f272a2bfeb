package main

import (
	"cmp"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// A goModule is one that is in a program.
type goModule struct{ path, version, sum string }

// modules lists what is in programs, from what the linker has noted in them,
// with Go's own code as the module std.
func modules(programs ...string) ([]goModule, error) {
	var all []goModule
	for _, program := range programs {
		info, err := buildinfo.ReadFile(program)
		if err != nil {
			return nil, err
		}
		all = append(all, goModule{path: "std", version: info.GoVersion})
		for _, m := range info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			all = append(all, goModule{m.Path, m.Version, m.Sum})
		}
	}
	slices.SortFunc(all, func(a, b goModule) int { return cmp.Compare(a.path, b.path) })
	return slices.Compact(all), nil
}

// purl names a module as package URLs do.
func (m goModule) purl() string { return "pkg:golang/" + m.path + "@" + m.version }

// boms writes a bill of materials in CycloneDX for each program of a platform.
func (r *release) boms(b *build) error {
	for _, program := range programs {
		all, err := modules(filepath.Join(b.dir, program))
		if err != nil {
			return err
		}
		f, err := r.create(fmt.Sprintf("%s-%s-%s-%s.cdx.json", program, r.version, b.os, b.arch))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := cdx.NewBOMEncoder(f, cdx.BOMFileFormatJSON).SetPretty(true).Encode(r.bom(program, b.platform, all)); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (r *release) bom(program string, p platform, all []goModule) *cdx.BOM {
	main := goModule{path: "github.com/drv-thru/drv-thru/cmd/" + program, version: "v" + r.version}
	ref := fmt.Sprintf("%s?goos=%s&goarch=%s", main.purl(), p.os, p.arch)
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{
		Timestamp: r.time.Format(time.RFC3339),
		Component: &cdx.Component{
			BOMRef: ref, Type: cdx.ComponentTypeApplication, Name: program, Version: r.version, PackageURL: ref,
			Licenses: &cdx.Licenses{{License: &cdx.License{ID: "MIT"}}},
		},
	}
	var components []cdx.Component
	var refs []string
	for _, m := range all {
		c := cdx.Component{BOMRef: m.purl(), Type: cdx.ComponentTypeLibrary, Name: m.path, Version: m.version, PackageURL: m.purl()}
		if m.sum != "" {
			// What go.sum has; it is no hash of a file, so not one of the component.
			c.Properties = &[]cdx.Property{{Name: "go:sum", Value: m.sum}}
		}
		components = append(components, c)
		refs = append(refs, m.purl())
	}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: ref, Dependencies: &refs}}
	return bom
}

// notices writes the licences of programs and of all that is linked into them
// into one file, and returns its path.
func (r *release) notices(programs ...string) (string, error) {
	all, err := modules(programs...)
	if err != nil {
		return "", err
	}
	own, err := readFile(r.dir, "LICENSE")
	if err != nil {
		return "", err
	}
	var text strings.Builder
	text.WriteString("drv-thru, " + homepage + "\n\n" + own)
	dirs, err := r.moduleDirs(all)
	if err != nil {
		return "", err
	}
	for _, m := range all {
		dir := dirs[m.path]
		files, err := licenceFiles(dir)
		if err != nil {
			return "", err
		}
		if len(files) == 0 {
			return "", fmt.Errorf("the module %s has no licence in %s", m.path, dir)
		}
		for _, file := range files {
			licence, err := readFile(dir, file)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&text, "\n%s\n\nContains %s %s (%s):\n\n%s", strings.Repeat("-", 72), m.path, m.version, file, strings.TrimSpace(licence)+"\n")
		}
	}
	path := filepath.Join(r.work, "notices-"+filepath.Base(filepath.Dir(programs[0]))+"-"+filepath.Base(programs[0])+fmt.Sprint(len(programs)))
	return path, writeFile(path, text.String())
}

// moduleDirs are where the Go command keeps the sources of modules.
func (r *release) moduleDirs(all []goModule) (map[string]string, error) {
	ctx := context.Background()
	root, err := r.goCommand(ctx, supported[0], "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOROOT: %w", err)
	}
	dirs := map[string]string{"std": strings.TrimSpace(string(root))}
	args := []string{"list", "-m", "-f", "{{.Path}}\t{{.Dir}}"}
	for _, m := range all {
		if m.path != "std" {
			args = append(args, m.path)
		}
	}
	out, err := r.goCommand(ctx, supported[0], args...).Output()
	if err != nil {
		return nil, fmt.Errorf("go list -m: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		path, dir, _ := strings.Cut(strings.TrimSpace(line), "\t")
		dirs[path] = dir
	}
	return dirs, nil
}

// licenceFiles are the names of the files at the top of a module that have its
// licence, or what the licence says must be passed on.
func licenceFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		upper := strings.ToUpper(e.Name())
		for _, prefix := range []string{"LICENSE", "LICENCE", "COPYING", "NOTICE", "PATENTS"} {
			if e.Type().IsRegular() && strings.HasPrefix(upper, prefix) {
				names = append(names, e.Name())
				break
			}
		}
	}
	return names, nil
}
