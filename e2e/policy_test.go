//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
	"github.com/drv-thru/drv-thru/e2e/toolchain"
	"github.com/drv-thru/drv-thru/policy/builtin"
)

const policyDir = "/var/lib/drv-thru/modules/"

// A policyLab is a builder with policies and a client.
type policyLab struct {
	t       *testing.T
	host    *lab.Host // the builder's
	builder *lab.Builder
	client  *lab.Client
}

// newPolicyLab has a policy of the configuration for every module, called after
// it, and one that only tells.
func newPolicyLab(t *testing.T, modules ...string) *policyLab {
	t.Helper()
	h := lab.NewHost(t, lab.Trixie, lab.WithName("builder"))
	h.StartDaemon()
	p := &policyLab{t: t, host: h}
	policies := map[string]any{}
	for _, name := range modules {
		policies[p.install(name)] = map[string]any{"module": policyDir + moduleName(name) + ".wasm"}
	}
	policies["watch"] = map[string]any{"settings": map[string]any{"ticket": map[string]any{"builds": 0}}, "mode": "monitor"}
	config, err := json.Marshal(map[string]any{"policies": policies})
	if err != nil {
		t.Fatal(err)
	}
	const path = "/var/lib/drv-thru/serve.json"
	h.WriteFile(lab.BuilderUser, path, string(config))
	pair := lab.Join(t, h, lab.NewHost(t, lab.Trixie, lab.WithName("client")), lab.BuilderConfig{Args: []string{"--config", path}})
	p.builder, p.client = pair.Builder, pair.Client
	return p
}

func moduleName(policy string) string { return strings.ReplaceAll(policy, "/", "-") }

// install builds a policy with its own toolchain, unless that was done before,
// and gives it to the builder.
func (p *policyLab) install(policy string) (name string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Minute)
	defer cancel()
	path, err := toolchain.Module(ctx, "..", policy)
	if err != nil {
		p.t.Fatalf("%v\n(e2e/toolchains installs the compilers)", err)
	}
	module, err := os.ReadFile(path)
	if err != nil {
		p.t.Fatal(err)
	}
	p.host.WriteFile(lab.BuilderUser, policyDir+moduleName(policy)+".wasm", string(module))
	return moduleName(policy)
}

// ticket makes a ticket with a policy of the configuration.
func (p *policyLab) ticket(name, policy, settings string, args ...string) string {
	p.t.Helper()
	return p.builder.Ticket(append([]string{"--name", name, "--policy", policy, "--policy-settings", settings}, args...)...)
}

func (p *policyLab) build(ticket string, e lab.Expr) *lab.Cmd {
	return p.client.BuildCmd(ticket, "--no-link", "--impure", "--expr", string(e))
}

// denied tries a build, which is to be denied with a reason before it costs a use.
func (p *policyLab) denied(t *testing.T, name, ticket string, e lab.Expr, reason string) {
	t.Helper()
	before := ticketNamed(t, p.builder, name).Used
	c := p.client.StartBuild(ticket, "--no-link", "--impure", "--expr", string(e))
	if got := lab.ExitCode(c.Wait(longest)); got != wire.ExitDenied {
		t.Fatalf("exit code %d, want %d:\n%s", got, wire.ExitDenied, c.Output())
	}
	says(t, c.Output(), "error: denied by policy "+reason)
	spent(t, p.builder, name, before)
}

// Templates as "drv-thru policy new" writes them, in four languages, decide real
// builds: allowed, denied with the reason, and narrowed to a limit that bites.
func TestPolicyTemplates(t *testing.T) {
	languages := []string{"go", "rust", "zig", "assemblyscript"}
	var modules []string
	for _, l := range languages {
		modules = append(modules, "template/"+l)
	}
	p := newPolicyLab(t, modules...)
	for _, lang := range languages {
		t.Run(lang, func(t *testing.T) {
			policy := "template-" + lang
			must(t, p.build(p.ticket(lang+"-allow", policy, `{"allow":["hel*"]}`), lab.Hello(lang)))
			// A policy that allows what is asked for, but not what it needs, is
			// asked again when that is known.
			needs := p.ticket(lang+"-needs", policy, `{"allow":["needs"]}`)
			text := fails(t, p.build(needs, lab.Concat("needs", lang, lab.Hello("needed by "+lang))), wire.ExitDenied)
			says(t, text, `error: denied by policy "`+policy+`": hello is not allowed`)
			deny := p.ticket(lang+"-deny", policy, `{"allow":["firefox-*"]}`)
			p.denied(t, lang+"-deny", deny, lab.Hello("denied "+lang), `"`+policy+`": hello is not allowed`)

			gate := lab.NewGate(t, p.host, lang)
			slow := p.ticket(lang+"-slow", policy, `{"allow":["waiting"],"max_build_seconds":1}`)
			text = fails(t, p.build(slow, lab.Waiting(gate, lang)), wire.ExitDenied)
			says(t, text, "error: build time limit exceeded", "1s")
		})
	}
	for _, path := range p.host.Paths() {
		if name := names(t, []string{path}); name == "needs" {
			t.Errorf("%s was built", path)
		}
	}
}

// The examples decide real builds.
func TestPolicyExamples(t *testing.T) {
	p := newPolicyLab(t, "examples/allowlist", "examples/hours", "examples/budget", "examples/at-once", "examples/flake-sources")

	t.Run("allowlist", func(t *testing.T) {
		must(t, p.build(p.ticket("list", "examples-allowlist", `{"allow":["hello"]}`), lab.Hello("listed")))
		fixed := p.ticket("list-fixed", "examples-allowlist", `{"allow":["fixed"]}`)
		text := fails(t, p.build(fixed, lab.FixedOutput("unlisted")), wire.ExitDenied)
		says(t, text, `error: denied by policy "examples-allowlist": fixed would have to be fetched and is not on the list`)
	})
	t.Run("hours", func(t *testing.T) {
		// Always, and on a day that is neither today nor one beside it.
		always := p.ticket("always", "examples-hours", `{"zone":"Europe/Berlin","from":"00:00","to":"00:00"}`)
		must(t, p.build(always, lab.Hello("hours")))
		day := strings.ToLower(time.Now().AddDate(0, 0, 3).Weekday().String()[:3])
		never := p.ticket("never", "examples-hours", `{"zone":"Europe/Berlin","from":"09:00","to":"17:00","days":["`+day+`"]}`)
		p.denied(t, "never", never, lab.Hello("hours later"), `"examples-hours": builds begin from 09:00 to 17:00 on `+day+` in Europe/Berlin`)
	})
	t.Run("budget", func(t *testing.T) {
		const settings = `{"builds_day":1}`
		first, second := p.ticket("shared", "examples-budget", settings), p.ticket("shared", "examples-budget", settings)
		must(t, p.build(first, lab.Hello("budget")))
		text := fails(t, p.build(second, lab.Hello("over budget")), wire.ExitDenied)
		says(t, text, `error: denied by policy "examples-budget": tickets of this name had 1 builds in the last day, 1 are allowed`)
		gate := lab.NewGate(t, p.host, "budget")
		slow := p.ticket("seconds", "examples-budget", `{"build_seconds":1}`)
		says(t, fails(t, p.build(slow, lab.Waiting(gate, "budget")), wire.ExitDenied), "error: build time limit exceeded", "1s")
	})
	t.Run("at-once", func(t *testing.T) {
		const settings = `{"at_once":1,"friends":[]}`
		gate := lab.NewGate(t, p.host, "at-once")
		ticket := p.ticket("one", "examples-at-once", settings, "--max-upload-bytes", "2M", "--uses", "3")
		first := p.client.StartBuild(ticket, "-L", "--no-link", "--impure", "--expr", string(lab.Waiting(gate, "at-once")))
		first.WaitFor(`waiting at at-once`, longest)
		p.denied(t, "one", ticket, lab.Hello("two at once"), `"examples-at-once": you have 1 builds under way, 1 at once are allowed`)
		gate.Open()
		if err := first.Wait(longest); err != nil {
			t.Fatalf("%v\n%s", err, first.Output())
		}
		// Strangers may send half as much.
		p.source(strings.Repeat("0123456789abcdef", 100_000))
		text := fails(t, p.client.BuildCmd(ticket, "--no-link", "-f", "source").In("/home/alice"), wire.ExitDenied)
		says(t, text, "error: upload limit exceeded", "1M")
	})
	t.Run("flake-sources", func(t *testing.T) {
		p.source("a source that is known")
		build := func(ticket string) *lab.Cmd {
			return p.client.BuildCmd(ticket, "--no-link", "-f", "source").In("/home/alice")
		}
		unknown := p.ticket("unknown", "examples-flake-sources", `{"sources":["sha256-AAAA"]}`)
		text := fails(t, build(unknown), wire.ExitDenied)
		found := regexp.MustCompile(`denied by policy "examples-flake-sources": the source [a-z0-9]{32}-source \((sha256-[A-Za-z0-9+/=]{44})\) is not known`).FindStringSubmatch(text)
		if found == nil {
			t.Fatalf("the denial does not name the source:\n%s", text)
		}
		known := p.ticket("known", "examples-flake-sources", `{"flake_lock":{"nodes":{"src":{"locked":{"narHash":"`+found[1]+`"}}},"version":7}}`)
		must(t, build(known))
	})
}

// source writes a derivation with a source to /home/alice/source.
func (p *policyLab) source(text string) {
	p.t.Helper()
	p.client.Host.WriteFile(lab.Alice, "/home/alice/source/src/file", text)
	p.client.Host.WriteFile(lab.Alice, "/home/alice/source/default.nix", string(lab.WithSource(text[:10])))
}

// A module that changes under a running builder opens nothing, the holder is told
// to get another ticket, and the owner sees why; in mode monitor a policy only
// tells; a module may come with its ticket.
func TestPolicyForItsOwner(t *testing.T) {
	p := newPolicyLab(t, "builtin")
	path := policyDir + "builtin.wasm"
	ticket := p.ticket("pinned", "builtin", `{"ticket":{"builds":2}}`, "--uses", "unlimited")
	must(t, p.build(ticket, lab.Hello("pinned")))
	says(t, p.builder.Admin("ticket", "list"), "builtin ")
	if hash := regexp.MustCompile(`module +[0-9a-f]{64}`); !hash.MatchString(p.builder.Admin("ticket", "inspect", "pinned")) {
		t.Errorf("the ticket's module is not shown:\n%s", p.builder.Admin("ticket", "inspect", "pinned"))
	}
	module := string(builtin.Limits)

	p.host.WriteFile(lab.BuilderUser, path, module[:len(module)/2])
	text := fails(t, p.build(ticket, lab.Hello("truncated")), wire.ExitDenied)
	says(t, text, `error: denied by policy "builtin": the policy is not the one that was agreed on`, "ask the builder's owner for a new ticket")
	saysNot(t, text, path, "policy.changed")
	p.host.Run(lab.BuilderUser, "rm", path)
	says(t, fails(t, p.build(ticket, lab.Hello("removed")), wire.ExitDenied), `error: denied by policy "builtin": the policy is missing`)
	spent(t, p.builder, "pinned", 1)
	log := p.builder.Admin("policy", "log")
	says(t, log, "policy.changed", "policy.missing", path)
	says(t, p.builder.Admin("status"), "denied by policies", "policy.missing")
	p.builder.WaitFor("code=policy.changed.*drv-thru ticket create --policy builtin", longest)

	// Put back, it goes on where it was, also after a crash.
	p.host.WriteFile(lab.BuilderUser, path, module)
	must(t, p.build(ticket, lab.Hello("put back")))
	p.builder.Process.Kill()
	p.builder.Start()
	p.denied(t, "pinned", ticket, lab.Hello("used up"), `"builtin": this ticket has 2 builds, 2 are allowed`)

	watched := p.builder.Ticket("--name", "watched", "--policy", "watch")
	must(t, p.build(watched, lab.Hello("watched")))
	says(t, p.builder.Admin("policy", "log"), "would deny")

	kept := p.builder.Ticket("--name", "kept", "--policy", path, "--policy-settings", `{"ticket":{"builds":0}}`)
	p.host.Run(lab.BuilderUser, "rm", path)
	p.denied(t, "kept", kept, lab.Hello("kept"), `"builtin": this ticket has 0 builds, 0 are allowed`)
}
