package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/policies"
	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/policy/template"
)

const (
	// completionTime is what a builder may take to answer a shell that waits.
	completionTime = time.Second
	// nixCompletionTime is what Nix may take: it may have to fetch a flake.
	nixCompletionTime = 20 * time.Second
)

func newCompletionCommand(a *app) *ffcli.Command {
	fs := a.flags("drv-thru completion")
	return &ffcli.Command{
		Name:       "completion",
		ShortUsage: "drv-thru completion " + strings.Join(usage.Shells, "|"),
		ShortHelp:  "print what makes a shell complete drv-thru's command lines",
		LongHelp:   usage.CompletionHelp("drv-thru"),
		FlagSet:    fs,
		Exec: func(_ context.Context, args []string) error {
			shell, err := a.oneOperand(fs, args, "one shell: "+strings.Join(usage.Shells, ", "))
			if err != nil {
				return err
			}
			script, err := usage.Script("drv-thru", shell)
			if err != nil {
				return usagef("%s", err)
			}
			_, err = fmt.Fprint(a.stdout, script)
			return err
		},
	}
}

// complete answers a shell.
func (a *app) complete(ctx context.Context, root *ffcli.Command, index string, args []string) int {
	c := &usage.Completion{Root: root, Home: a.env("HOME"), Values: a.values}
	if err := c.Answer(ctx, a.stdout, index, args); err != nil {
		a.printError(err)
		return wire.ExitUsage
	}
	return wire.ExitOK
}

// values returns what a flag's value or an operand may be.
func (a *app) values(ctx context.Context, l *usage.Line) (usage.Candidates, bool) {
	var words []usage.Item
	switch l.Flag {
	case "builder":
		words = a.builderItems()
	case "import":
		words = items("auto", "fuse", "http")
	case "ticket":
		words = items("-")
	case "system":
		words = items("aarch64-darwin", "aarch64-linux", "i686-linux", "x86_64-darwin", "x86_64-linux")
	case "lang":
		for _, lang := range template.Languages {
			words = append(words, usage.Item{Name: lang.Name})
		}
	case "event":
		words = items("build", "create", "start")
	case "policy":
		words = a.policyItems(ctx, l)
	case "uses", "max-output-bytes", "max-upload-bytes":
		words = items("unlimited")
	case "":
		return a.operandValues(ctx, l)
	default:
		return usage.Candidates{}, false
	}
	return usage.Candidates{Kind: usage.Normal, Words: words}, true
}

func (a *app) operandValues(ctx context.Context, l *usage.Line) (usage.Candidates, bool) {
	var words []usage.Item
	switch strings.TrimPrefix(l.Path, "drv-thru ") {
	case "build":
		return a.installables(ctx, l), true
	case "builders remove", "builders test":
		words = slices.DeleteFunc(a.builderItems(), func(i usage.Item) bool { return slices.Contains(l.Operands, i.Name) })
	case "ticket inspect", "ticket reveal", "ticket revoke", "ticket usage":
		words = a.ticketItems(ctx, l)
	case "builds show", "builds log", "builds cancel":
		words = a.buildItems(ctx, l)
	case "policy schema":
		words = items("decision", "request")
	case "completion":
		words = items(usage.Shells...)
	default:
		return usage.Candidates{}, false
	}
	return usage.Candidates{Kind: usage.Normal, Words: words}, true
}

func items(words ...string) []usage.Item {
	out := make([]usage.Item, len(words))
	for i, w := range words {
		out[i].Name = w
	}
	return out
}

func (a *app) builderItems() []usage.Item {
	all, err := a.builders()
	if err != nil {
		return nil
	}
	out := make([]usage.Item, len(all))
	for i, b := range all {
		out[i] = usage.Item{Name: b.name, Text: strings.Join(b.relays(), " ")}
	}
	return out
}

// lineAdmin is the client of the builder that a command line means.
func (a *app) lineAdmin(l *usage.Line) (*admin.Client, error) {
	last := func(name, env string) string {
		if set := l.Set[name]; len(set) > 0 {
			return set[len(set)-1]
		}
		return a.env(env)
	}
	return a.admin(&adminFlags{socket: last("admin-socket", adminSocketEnv), dataDir: last("data-dir", envPrefix+"_DATA_DIR")})
}

// ask asks the builder of a command line; without an answer there is nothing to
// propose.
func ask[T any](ctx context.Context, a *app, l *usage.Line, question func(*admin.Client, context.Context) ([]T, error), item func(T) []usage.Item) (out []usage.Item) {
	c, err := a.lineAdmin(l)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	all, err := question(c, ctx)
	if err != nil {
		return nil
	}
	for _, t := range all {
		out = append(out, item(t)...)
	}
	return out
}

func (a *app) ticketItems(ctx context.Context, l *usage.Line) []usage.Item {
	return ask(ctx, a, l, (*admin.Client).Tickets, func(t admin.Ticket) []usage.Item {
		return []usage.Item{{Name: t.Name, Text: t.State}, {Name: t.ID.String(), Text: t.Name + ", " + t.State}}
	})
}

func (a *app) buildItems(ctx context.Context, l *usage.Line) []usage.Item {
	return ask(ctx, a, l, (*admin.Client).Builds, func(b builder.BuildStatus) []usage.Item {
		return []usage.Item{{Name: string(b.ID), Text: string(b.State) + " " + strings.Join(b.Labels, " ")}}
	})
}

func (a *app) policyItems(ctx context.Context, l *usage.Line) []usage.Item {
	return ask(ctx, a, l, (*admin.Client).Policies, func(p policies.Info) []usage.Item {
		return []usage.Item{{Name: p.Name}}
	})
}

// installables has Nix complete an installable, with the flags that say what it
// is part of.
func (a *app) installables(ctx context.Context, l *usage.Line) usage.Candidates {
	args := []string{"nix", "--extra-experimental-features", "nix-command flakes", "build"}
	for _, name := range []string{"file", "expr"} {
		for _, v := range l.Set[name] {
			args = append(args, "--"+name, v)
		}
	}
	for _, name := range []string{"arg", "argstr", "override-input"} {
		for pair := range slices.Chunk(l.Set[name], 2) {
			if len(pair) == 2 {
				args = append(args, "--"+name, pair[0], pair[1])
			}
		}
	}
	if slices.Contains(l.Typed, "--impure") {
		args = append(args, "--impure")
	}
	args = append(args, l.Word)
	ctx, cancel := context.WithTimeout(ctx, nixCompletionTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(a.nixEnv(), "NIX_GET_COMPLETIONS="+strconv.Itoa(len(args)-1))
	out, err := cmd.Output()
	kind, rest, _ := strings.Cut(string(out), "\n")
	if err != nil || kind == "" {
		return usage.Files(a.env("HOME"), l.Word, false)
	}
	got := usage.Candidates{Kind: usage.Kind(kind)}
	for line := range strings.Lines(rest) {
		word, text, _ := strings.Cut(strings.TrimRight(line, "\n"), "\t")
		got.Words = append(got.Words, usage.Item{Name: word, Text: text})
	}
	return got
}
