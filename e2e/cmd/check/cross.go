package main

import "os/exec"

// crossed are the systems for which the programs are compiled besides this one:
// those where a cache is imported over HTTP. Packages for a system that has releases
// are compiled as a release does (cmd/packaging), which then has them, and vet sees
// the tests, too. For another they are not optimised, which spares a third of the time.
var crossed = []struct {
	os, arch string
	released bool
}{{"darwin", "arm64", true}, {"freebsd", "amd64", false}}

// emulated are the packages whose unit tests run for arm64 as well: the formats
// and the arithmetic of core, where another processor could make a difference.
var emulated = []string{"./core/key", "./core/ticket", "./core/wire", "./core/chunk", "./core/nix"}

// cross compiles the programs and the tests for other systems, and runs some of
// the tests for another processor under QEMU.
func (r *runner) cross() {
	packages := []string{"./core/...", "./fusecache/...", "./relay/...", "./policy/..."}
	for _, c := range crossed {
		env := []string{"GOOS=" + c.os, "GOARCH=" + c.arch, "CGO_ENABLED=0"}
		if !c.released {
			r.command("build, "+c.os+"/"+c.arch, env, "go", "build", "-gcflags=all=-N -l", "./cmd/...")
			continue
		}
		r.command("build, "+c.os+"/"+c.arch, env, "go", "build", "-trimpath", "./cmd/...")
		r.command("go vet, "+c.os+"/"+c.arch, env, append([]string{"go", "vet", "-trimpath", "./cmd/..."}, packages...)...)
	}
	// The rest of the client and the builder is the same code as on amd64, and
	// SQLite takes minutes to compile.
	env := []string{"GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0"}
	r.command("build, linux/arm64", env, append([]string{"go", "build", "-trimpath", "./cmd/drv-thru-relay"}, packages...)...)
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		r.fail("arm64", "qemu-user-static is not installed: e2e/setup does that")
		return
	}
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
