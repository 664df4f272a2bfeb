//go:build e2e

package e2e

import (
	"crypto/rand"
	"encoding/json"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/docs"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// longest bounds whatever a scenario waits for; nothing comes near it that does
// not hang.
const longest = 2 * time.Minute

// A fleet is a builder behind its own relay and a client on every version of
// Nix. Every client trusts every builder's key.
type fleet struct {
	builders map[lab.Root]*lab.Builder
	clients  map[lab.Root]*lab.Client
}

func newFleet(t *testing.T, conf ...string) *fleet {
	t.Helper()
	f := &fleet{builders: make(map[lab.Root]*lab.Builder), clients: make(map[lab.Root]*lab.Client)}
	var keys []string
	for _, root := range lab.Roots {
		h := lab.NewHost(t, root, lab.WithName("builder-"+string(root)))
		h.StartDaemon(conf...)
		relay := lab.StartRelay(t, h)
		b := lab.StartBuilder(t, h, lab.BuilderConfig{Relays: []string{relay.URL}})
		keys = append(keys, b.PublicKey())
		f.builders[root] = b
	}
	for _, root := range lab.Roots {
		h := lab.NewHost(t, root, lab.WithName("client-"+string(root)))
		h.StartDaemon(append(slices.Clone(conf), "trusted-public-keys = "+strings.Join(keys, " "))...)
		f.clients[root] = lab.NewClient(t, h)
	}
	return f
}

// each runs a subtest for every pairing, CLIENT-BUILDER by the names of their
// roots.
func (f *fleet) each(t *testing.T, run func(t *testing.T, c *lab.Client, b *lab.Builder)) {
	for _, client := range lab.Roots {
		for _, builder := range lab.Roots {
			t.Run(string(client)+"-"+string(builder), func(t *testing.T) {
				run(t, f.clients[client], f.builders[builder])
			})
		}
	}
}

// verify checks what a scenario must leave as it found it: whole stores, no
// mount on the clients.
func (f *fleet) verify(t *testing.T) {
	t.Helper()
	for _, root := range lab.Roots {
		(&lab.Pair{Builder: f.builders[root], Client: f.clients[root]}).Verify(t)
	}
}

// offline puts a command into a network namespace of its own, where nothing can
// be reached. The Nix daemon's socket is a file.
func offline(c *lab.Cmd) *lab.Cmd {
	c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	return c
}

// must runs a command that must not fail and returns what it prints. (The
// methods of a host that fail a test fail the one that made the host.)
func must(t *testing.T, c *lab.Cmd) string {
	t.Helper()
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// fails runs a command that must fail with an exit code and returns what it
// printed.
func fails(t *testing.T, c *lab.Cmd, code int) string {
	t.Helper()
	out, err := c.CombinedOutput()
	if got := lab.ExitCode(err); got != code {
		t.Fatalf("exit code %d, want %d:\n%s", got, code, out)
	}
	return string(out)
}

// says fails the test unless text contains all of want.
func says(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("does not say %q:\n%s", w, text)
		}
	}
}

// saysNot fails the test if text contains one of unwanted.
func saysNot(t *testing.T, text string, unwanted ...string) {
	t.Helper()
	for _, w := range unwanted {
		if strings.Contains(text, w) {
			t.Errorf("says %q:\n%s", w, text)
		}
	}
}

// eventually polls until ok and fails the test when that takes too long.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	within(t, longest, what, ok)
}

// within is eventually for what is promised to be so within a time.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so after %v: %s", limit, what)
		}
	}
}

// A ticketState is an entry of ticket list --json.
type ticketState struct {
	ID    string
	Name  string
	State string
	Used  int64
}

// ticketNamed asks the builder about the ticket of a name.
func ticketNamed(t *testing.T, b *lab.Builder, name string) ticketState {
	t.Helper()
	var all []ticketState
	decode(t, b.Admin("ticket", "list", "--json"), &all)
	for _, s := range all {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("the builder has no ticket %q", name)
	return ticketState{}
}

// spent fails the test unless the ticket of a name has been used so often.
func spent(t *testing.T, b *lab.Builder, name string, want int64) {
	t.Helper()
	if got := ticketNamed(t, b, name).Used; got != want {
		t.Errorf("ticket %s: %d uses spent, want %d", name, got, want)
	}
}

// A builderState is what status --json prints, as far as scenarios look at it.
type builderState struct {
	Endpoint string
	Running  int
	Waiting  int
	Active   []buildState
	Recent   []buildState
}

type buildState struct {
	ID     string
	State  string
	Result *struct {
		Error *struct {
			Code string
		}
		UploadBytes uint64 `json:"upload_bytes"`
	}
}

func statusOf(t *testing.T, b *lab.Builder) builderState {
	t.Helper()
	var s builderState
	decode(t, b.Admin("status", "--json"), &s)
	return s
}

// decode reads JSON that a command printed.
func decode(t *testing.T, text string, to any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), to); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
}

// someKey is the secret key of some endpoint.
func someKey(t *testing.T) key.Secret {
	t.Helper()
	secret, err := key.NewSecret(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// printsJSON holds what a command printed to docs/json.md.
func printsJSON(t *testing.T, command, output string) string {
	t.Helper()
	if err := docs.CheckJSON(command, []byte(output)); err != nil {
		t.Error(err)
	}
	return output
}
