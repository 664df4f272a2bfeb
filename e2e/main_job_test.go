//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// A job is a build command and what has to come of it.
type job struct {
	name string
	// args are flags and installables, for a client's working directory that
	// has the files of writeJobs.
	args []string
	env  []string
	// outputs are the names, after the hash part, of the paths that are printed.
	outputs []string
	// addressed says that the outputs are content-addressed.
	addressed bool
	// some says that some outputs may be there already.
	some bool
	// check looks at the paths once they are in the client's store.
	check func(t *testing.T, h *lab.Host, paths []string)
}

// writeJobs writes the files of the jobs into dir. url, for a fixed-output
// derivation to fetch, gives the salt.
func writeJobs(h *lab.Host, dir, salt, url string) []job {
	write := func(name, contents string) { h.WriteFile(lab.Alice, filepath.Join(dir, name), contents) }
	write("hello.nix", string(lab.Hello(salt+"-file")))
	write("several.nix", lab.Attrs(map[string]lab.Expr{
		"one": lab.Hello(salt + "-one"), "two": lab.Concat("two", salt, lab.Hello(salt+"-one")), "three": lab.MultiOutput(salt + "-three"),
	}))
	write("function.nix", `{ name, n }: `+strings.Replace(string(lab.Hello(salt+"-arg")), `name = "hello"`, `name = "${name}-${toString n}"`, 1))
	write("flake/flake.nix", lab.Flake(map[string]lab.Expr{
		"default": lab.Hello(salt + "-default"), "hello": lab.Hello(salt + "-flake"), "multi": lab.MultiOutput(salt + "-multi"),
		"default-output": lab.MultiOutput(salt + "-out"), "links": lab.MultiOutput(salt + "-links"),
	}))
	write("src/file", "a source of "+salt+"\n")
	write("source.nix", string(lab.WithSource(salt)))
	write("drv.nix", string(lab.MultiOutput(salt+"-drv")))
	drv := h.Must(h.Command(lab.Alice, "nix-instantiate", "drv.nix").In(dir))
	greets := func(greeting string) func(*testing.T, *lab.Host, []string) {
		return func(t *testing.T, h *lab.Host, paths []string) {
			if got := h.Run(lab.Alice, paths[0]+"/bin/hello"); got != "hello "+greeting {
				t.Errorf("bin/hello prints %q, want %q", got, "hello "+greeting)
			}
		}
	}
	return []job{
		{name: "file", args: []string{"-f", "hello.nix"}, outputs: []string{"hello"}, check: greets(salt + "-file")},
		{name: "file with arguments", args: []string{"-f", "function.nix", "--argstr", "name", "my", "--arg", "n", "6 * 7"}, outputs: []string{"my-42"}, check: greets(salt + "-arg")},
		{name: "flake", args: []string{"path:./flake#hello"}, outputs: []string{"hello"}, check: greets(salt + "-flake")},
		{name: "flake default", args: []string{"path:./flake"}, outputs: []string{"hello"}, check: greets(salt + "-default")},
		{name: "expression", args: []string{"--impure", "--expr", string(lab.Hello(salt + "-expr"))}, outputs: []string{"hello"}, check: greets(salt + "-expr")},
		{name: "several", args: []string{"-f", "several.nix", "one", "two", "three^doc"}, outputs: []string{"hello", "two", "multi-doc"}, check: greets(salt + "-one")},
		{name: "outputs", args: []string{"path:./flake#multi^out,dev"}, outputs: []string{"multi-dev", "multi"}, check: func(t *testing.T, h *lab.Host, paths []string) {
			if got := h.Run(lab.Alice, "cat", paths[0]+"/include"); got != "include "+paths[1] {
				t.Errorf("dev has %q, want it to name %s", got, paths[1])
			}
		}},
		{name: "default output", args: []string{"path:./flake#default-output"}, outputs: []string{"multi"}},
		{name: "all outputs", args: []string{"--impure", "--expr", string(lab.MultiOutput(salt + "-all"))}, outputs: defaultOutputs(h)},
		{name: "source", args: []string{"-f", "source.nix"}, outputs: []string{"with-source"}, check: func(t *testing.T, h *lab.Host, paths []string) {
			if got := h.Run(lab.Alice, "cat", paths[0]+"/file"); got != "a source of "+salt {
				t.Errorf("the copied source has %q", got)
			}
		}},
		{name: "fixed output", args: []string{"--impure", "--expr", string(lab.FixedOutput(salt + " fixed\n"))}, outputs: []string{"fixed"}, addressed: true},
		{name: "fetched", args: []string{"--impure", "--expr", string(lab.FetchURL(url, salt))}, outputs: []string{"fetched"}, addressed: true},
		{name: "over HTTP, without a home", env: []string{"HOME=/nonexistent"}, args: []string{"--import", "http", "--impure", "--expr", string(lab.Hello(salt + "-http"))}, outputs: []string{"hello"}, check: greets(salt + "-http")},
		{name: "drv output", args: []string{drv + "^doc"}, outputs: []string{"multi-doc"}},
		{name: "drv", args: []string{drv}, outputs: []string{"multi-dev", "multi-doc", "multi"}, some: true},
	}
}

// defaultOutputs are what an expression's derivation without outputsToInstall
// is built for when no outputs are named: Nix 2.8 takes the first, newer ones
// all of them. (Of a flake's derivation, all take the first.)
func defaultOutputs(h *lab.Host) []string {
	if h.Root() == lab.Bookworm {
		return []string{"multi"}
	}
	return []string{"multi-dev", "multi-doc", "multi"}
}

// The main job, on every pairing of the three versions of Nix.
func TestMainJob(t *testing.T) {
	f := newFleet(t)
	untrusted(t, f)
	f.each(t, func(t *testing.T, c *lab.Client, b *lab.Builder) {
		salt := strings.ReplaceAll(filepath.Base(t.Name()), "-", "")
		dir := "/home/alice/" + salt
		jobs := writeJobs(c.Host, dir, salt, serveText(t, salt))
		ticket := b.Ticket("--name", salt, "--uses", "unlimited")
		for _, j := range jobs {
			t.Run(j.name, func(t *testing.T) {
				before := c.Host.Paths()
				args := append([]string{"--no-link", "--print-out-paths"}, j.args...)
				paths := strings.Fields(must(t, c.BuildCmd(ticket, args...).AddEnv(j.env...).In(dir)))
				if got := names(t, paths); got != strings.Join(j.outputs, " ") {
					t.Fatalf("the outputs are %s, want %v", got, j.outputs)
				}
				for _, p := range paths {
					if !j.some && slices.Contains(before, p) {
						t.Errorf("%s was there before", p)
					}
					if !b.Host.Has(p) {
						t.Errorf("%s was not built on the builder", p)
					}
					signed(t, c.Host, p, b.PublicKey(), j.addressed)
				}
				if j.check != nil {
					j.check(t, c.Host, paths)
				}
				// Everything is valid now: nobody is needed.
				again := strings.Fields(must(t, offline(c.BuildCmd(ticket, args...)).AddEnv(j.env...).In(dir)))
				if strings.Join(again, " ") != strings.Join(paths, " ") {
					t.Errorf("the second build has %v, want %v", again, paths)
				}
			})
		}
		spent(t, b, salt, int64(len(jobs)))
		t.Run("link", func(t *testing.T) { linked(t, c, b, salt) })
	})
	f.verify(t)
}

// linked checks that each output's result link is there and is a root for as
// long as it is.
func linked(t *testing.T, c *lab.Client, b *lab.Builder, salt string) {
	dir := "/home/alice/" + salt
	must(t, c.BuildCmd(b.Ticket(), "path:./flake#links^out,dev").In(dir))
	target := func(link string) (path string) {
		err := c.Host.Do(func() (err error) {
			path, err = os.Readlink(filepath.Join(dir, link))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	paths := []string{target("result"), target("result-dev")}
	if got := names(t, paths); got != "multi multi-dev" {
		t.Fatalf("the links lead to %s", got)
	}
	// dev refers to out: nothing but its own link holds it.
	for _, step := range []struct {
		remove string
		valid  []bool
	}{{"", []bool{true, true}}, {"result-dev", []bool{true, false}}, {"result", []bool{false, false}}} {
		if step.remove != "" {
			c.Host.Run(lab.Alice, "rm", filepath.Join(dir, step.remove))
		}
		c.Host.Run(lab.RootUser, "nix-store", "--gc")
		for i, want := range step.valid {
			if got := c.Host.Has(paths[i]); got != want {
				t.Errorf("%s removed and garbage collected: %s valid: %v, want %v", step.remove, paths[i], got, want)
			}
		}
	}
}

// untrusted makes sure that neither the clients' user nor the builders' is
// trusted by the daemon that it talks to: repairing is for trusted users only.
func untrusted(t *testing.T, f *fleet) {
	t.Helper()
	for _, root := range lab.Roots {
		for user, h := range map[string]*lab.Host{lab.Alice: f.clients[root].Host, lab.BuilderUser: f.builders[root].Host} {
			path := h.BuildExpr(user, lab.Hello("untrusted"))[0]
			says(t, fails(t, h.Command(user, "nix-store", "--realise", "--repair", path), 1), "trusted-users")
		}
	}
}

// signed checks that a path came with the builder's signature and that Nix
// agrees with it. A content-addressed path needs none.
func signed(t *testing.T, h *lab.Host, path, key string, addressed bool) {
	t.Helper()
	name, _, _ := strings.Cut(key, ":")
	sigs := h.Run(lab.Alice, "nix", "path-info", "--sigs", path)
	says(t, sigs, name+":")
	saysNot(t, sigs, "ultimate")
	verify := func(key string) error {
		_, err := h.Command(lab.Alice, "nix", "store", "verify", "--sigs-needed", "1", "--option", "trusted-public-keys", key, path).CombinedOutput()
		return err
	}
	if err := verify(key); err != nil {
		t.Errorf("the signature of %s is not good: %v", path, err)
	}
	if err := verify("nobody-1:" + strings.Repeat("A", 43) + "="); err == nil && !addressed {
		t.Errorf("nix store verify takes any signature of %s", path)
	}
}

// names lists what follows the hash parts of paths.
func names(t *testing.T, paths []string) string {
	t.Helper()
	var out []string
	for _, text := range paths {
		p, err := nix.ParsePath(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p.Name())
	}
	return strings.Join(out, " ")
}
