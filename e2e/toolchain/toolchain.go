// Package toolchain builds the project's policies with the tools of their
// languages, which e2e/toolchains installs: the built-in one, the templates as
// "drv-thru policy new" writes them, and the examples.
package toolchain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drv-thru/drv-thru/policy/template"
)

// LabDir is where e2e/toolchains puts what it does not take from Debian, and
// where modules are kept.
func LabDir() string {
	if dir := os.Getenv("DRV_THRU_LAB_DIR"); dir != "" {
		return dir
	}
	return "/var/lib/drv-thru-lab"
}

// A Policy is a project to be built.
type Policy struct {
	Name  string
	files map[string][]byte
	// build makes policy.wasm in the folder with the files, test runs the
	// language's own tests; "" is none. Both are shell commands.
	build, test string
}

const zigBuild = `zig build-exe -target wasm32-wasi -O ReleaseFast -fstrip --stack 65536 -femit-bin=policy.wasm policy.zig`

// All returns the policies of the repository at root: "builtin", "template/go"
// and "examples/hours" are such names.
func All(root string) ([]Policy, error) {
	limits, err := os.ReadFile(filepath.Join(root, "policy/builtin/limits.zig"))
	if err != nil {
		return nil, err
	}
	all := []Policy{{Name: "builtin", files: map[string][]byte{"policy.zig": limits}, build: zigBuild}}
	for _, l := range template.Languages {
		files, err := l.Files()
		if err != nil {
			return nil, err
		}
		all = append(all, Policy{Name: "template/" + l.Name, files: files, build: l.Build, test: l.Test})
	}
	examples, err := os.ReadDir(filepath.Join(root, "policy/examples"))
	if err != nil {
		return nil, err
	}
	for _, e := range examples {
		p := Policy{Name: "examples/" + e.Name(), files: make(map[string][]byte)}
		dir := os.DirFS(filepath.Join(root, "policy/examples", e.Name()))
		err := fs.WalkDir(dir, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			p.files[path], err = fs.ReadFile(dir, path)
			return err
		})
		if err != nil {
			return nil, err
		}
		switch {
		case p.files["policy.zig"] != nil:
			p.build = zigBuild
		case p.files["policy.go"] != nil:
			goLang, _ := template.Find("go")
			p.build, p.files["go.mod"] = goLang.Build, []byte("module policy\n\ngo 1.21\n")
		default:
			return nil, fmt.Errorf("examples/%s has neither policy.go nor policy.zig", e.Name())
		}
		all = append(all, p)
	}
	return all, nil
}

// Cases is the policy's table for "drv-thru policy test", nil without one.
func (p *Policy) Cases() []byte { return p.files["cases.json"] }

// Build writes the files into a new folder below dir, builds there, and returns
// the folder and the module.
func (p *Policy) Build(ctx context.Context, dir string) (folder string, module []byte, err error) {
	if folder, err = os.MkdirTemp(dir, "policy-"); err != nil {
		return "", nil, err
	}
	for name, data := range p.files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", nil, err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return "", nil, err
		}
	}
	if err := shell(ctx, folder, p.build); err != nil {
		return "", nil, err
	}
	module, err = os.ReadFile(filepath.Join(folder, "policy.wasm"))
	return folder, module, err
}

// Test runs the language's own tests in the folder of Build.
func (p *Policy) Test(ctx context.Context, folder string) error {
	if p.test == "" {
		return nil
	}
	return shell(ctx, folder, p.test)
}

// Module returns the file of the module, which is built if these files have not
// been before. It takes the name of the policy and the repository's root.
func Module(ctx context.Context, root, name string) (string, error) {
	all, err := All(root)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(all, func(p Policy) bool { return p.Name == name })
	if i < 0 {
		return "", fmt.Errorf("no policy is called %q", name)
	}
	p := &all[i]
	if path := p.kept(); exists(path) {
		return path, nil
	}
	tmp, err := os.MkdirTemp("", "policies")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	_, module, err := p.Build(ctx, tmp)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return p.kept(), p.Keep(module)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// kept is named after everything that the module is made of, except compilers.
func (p *Policy) kept() string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(p.files)) {
		fmt.Fprintf(h, "%s %d\n%s", name, len(p.files[name]), p.files[name])
	}
	fmt.Fprint(h, p.build)
	name := strings.ReplaceAll(p.Name, "/", "-") + "-" + hex.EncodeToString(h.Sum(nil)[:8]) + ".wasm"
	return filepath.Join(LabDir(), "policies", name)
}

// Keep stores the module for Module.
func (p *Policy) Keep(module []byte) error {
	path := p.kept()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(module)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// shell runs a command with the toolchains on PATH. Debian's Rust comes first:
// another may lack the target.
func shell(ctx context.Context, dir, command string) error {
	tools := filepath.Join(LabDir(), "toolchains")
	// Rust below 1.78 calls its only target of WASI by its older name.
	if out, err := exec.CommandContext(ctx, "/usr/bin/rustc", "--print", "target-list").Output(); err == nil &&
		!bytes.Contains(out, []byte("wasm32-wasip1\n")) {
		command = strings.ReplaceAll(command, "wasm32-wasip1", "wasm32-wasi")
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-euc", command)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		"PATH="+tools+":/usr/bin:/bin:"+os.Getenv("PATH"),
		"RUSTC=/usr/bin/rustc", "RUSTUP_TOOLCHAIN=",
		// Debian 13's Rust asks for rust-lld, which Debian does not have.
		"CARGO_TARGET_WASM32_WASIP1_LINKER=wasm-ld",
		"ZIG_GLOBAL_CACHE_DIR="+filepath.Join(tools, "zig-cache"), "ZIG_LOCAL_CACHE_DIR="+filepath.Join(tools, "zig-cache"),
		"npm_config_cache="+filepath.Join(tools, "npm-cache"), "npm_config_prefer_offline=true",
		"npm_config_audit=false", "npm_config_fund=false", "npm_config_update_notifier=false",
	)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", command, err, out)
	}
	return nil
}
