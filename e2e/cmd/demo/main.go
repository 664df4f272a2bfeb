//go:build linux

// Command demo shows the main job of drv-thru on one machine: a relay, a builder
// and a client with Nix stores of their own, a ticket, a build. e2e/demo runs
// it; see there. It exits with 0 only when the output was imported and its
// signature checked.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

func main() {
	root := flag.String("root", string(lab.Trixie), "root file system of both hosts: bookworm, trixie or sid")
	flag.Parse()
	if !lab.Script(os.Stderr, func(t lab.T) { show(t, lab.Root(*root)) }) {
		fmt.Fprintln(os.Stderr, "\nThe demo FAILED.")
		os.Exit(1)
	}
	fmt.Println("\nBuilt on one host, imported and its signature checked on the other; both are gone again.")
}

// show runs the demo; t ends it when something is not as it should be.
func show(t lab.T, root lab.Root) {
	// Compiling comes first, so that the rest shows how long things take.
	lab.Programs(t)
	builder := lab.NewHost(t, root, lab.WithName("builder"))
	client := lab.NewHost(t, root, lab.WithName("client"))
	builder.StartDaemon()

	title("Two hosts on this machine, each with a Nix %s of its own: a store, a daemon, users that it does not trust.", builder.NixVersion())

	title("A relay, which can run anywhere. It sees only ciphertext.")
	relay := lab.StartRelay(t, builder)
	prompt("relay", "drv-thru-relay --listen "+strings.TrimPrefix(relay.URL, "http://"))
	fmt.Print(relay.Output())

	title("The builder, run by a user whom Nix does not trust.")
	b := lab.StartBuilder(t, builder, lab.BuilderConfig{Relays: []string{relay.URL}})
	prompt("builder", "drv-thru serve --listen none --relay "+relay.URL)
	fmt.Print(b.Output())

	title("A ticket for one build.")
	prompt("builder", "drv-thru ticket create")
	ticket := b.Ticket()
	fmt.Println(ticket)

	title("The client's administrator trusts the builder's key; alice is not trusted herself.")
	key := b.PublicKey()
	client.StartDaemon("trusted-public-keys = " + key)
	prompt("client", "grep trusted /etc/nix/nix.conf")
	fmt.Print(grep(client, "trusted"))

	title("alice has a flake, and builds it over there.")
	prompt("client", "export DRV_THRU_TICKET="+ticket[:16]+"…")
	const dir = "/home/alice/hello"
	client.WriteFile(lab.Alice, dir+"/flake.nix", lab.HelloFlake("from another machine"))
	for _, c := range []struct {
		line string
		argv []string
	}{
		{"drv-thru build -L .#hello", []string{"drv-thru", "build", "-L", ".#hello"}},
		{"./result/bin/hello", []string{"./result/bin/hello"}},
		{"nix path-info --sigs ./result", []string{"nix", "path-info", "--sigs", "./result"}},
		{"nix store verify --sigs-needed 1 ./result && echo verified", []string{"sh", "-c", "nix store verify --sigs-needed 1 ./result && echo verified"}},
	} {
		prompt("client", c.line)
		output := run(t, client.Command(lab.Alice, c.argv...).In(dir).AddEnv("DRV_THRU_TICKET="+ticket))
		if c.argv[0] == "./result/bin/hello" && output != "hello from another machine\n" {
			t.Fatalf("the program prints something else than it should")
		}
	}

	check(t, client, builder, dir+"/result", key)
}

// check looks at what the transcript shows from the other side: the output is
// valid on both hosts, signed by the builder's key and no other, its inputs
// were built by the builder alone, and both stores are whole.
func check(t lab.T, client, builder *lab.Host, result, key string) {
	out := client.Run(lab.Alice, "readlink", "-f", result)
	for _, h := range []*lab.Host{client, builder} {
		if !h.Has(out) {
			t.Fatalf("%s is not in the store of the %s", out, h.Name())
		}
		if err := h.Verify(); err != nil {
			t.Fatalf("%v", err)
		}
	}
	name, _, _ := strings.Cut(key, ":")
	info := strings.Fields(client.Run(lab.Alice, "nix", "path-info", "--sigs", out))
	signed := slices.ContainsFunc(info, func(s string) bool { return strings.HasPrefix(s, name+":") })
	if !signed || slices.Contains(info, "ultimate") {
		t.Fatalf("%s is not signed by the builder, or was built here: %v", out, info)
	}
	// Against the key itself, whatever the configuration says.
	client.Run(lab.RootUser, "nix", "store", "verify", "--sigs-needed", "1", "--option", "trusted-public-keys", key, out)
	other := "someone-else-1:" + strings.Repeat("A", 43) + "="
	if err := client.Command(lab.RootUser, "nix", "store", "verify", "--sigs-needed", "1", "--option", "trusted-public-keys", other, out).Run(); err == nil {
		t.Fatalf("the signature of %s is good by any key", out)
	}
	if mounts := client.FuseMounts(); len(mounts) > 0 {
		t.Fatalf("still mounted: %v", mounts)
	}
}

// run runs a command and shows what it prints as it prints it.
func run(t lab.T, cmd *lab.Cmd) string {
	var out bytes.Buffer
	cmd.Stdout = io.MultiWriter(os.Stdout, &out)
	cmd.Stderr = os.Stdout
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return out.String()
}

func grep(h *lab.Host, word string) string {
	return h.Run(lab.Alice, "grep", word, "/etc/nix/nix.conf") + "\n"
}

func title(format string, args ...any) { fmt.Printf("\n# "+format+"\n", args...) }

func prompt(host, line string) { fmt.Printf("%s$ %s\n", host, line) }
