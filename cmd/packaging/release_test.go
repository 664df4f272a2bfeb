package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// program stands for the programs of a release: small, and with a module in it
// that is one of this module's.
const program = `package main

import "golang.org/x/mod/semver"

func main() { println(semver.Canonical("v1")) }
`

// testRelease makes a release in a checkout of its own, with other programs, and
// returns what was written by name.
func testRelease(t *testing.T, umask fs.FileMode) map[string][]byte {
	t.Helper()
	root := t.TempDir()
	for name, from := range map[string]string{
		"LICENSE": "../../LICENSE", "README.md": "../../README.md",
		// The modules of the program, whose licences are looked for.
		"go.mod": "go.mod", "go.sum": "go.sum",
	} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), text, 0o666&^umask); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(root, "docs"), os.DirFS("../../docs")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"systemd", "etc", "examples", "grafana", "scripts"} {
		if err := os.CopyFS(filepath.Join(root, "cmd/packaging", dir), os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "main.go"), []byte(program), 0o666&^umask); err != nil {
		t.Fatal(err)
	}
	r := &release{
		source: &source{dir: root, version: "1.2.3-0.20260102030405-0123456789ab", time: time.Unix(1767323045, 0).UTC(), toolchain: runtime.Version()},
		out:    t.TempDir(), work: t.TempDir(), kinds: kinds, platforms: supported,
	}
	self := filepath.Join(r.work, "program")
	args := append([]string{"build", "-o", self}, r.goFlags()...)
	if err := r.goCommand(t.Context(), platform{runtime.GOOS, runtime.GOARCH}, append(args, ".")...).run(); err != nil {
		t.Fatal(err)
	}
	built := make(map[platform]*build)
	for _, p := range supported {
		b := &build{platform: p, dir: filepath.Join(r.work, p.os+"-"+p.arch)}
		if err := os.Mkdir(b.dir, 0o777&^umask); err != nil {
			t.Fatal(err)
		}
		for _, program := range programs {
			if err := os.Link(self, filepath.Join(b.dir, program)); err != nil {
				t.Fatal(err)
			}
		}
		built[p] = b
	}
	page := filepath.Join(r.work, "drv-thru.1")
	if err := writeFile(page, ".TH DRV-THRU 1\n"); err != nil {
		t.Fatal(err)
	}
	packed, err := gzipFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.pack(built, []docFile{{"drv-thru", packed, "man/man1/drv-thru.1.gz"}}); err != nil {
		t.Fatal(err)
	}
	written := make(map[string][]byte)
	for _, name := range append(r.written, "SHA256SUMS") {
		if written[name], err = os.ReadFile(filepath.Join(r.out, name)); err != nil {
			t.Fatal(err)
		}
	}
	return written
}

// Neither the folder, nor the time, nor the umask shows in what is written.
func TestSameBytes(t *testing.T) {
	one, two := testRelease(t, 0o022), testRelease(t, 0o077)
	const number = "1.2.3-0.20260102030405-0123456789ab"
	const sorted = "1.2.3~0.20260102030405.0123456789ab"
	for _, name := range []string{
		"drv-thru_" + sorted + "-1_amd64.deb", "drv-thru_" + sorted + "-1_arm64.deb",
		"drv-thru-relay_" + sorted + "-1_amd64.deb", "drv-thru-relay_" + sorted + "-1_arm64.deb",
		"drv-thru-" + sorted + "-1.x86_64.rpm", "drv-thru-" + sorted + "-1.aarch64.rpm",
		"drv-thru-relay-" + sorted + "-1.x86_64.rpm", "drv-thru-relay-" + sorted + "-1.aarch64.rpm",
		"drv-thru-" + number + "-linux-amd64.tar.gz", "drv-thru-" + number + "-linux-arm64.tar.gz", "drv-thru-" + number + "-darwin-arm64.tar.gz",
		"drv-thru-relay-" + number + "-oci.tar",
		"drv-thru-" + number + "-linux-amd64.cdx.json", "drv-thru-relay-" + number + "-darwin-arm64.cdx.json",
		"SHA256SUMS",
	} {
		if _, ok := one[name]; !ok {
			t.Errorf("no file %s", name)
		}
	}
	for name, text := range one {
		if !bytes.Equal(text, two[name]) {
			t.Errorf("%s differs", name)
		}
	}
	archive(t, one["drv-thru-"+number+"-linux-arm64.tar.gz"], func(h *tar.Header) {
		if h.Uid != 0 || h.Uname != "" || h.ModTime.Unix() != 1767323045 {
			t.Errorf("%s: user %d %q, time %v", h.Name, h.Uid, h.Uname, h.ModTime)
		}
	})
	image(t, one["drv-thru-relay-"+number+"-oci.tar"])
}

func archive(t *testing.T, text []byte, each func(*tar.Header)) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		each(h)
	}
}

// image wants a whole OCI layout in which nothing is nobody's but what the relay
// writes to.
func image(t *testing.T, text []byte) {
	t.Helper()
	dir := t.TempDir()
	for r := tar.NewReader(bytes.NewReader(text)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(to, 0o755)
		} else {
			var file []byte
			if file, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(to, file, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	top, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if name := top.Manifests[0].Annotations["io.containerd.image.name"]; name != "localhost/drv-thru-relay:1.2.3-0.20260102030405-0123456789ab" {
		t.Errorf("the image is called %q", name)
	}
	platforms, err := index.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := platforms.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, m := range manifest.Manifests {
		found = append(found, m.Platform.String())
		img, err := platforms.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Config.User != "65534:65534" || config.Architecture != m.Platform.Architecture {
			t.Errorf("%s: user %q, architecture %q", m.Platform, config.Config.User, config.Architecture)
		}
		layers, err := img.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%d layers, %v", len(layers), err)
		}
		content, err := layers[0].Compressed()
		if err != nil {
			t.Fatal(err)
		}
		packed, err := io.ReadAll(content)
		if err != nil {
			t.Fatal(err)
		}
		archive(t, packed, func(h *tar.Header) {
			if own := h.Name == "var/lib/drv-thru-relay/"; own != (h.Uid == nobody) {
				t.Errorf("%s belongs to %d", h.Name, h.Uid)
			}
		})
	}
	if got := strings.Join(found, " "); got != "linux/amd64 linux/arm64" {
		t.Errorf("images for %s", got)
	}
}

func TestVersions(t *testing.T) {
	for version, want := range map[string]string{
		"1.2.3":                                 "1.2.3",
		"1.3.0-rc.1":                            "1.3.0~rc.1",
		"0.0.0-20260102030405-0123456789ab":     "0.0.0~20260102030405.0123456789ab",
		"1.2.4-0.20260102030405-01234567+dirty": "1.2.4~0.20260102030405.01234567+dirty",
	} {
		if got := (&source{version: version}).packageVersion(); got != want {
			t.Errorf("%s becomes %s, want %s", version, got, want)
		}
	}
}
