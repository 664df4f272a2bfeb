package nixstore

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
)

func newStore(t *testing.T) (*Store, string) {
	t.Helper()
	root := t.TempDir()
	if err := os.MkdirAll(root+nix.StoreDir, 0o755); err != nil {
		t.Fatal(err)
	}
	return New(Config{Root: root, LogDir: filepath.Join(root, "log")}), root
}

func path(name string) nix.Path {
	return nix.Path("/nix/store/00000000000000000000000000000000-" + name)
}

func TestReadFile(t *testing.T) {
	s, root := newStore(t)
	for name, make := range map[string]func(string) error{
		"file": func(p string) error { return os.WriteFile(p, []byte("contents"), 0o444) },
		"dir":  func(p string) error { return os.Mkdir(p, 0o755) },
		"link": func(p string) error { return os.Symlink("/etc/passwd", p) },
	} {
		if err := make(root + string(path(name))); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.ReadFile(path("file"), 8); err != nil || string(got) != "contents" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := s.ReadFile(path("none"), 8); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	for _, bad := range []nix.Path{path("dir"), path("link")} {
		if _, err := s.ReadFile(bad, 1<<20); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
	if _, err := s.ReadFile(path("file"), 7); err == nil {
		t.Error("more than the limit was read")
	}
}

func TestOpenNar(t *testing.T) {
	s, root := newStore(t)
	if err := os.WriteFile(root+string(path("file")), []byte("contents"), 0o444); err != nil {
		t.Fatal(err)
	}
	n, err := s.OpenNar(t.Context(), path("file"))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.NewSectionReader(n, 0, n.Size())); err != nil || !bytes.Contains(b.Bytes(), []byte("contents")) {
		t.Errorf("%q, %v", b.Bytes(), err)
	}
	if n, err := s.OpenNar(t.Context(), path("none")); err == nil || n != nil {
		t.Errorf("%v, %v", n, err)
	}
}

// hello is "hello\n" as bzip2 writes it.
const hello = "QlpoOTFBWSZTWcHAgOIAAAFBAAAQAkSgADDNAMNGKZcXckU4UJDBwIDi"

func TestBuildLog(t *testing.T) {
	s, root := newStore(t)
	plain, packed := path("plain.drv"), path("packed.drv")
	dir := filepath.Join(root, "log", "drvs", "00")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, plain.Base()[2:]), []byte("plain log"), 0o644); err != nil {
		t.Fatal(err)
	}
	data, err := base64.StdEncoding.DecodeString(hello)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, packed.Base()[2:]+".bz2"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	for drv, want := range map[nix.Path]string{plain: "plain log", packed: "hello\n"} {
		r, err := s.BuildLog(drv)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", drv, got, err)
		}
		r.Close()
	}
	if _, err := s.BuildLog(path("none.drv")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestProbeVerdict(t *testing.T) {
	host := fileExists(probeSh)
	for name, tt := range map[string]struct {
		status  daemon.Status
		message string
		said    string
		good    bool
		want    error
	}{
		"sandboxed":       {daemon.Built, "", "", true, nil},
		"saw the canary":  {daemon.PermanentFailure, "failed with exit code 1", probeSaw, false, ErrUnsandboxed},
		"saw, in message": {daemon.PermanentFailure, "last log lines:\n> " + probeSaw, "", false, ErrUnsandboxed},
		"root":            {daemon.PermanentFailure, "failed with exit code 1", probeRoot, false, ErrRoot},
		"no shell in it":  {daemon.PermanentFailure, "failed", "error: executing '/bin/sh': No such file or directory", host, nil},
		"something else":  {daemon.MiscFailure, "out of memory", "", false, nil},
		"there already":   {daemon.AlreadyValid, "", "", false, nil},
	} {
		err := probeVerdict([]daemon.BuildResult{{Status: tt.status, ErrorMsg: tt.message}}, tt.said)
		if (err == nil) != tt.good || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := probeVerdict(nil, ""); err == nil {
		t.Error("no result is no sandbox")
	}
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func TestProbeDerivation(t *testing.T) {
	canary := path("canary")
	d, err := nix.ParseDerivation("drv-thru-probe.drv", probeDerivation("x86_64-linux", canary))
	if err != nil {
		t.Fatal(err)
	}
	if d.Kind() == nix.Fixed || len(d.InputSrcs)+len(d.InputDrvs) != 0 || d.Env["canary"] != string(canary) {
		t.Errorf("got %+v", d)
	}
	// As nix-daemon 2.8 computes it, which refuses any other.
	const want = "/nix/store/ylrd4xy7r04yaf1pc77dax8prwd8ccd7-drv-thru-probe"
	if got := d.Outputs["out"].Path; string(got) != want {
		t.Errorf("output %s, want %s", got, want)
	}
}
