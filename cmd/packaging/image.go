package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	layers "github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// nobody is whom the image runs as, in a file system in which root owns all.
const nobody = 65534

// image writes the relay's container image for the Linux platforms, as an OCI
// layout in a tar file: what podman load and skopeo read. There is one layer with
// the program, the certificate authorities that Mozilla trusts (for ACME) and the
// user nobody. It writes to /var/lib/drv-thru-relay alone.
func (r *release) image(built map[platform]*build) error {
	var index v1.ImageIndex = mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	found := false
	for _, p := range r.platforms {
		if p.os != "linux" {
			continue
		}
		found = true
		img, err := r.imageFor(built[p])
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: p.os, Architecture: p.arch}}})
	}
	if !found {
		return nil
	}
	dir := filepath.Join(r.work, "image")
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	// The name by which "podman load" keeps it: of this machine, as no registry
	// has it, and none must be asked for it.
	name := "localhost/drv-thru-relay:" + r.tagVersion()
	if err := path.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": r.tagVersion(),
		"io.containerd.image.name":          name,
	})); err != nil {
		return err
	}
	f, err := r.create("drv-thru-relay-" + r.version + "-oci.tar")
	if err != nil {
		return err
	}
	defer f.Close()
	t := &tarball{w: tar.NewWriter(f), time: r.time}
	// WalkDir goes in the order of names, which are hashes.
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			t.file(path, strings.TrimPrefix(path, dir+"/"), 0o644)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := t.close(); err != nil {
		return err
	}
	return f.Close()
}

func (r *release) imageFor(b *build) (v1.Image, error) {
	content, err := r.imageContent(b)
	if err != nil {
		return nil, err
	}
	layer, err := layers.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		layers.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img, err := mutate.Append(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON),
		mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: r.time}, CreatedBy: "cmd/packaging"}})
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = b.os, b.arch, v1.Time{Time: r.time}
	file.Config = v1.Config{
		User:         "65534:65534",
		Entrypoint:   []string{"/usr/bin/drv-thru-relay"},
		Env:          []string{"PATH=/usr/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", "STATE_DIRECTORY=/var/lib/drv-thru-relay"},
		ExposedPorts: map[string]struct{}{"7411/tcp": {}, "7411/udp": {}},
		Volumes:      map[string]struct{}{"/var/lib/drv-thru-relay": {}},
		WorkingDir:   "/",
		StopSignal:   "SIGTERM",
		Labels: map[string]string{
			"org.opencontainers.image.title":    "drv-thru-relay",
			"org.opencontainers.image.version":  r.version,
			"org.opencontainers.image.source":   homepage,
			"org.opencontainers.image.licenses": "MIT",
		},
	}
	return mutate.ConfigFile(img, file)
}

// imageContent is the layer, as a tar file.
func (r *release) imageContent(b *build) ([]byte, error) {
	var roots bytes.Buffer
	for root := range bundle.Roots() {
		// Those that are limited to some names or dates cannot be told so here.
		if root.Constraint != nil {
			continue
		}
		if err := pem.Encode(&roots, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, err
		}
	}
	program := filepath.Join(b.dir, "drv-thru-relay")
	notices, err := r.notices(program)
	if err != nil {
		return nil, err
	}
	var content bytes.Buffer
	t := &tarball{w: tar.NewWriter(&content), time: r.time}
	t.file(program, "usr/bin/drv-thru-relay", 0o755)
	t.text(roots.String(), "etc/ssl/certs/ca-certificates.crt", 0o644)
	t.text("root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n", "etc/passwd", 0o644)
	t.text("root:x:0:\nnobody:x:65534:\n", "etc/group", 0o644)
	t.file(notices, "usr/share/doc/drv-thru-relay/copyright", 0o644)
	t.dir("tmp", 0o1777)
	t.dir("var", 0o755)
	t.dir("var/lib", 0o755)
	t.owned("var/lib/drv-thru-relay", 0o700, nobody)
	if err := t.close(); err != nil {
		return nil, err
	}
	return content.Bytes(), nil
}
