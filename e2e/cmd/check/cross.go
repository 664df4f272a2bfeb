package main

import "os/exec"

// crossed are the systems for which everything is compiled besides this one. They
// build as a release does (cmd/packaging), so that what is compiled serves both.
// vet looks at what other systems have files of their own for, tests included.
var crossed = []struct {
	name, os, arch string
	vet            bool
}{
	{"darwin/arm64", "darwin", "arm64", true},
	{"freebsd/amd64", "freebsd", "amd64", true},
	{"linux/arm64", "linux", "arm64", false},
}

// emulated are the packages whose unit tests run for arm64 as well: the formats
// and the arithmetic of core, where another processor could make a difference.
var emulated = []string{"./core/key", "./core/ticket", "./core/wire", "./core/chunk", "./core/nix"}

// cross compiles the programs and the tests for other systems, and runs some of
// the tests for another processor under QEMU.
func (r *runner) cross() {
	for _, c := range crossed {
		env := []string{"GOOS=" + c.os, "GOARCH=" + c.arch, "CGO_ENABLED=0"}
		r.command("build, "+c.name, env, "go", "build", "-trimpath", "./cmd/...")
		if !c.vet {
			continue
		}
		r.command("go vet, "+c.name, env, "go", "vet", "-trimpath", "./core/...", "./fusecache/...", "./relay/...", "./policy/...", "./cmd/...")
	}
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		r.fail("arm64", "qemu-user-static is not installed: e2e/setup does that")
		return
	}
	env := []string{"GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0"}
	args := append([]string{"-trimpath", "-short", "-exec", qemu}, r.testFlags...)
	r.goTest("arm64: ", env, append(args, emulated...)...)
}

// packaging checks the module that makes releases, which "./..." does not reach.
func (r *runner) packaging() {
	const dir = "cmd/packaging"
	r.command("go vet, packaging", nil, "go", "vet", "-C", dir, "./...")
	r.command("staticcheck, packaging", nil, "go", "-C", dir, "run", staticcheck, "./...")
	r.goTestIn(dir, "packaging: ", nil, append(r.testFlags, "./...")...)
}
