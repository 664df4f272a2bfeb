package main

import (
	"archive/tar"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// archive writes the programs of a platform, with their man pages, completions
// and, for Linux, units, in one directory of a tar.gz.
func (r *release) archive(b *build) error {
	name := "drv-thru-" + r.version + "-" + b.os + "-" + b.arch
	f, err := r.create(name + ".tar.gz")
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return err
	}
	t := &tarball{w: tar.NewWriter(z), time: r.time}
	for _, program := range programs {
		t.file(filepath.Join(b.dir, program), name+"/bin/"+program, 0o755)
	}
	for _, doc := range b.docs {
		t.file(doc.path, name+"/share/"+doc.target, 0o644)
	}
	if b.os == "linux" {
		here := filepath.Join(r.dir, "cmd/packaging")
		for _, p := range packs {
			for _, unit := range p.units {
				t.file(filepath.Join(here, "systemd", unit), name+"/systemd/"+unit, 0o644)
			}
			if p.sysusers != "" {
				t.file(filepath.Join(here, "systemd", p.sysusers), name+"/systemd/"+p.sysusers, 0o644)
			}
			for _, config := range p.configs {
				t.file(filepath.Join(here, "etc", config), name+"/etc/drv-thru/"+config, 0o644)
			}
			for _, example := range p.examples {
				t.file(filepath.Join(here, example), name+"/"+example, 0o644)
			}
		}
	}
	var all []string
	for _, program := range programs {
		all = append(all, filepath.Join(b.dir, program))
	}
	notices, err := r.notices(all...)
	if err != nil {
		return err
	}
	t.file(notices, name+"/LICENSES", 0o644)
	documents, err := r.documents()
	if err != nil {
		return err
	}
	for _, document := range documents {
		t.file(filepath.Join(r.dir, document), name+"/"+document, 0o644)
	}
	if err := t.close(); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return f.Close()
}

// A tarball is a tar file in which everything is of one time and of root. The
// first error is kept until close.
type tarball struct {
	w    *tar.Writer
	time time.Time
	dirs map[string]bool
	err  error
}

// file adds a file of this machine under a name, and the directories that it is in.
func (t *tarball) file(path, name string, mode int64) {
	if t.err != nil {
		return
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.err = err
		return
	}
	t.text(string(text), name, mode)
}

// text adds a file of this contents.
func (t *tarball) text(text, name string, mode int64) {
	for i, c := range name {
		if c == '/' && i > 0 {
			t.dir(name[:i], 0o755)
		}
	}
	t.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(text))})
	if t.err == nil {
		_, t.err = io.Copy(t.w, strings.NewReader(text))
	}
}

// dir adds a directory, once.
func (t *tarball) dir(name string, mode int64) {
	if t.dirs[name] {
		return
	}
	if t.dirs == nil {
		t.dirs = make(map[string]bool)
	}
	t.dirs[name] = true
	t.add(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
}

// owned adds a directory that is a user's.
func (t *tarball) owned(name string, mode int64, user int) {
	t.add(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: user, Gid: user})
}

func (t *tarball) add(h *tar.Header) {
	if t.err == nil {
		h.ModTime, h.Format = t.time, tar.FormatPAX
		t.err = t.w.WriteHeader(h)
	}
}

func (t *tarball) close() error {
	if t.err != nil {
		return t.err
	}
	return t.w.Close()
}
