package main

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nix-community/go-nix/pkg/nar"
)

// vendorHash checks that flake.nix has the hash of the dependencies' sources,
// which is that of the NAR of what "go mod vendor" writes: nixpkgs,
// pkgs/build-support/go/module.nix.
func (r *runner) vendorHash() {
	const name = "flake.nix: vendorHash"
	want, err := hashVendor()
	if err != nil {
		r.fail(name, err.Error())
		return
	}
	flake, err := os.ReadFile("flake.nix")
	if err != nil {
		r.fail(name, err.Error())
		return
	}
	if !strings.Contains(string(flake), `vendorHash = "`+want+`";`) {
		r.fail(name, "the dependencies' hash is now "+want)
		return
	}
	r.pass()
	fmt.Printf("ok   %s\n", name)
}

func hashVendor() (string, error) {
	tmp, err := os.MkdirTemp("", "vendor")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	dir := filepath.Join(tmp, "vendor")
	if out, err := exec.Command("go", "mod", "vendor", "-o", dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go mod vendor: %w\n%s", err, out)
	}
	h := sha256.New()
	if err := nar.DumpPath(h, dir); err != nil {
		return "", err
	}
	return "sha256-" + base64.StdEncoding.EncodeToString(h.Sum(nil)), nil
}
