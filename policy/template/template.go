// Package template holds what an author of a policy begins with, in four
// languages: each allows builds by the names of their derivations, and has tests
// of its own.
package template

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

//go:embed go rust zig assemblyscript common
var files embed.FS

// Language is a language that there is a template in.
type Language struct {
	Name  string // also the folder's
	Title string
	Needs string // to be installed
	// Build makes policy.wasm, Test runs the language's own tests: commands of a
	// POSIX shell, in the policy's folder.
	Build, Test string
}

// Languages are sorted by name.
var Languages = []Language{
	{
		Name: "assemblyscript", Title: "AssemblyScript", Needs: "Node.js 20 and npm",
		Build: "npm install && npm run build", Test: "npm test",
	},
	{
		Name: "go", Title: "Go", Needs: "Go 1.21 or newer",
		Build: "GOOS=wasip1 GOARCH=wasm go build -o policy.wasm .", Test: "go test .",
	},
	{
		Name: "rust", Title: "Rust", Needs: "cargo and the target wasm32-wasip1 (rustup target add wasm32-wasip1; Debian: cargo, libstd-rust-dev-wasm32 and lld; on Debian 13 with CARGO_TARGET_WASM32_WASIP1_LINKER=wasm-ld in the environment, and on Debian 12 the target is called wasm32-wasi)",
		Build: "cargo build --release --target wasm32-wasip1 && cp target/wasm32-wasip1/release/policy.wasm .", Test: "cargo test",
	},
	{
		Name: "zig", Title: "Zig", Needs: "Zig 0.17 (also: pip install ziglang, then python3 -m ziglang instead of zig)",
		Build: "zig build-exe -target wasm32-wasi -O ReleaseFast -fstrip --stack 65536 -femit-bin=policy.wasm policy.zig", Test: "zig test policy.zig",
	},
}

// Find returns the language of that name.
func Find(name string) (Language, bool) {
	i := slices.IndexFunc(Languages, func(l Language) bool { return l.Name == name })
	if i < 0 {
		return Language{}, false
	}
	return Languages[i], true
}

// Files returns the files of the template by their slash-separated paths.
func (l Language) Files() (map[string][]byte, error) {
	out := map[string][]byte{"README.md": l.readme()}
	for _, root := range []string{l.Name, "common"} {
		err := fs.WalkDir(files, root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := files.ReadFile(path)
			name := strings.TrimPrefix(path, root+"/")
			out[strings.TrimSuffix(name, ".tmpl")] = data
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (l Language) readme() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `# A policy in %s

It decides what tickets of a drv-thru builder may build. Needs %s.

    %s
    %s
    drv-thru policy test .

The last compares the module's decisions with cases.json. See what it reads and writes:

    drv-thru policy schema request
    drv-thru policy schema decision

Try it, and make a ticket with it:

    drv-thru policy run policy.wasm --settings '{"allow": ["hello-*"]}'
    drv-thru ticket create --policy policy.wasm --policy-settings '{"allow": ["hello-*"]}'
`, l.Title, l.Needs, l.Build, l.Test)
	return b.Bytes()
}
