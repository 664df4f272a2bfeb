package main

import (
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

const (
	homepage   = "https://github.com/drv-thru/drv-thru"
	maintainer = "The drv-thru authors <drv-thru@users.noreply.github.com>"
)

// A pack is a package: a program, and what belongs to it. Paths are below
// cmd/packaging.
type pack struct {
	name        string // the program's
	summary     string
	description string
	recommends  []string
	suggests    []string
	units       []string
	sysusers    string
	state       []string // what the services make, and a purge removes
	configs     []string // become files of /etc/drv-thru
	examples    []string // below cmd/packaging, and below the folder of its documentation
}

var packs = []pack{
	{
		name:    "drv-thru",
		summary: "Build Nix derivations on someone else's machine",
		description: `Client and builder. The client evaluates here, has a builder build, and imports
the outputs, whose signatures its own Nix checks. The builder lets those who hold a
ticket build on this machine. Nothing is started or enabled at installation.`,
		// fusermount3, without which the client serves a cache on loopback HTTP.
		recommends: []string{"fuse3"},
		suggests:   []string{"nix-bin"},
		units: []string{
			"drv-thru-admin.socket", "drv-thru.service",
			"drv-thru-import-helper.socket", "drv-thru-import-helper.service",
			"drv-thru-mount@.service",
		},
		sysusers: "drv-thru.sysusers",
		state:    []string{"/var/lib/drv-thru", "/var/cache/drv-thru-mount"},
		configs:  []string{"serve.json", "import-helper.keys"},
		examples: []string{"examples/serve.json", "examples/builders.json", "examples/mount-home.conf", "grafana/drv-thru-builder.json"},
	},
	{
		name:    "drv-thru-relay",
		summary: "Relay at which drv-thru's builders and clients meet",
		description: `Builders and clients that cannot reach each other meet at a relay, which passes
ciphertext. It needs no Nix. Nothing is started or enabled at installation.`,
		units: []string{"drv-thru-relay.service"},
		// The first is a link to the second: systemd.exec(5), DynamicUser=.
		state:    []string{"/var/lib/drv-thru-relay", "/var/lib/private/drv-thru-relay"},
		configs:  []string{"relay.conf"},
		examples: []string{"grafana/drv-thru-relay.json"},
	},
}

// packages writes the packages of a platform.
func (r *release) packages(kind string, b *build) error {
	if b.os != "linux" {
		return nil
	}
	packager, err := nfpm.Get(kind)
	if err != nil {
		return err
	}
	for _, p := range packs {
		info, err := r.info(kind, b, p)
		if err != nil {
			return err
		}
		if err := nfpm.PrepareForPackager(info, kind); err != nil {
			return err
		}
		f, err := r.create(packager.ConventionalFileName(info))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := packager.Package(info, f); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// info describes a package to nfpm.
func (r *release) info(kind string, b *build, p pack) (*nfpm.Info, error) {
	scripts, err := r.scripts(p)
	if err != nil {
		return nil, err
	}
	notices, err := r.notices(filepath.Join(b.dir, p.name))
	if err != nil {
		return nil, err
	}
	documents, err := r.documents()
	if err != nil {
		return nil, err
	}
	description := p.description
	if kind == "deb" {
		// Whose first line is the summary.
		description = p.summary + "\n" + description
	}
	return nfpm.WithDefaults(&nfpm.Info{
		Name: p.name, Arch: b.arch, Platform: "linux",
		Version: r.packageVersion(), VersionSchema: "none", Release: "1",
		Section: "net", Priority: "optional", License: "MIT",
		Maintainer: maintainer, Homepage: homepage,
		Description: description,
		MTime:       r.time,
		Overridables: nfpm.Overridables{
			Recommends: p.recommends, Suggests: p.only(kind, p.suggests),
			Contents: r.contents(kind, b, p, notices, documents),
			Scripts:  scripts,
			Deb:      nfpm.Deb{Compression: "zstd"},
			RPM:      nfpm.RPM{Summary: p.summary, Compression: "zstd", BuildHost: "localhost", Packager: maintainer},
		},
	}), nil
}

// contents are the files of a package. notices is the file with the licences.
func (r *release) contents(kind string, b *build, p pack, notices string, documents []string) files.Contents {
	here := filepath.Join(r.dir, "cmd/packaging")
	doc := "/usr/share/doc/" + p.name + "/"
	var contents files.Contents
	add := func(what, source, target string, mode fs.FileMode) {
		contents = append(contents, &files.Content{Type: what, Source: source, Destination: target,
			FileInfo: &files.ContentFileInfo{Mode: mode, MTime: r.time}})
	}
	// rpm has to be told what is documentation, which not everybody wants, and
	// which directories are ours, as it would leave them behind.
	docType, licenceType := files.TypeFile, files.TypeFile
	if kind == "rpm" {
		docType, licenceType = files.TypeRPMDoc, files.TypeRPMLicence
		dirs := []string{"/etc/drv-thru", doc, doc + "docs"}
		for _, example := range p.examples {
			dirs = append(dirs, doc+path.Dir(example))
		}
		for _, dir := range slices.Compact(dirs) {
			add(files.TypeDir, "", dir, 0o755)
		}
	}
	add(files.TypeFile, filepath.Join(b.dir, p.name), "/usr/bin/"+p.name, 0o755)
	for _, unit := range p.units {
		add(files.TypeFile, filepath.Join(here, "systemd", unit), "/usr/lib/systemd/system/"+unit, 0o644)
	}
	if p.sysusers != "" {
		add(files.TypeFile, filepath.Join(here, "systemd", p.sysusers), "/usr/lib/sysusers.d/"+p.name+".conf", 0o644)
	}
	for _, config := range p.configs {
		add(files.TypeConfigNoReplace, filepath.Join(here, "etc", config), "/etc/drv-thru/"+config, 0o644)
	}
	for _, example := range p.examples {
		add(docType, filepath.Join(here, example), doc+example, 0o644)
	}
	for _, f := range b.docs {
		if f.program != p.name {
			continue
		}
		what, target := files.TypeFile, f.target
		switch {
		case strings.HasPrefix(target, "man/"):
			what = docType
		case kind == "deb":
			target = strings.Replace(target, "zsh/site-functions", "zsh/vendor-completions", 1)
		}
		add(what, f.path, "/usr/share/"+target, 0o644)
	}
	add(licenceType, notices, doc+"copyright", 0o644)
	for _, document := range documents {
		add(docType, filepath.Join(r.dir, document), doc+document, 0o644)
	}
	return contents
}

// only keeps the names that Debian has given to packages for Debian.
func (p pack) only(kind string, names []string) []string {
	if kind == "deb" {
		return names
	}
	return nil
}

// scripts writes what the package managers run: the scripts of folder scripts,
// which both understand, with the package's names in front.
func (r *release) scripts(p pack) (nfpm.Scripts, error) {
	var s nfpm.Scripts
	head := fmt.Sprintf("#!/bin/sh\nset -e\npackage=%s\nunits='%s'\nstate='%s'\n",
		p.name, strings.Join(p.units, " "), strings.Join(p.state, " "))
	for name, to := range map[string]*string{
		"postinstall": &s.PostInstall, "preremove": &s.PreRemove, "postremove": &s.PostRemove,
	} {
		body, err := readFile(r.dir, "cmd/packaging/scripts", name+".sh")
		if err != nil {
			return s, err
		}
		*to = filepath.Join(r.work, p.name+"."+name)
		if err := writeFile(*to, head+body); err != nil {
			return s, err
		}
	}
	return s, nil
}
