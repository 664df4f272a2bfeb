//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/chunk/pack"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// What an import has left in the chunk store is imported again without the builder,
// and without another use of the ticket. What is not all there takes the builder.
func TestImportWithoutBuilder(t *testing.T) {
	for _, root := range []lab.Root{lab.Bookworm, lab.Trixie, lab.Sid} {
		t.Run(string(root), func(t *testing.T) {
			t.Parallel()
			p := lab.NewPair(t, root, lab.Trixie)
			b, c, h := p.Builder, p.Client, p.Client.Host
			ticket := b.Ticket("--name", "once")
			args := []string{"--impure", "--expr", string(lab.Concat("kept", "kept", lab.Wide(20, "kept"), lab.Blob(3, "kept")))}
			outputs := c.Build(ticket, args...)
			closure := h.Closure(outputs...)
			remove := func() {
				t.Helper()
				h.Delete(closure...)
			}
			stop := func() {
				t.Helper()
				if err := b.Stop(longest); err != nil {
					t.Fatal(err)
				}
			}

			remove()
			stop()
			text := must(t, c.BuildCmd(ticket, append([]string{"-o", "/home/" + lab.Alice + "/kept", "--print-out-paths"}, args...)...))
			if text != outputs[0] || len(h.Closure(outputs...)) != len(closure) {
				t.Errorf("it printed %q, want %s", text, outputs[0])
			}
			h.Run(lab.Alice, "test", "-e", "/home/"+lab.Alice+"/kept")
			h.Run(lab.Alice, "rm", "/home/"+lab.Alice+"/kept")
			// Part of it is here.
			h.Delete(outputs...)
			out, err := c.BuildCmd(ticket, append([]string{"--no-link"}, args...)...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			says(t, string(out), "received     0 B for 1 path,", "path         the chunk cache; nobody was asked")

			b.Start()
			spent(t, b, "once", 1)
			remove()
			for name, c := range map[string]*lab.Cmd{
				"without a chunk store": c.BuildCmd(ticket, args...).AddEnv("DRV_THRU_CACHE_SIZE=0"),
				"to build it again":     c.BuildCmd(ticket, append([]string{"--rebuild"}, args...)...),
				"detached":              c.BuildCmd(ticket, append([]string{"--detach"}, args...)...),
				"another's":             c.BuildCmd(ticket, "--impure", "--expr", string(lab.Hello("not kept"))),
			} {
				t.Log(name)
				says(t, fails(t, c, wire.ExitDenied), "has no uses remaining")
			}

			// A damaged chunk is found in the middle of the import.
			packs := "/home/" + lab.Alice + "/.cache/drv-thru/chunks"
			flip := func() {
				t.Helper()
				must(t, h.Command(lab.RootUser, "sh", "-c", `for f in "$1"/*.pack; do
					printf XXXX | dd of="$f" bs=1 seek=2000000 conv=notrunc 2>/dev/null || exit 1
				done`, "sh", packs))
			}
			flip()
			says(t, fails(t, c.BuildCmd(ticket, args...), wire.ExitDenied), "has no uses remaining")
			another := b.Ticket("--name", "another", "--uses", "3")
			c.Build(another, args...)
			spent(t, b, "another", 1)
			// What was damaged is there again.
			remove()
			c.Build(another, args...)
			spent(t, b, "another", 1)

			// Nix looks at signatures, whoever has written what is kept.
			remove()
			forgeKept(t, h, packs)
			out, err = c.BuildCmd(another, append([]string{"-v", "--no-link"}, args...)...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			says(t, string(out), "the builder has to be asked", "signature")
			spent(t, b, "another", 2)

			remove()
			h.Run(lab.Alice, "drv-thru", "gc")
			c.Build(another, args...)
			spent(t, b, "another", 3)
			p.Verify(t)
		})
	}
}

// A nix copy that fails when a part has come is repeated for the rest: two imports of the
// same make that of Nix 2.8 fail. One that brings nothing is not.
func TestImportInParts(t *testing.T) {
	p := lab.NewPair(t, lab.Bookworm, lab.Trixie)
	c, h := p.Client, p.Client.Host
	const dir = "/home/" + lab.Alice + "/bin"
	copies := func(how string) {
		t.Helper()
		h.WriteFile(lab.Alice, dir+"/nix", `#!/bin/bash
case " $* " in *" copy --from "*) ;; *) exec /usr/bin/nix "$@" ;; esac
echo copy >> `+dir+`/copies
`+how)
		h.Run(lab.Alice, "sh", "-c", "chmod +x "+dir+"/nix; rm -f "+dir+"/copies")
	}
	count := func(want int) {
		t.Helper()
		text, err := h.ReadFile(dir + "/copies")
		if err != nil || strings.Count(string(text), "copy") != want {
			t.Errorf("nix copy ran %d times, want %d; %v", strings.Count(string(text), "copy"), want, err)
		}
	}
	const half = `[ $(wc -l < ` + dir + `/copies) -gt 1 ] && exec /usr/bin/nix "$@"
/usr/bin/nix "${@:1:$#-5}"
echo "error: not an absolute path: 'nix-archive-1'" >&2
exit 1
`
	build := func(ticket string, expr lab.Expr) *lab.Cmd {
		return c.BuildCmd(ticket, "--no-link", "--print-out-paths", "--impure", "--expr", string(expr)).AddEnv("PATH=" + dir + ":/usr/local/bin:/usr/bin:/bin")
	}
	ticket := p.Builder.Ticket()
	copies(half)
	out := must(t, build(ticket, lab.Wide(20, "parts")))
	count(2)

	// The same without the builder.
	h.Delete(h.Closure(out)...)
	copies(half)
	must(t, build(ticket, lab.Wide(20, "parts")))
	count(2)

	copies("echo 'error: no' >&2; exit 1")
	text := fails(t, build(p.Builder.Ticket(), lab.Wide(20, "none")), wire.ExitFailed)
	says(t, text, "error: no", "drv-thru attach ")
	count(1)
	p.Verify(t)
}

// forgeKept changes the signatures in what is kept of an import.
func forgeKept(t *testing.T, h *lab.Host, packs string) {
	t.Helper()
	err := h.Do(func() error {
		files, err := filepath.Glob(filepath.Dir(packs) + "/outputs/*")
		if err != nil || len(files) != 1 {
			return fmt.Errorf("%d files say what is kept, %w", len(files), err)
		}
		text, err := os.ReadFile(files[0])
		if err != nil {
			return err
		}
		var file map[string]json.RawMessage
		var ids []string
		if err := errors.Join(json.Unmarshal(text, &file), json.Unmarshal(file["chunks"], &ids)); err != nil {
			return err
		}
		store, err := pack.Open(packs, pack.Config{MaxBytes: 1 << 30, Now: time.Now, Rand: rand.Reader, Free: pack.FileSystemSpace})
		if err != nil {
			return err
		}
		id, err := hex.DecodeString(ids[0])
		if err != nil {
			return err
		}
		doc, ok := store.Get(chunk.ID(id), nil)
		forged := regexp.MustCompile(`(?m)^Sig: (.*):.*$`).ReplaceAll(doc, []byte("Sig: $1:"+strings.Repeat("A", 86)+"=="))
		if !ok || bytes.Equal(doc, forged) {
			return errors.New("there is nothing to forge")
		}
		ids[0] = chunk.Sum(forged).String()
		if err := errors.Join(store.Put(chunk.Sum(forged), forged), store.Close()); err != nil {
			return err
		}
		text = bytes.Replace(text, []byte(hex.EncodeToString(id)), []byte(ids[0]), 1)
		return os.WriteFile(files[0], text, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Run(lab.RootUser, "chown", "-R", lab.Alice, packs)
}
