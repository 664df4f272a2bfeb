package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/core/wire"
)

// askTime bounds what one builder may take to answer builders test.
const askTime = 20 * time.Second

// askedBuilder is an entry of builders test --json.
type askedBuilder struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Error says why not, Hint what to do.
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`

	Software   string   `json:"software,omitempty"`
	NixVersion string   `json:"nix_version,omitempty"`
	Systems    []string `json:"systems,omitempty"`
	SigningKey string   `json:"signing_key,omitempty"`
	Slots      int      `json:"slots,omitempty"`
	Active     int      `json:"active,omitempty"`
	Waiting    int      `json:"waiting,omitempty"`
	Path       string   `json:"path,omitempty"`
	Seconds    float64  `json:"seconds"` // until the answer

	err error
}

func newBuildersTestCommand(a *app) *ffcli.Command {
	fs := a.flags("drv-thru builders test")
	asJSON := fs.Bool("json", false, "print JSON")
	var keyFile string
	fs.Var((*usage.Word)(&keyFile), "key-file", "this client's secret key `FILE` (default ~/.config/drv-thru/secret.key)")
	return &ffcli.Command{
		Name:       "test",
		ShortUsage: "drv-thru builders test [NAME…] [flags]",
		ShortHelp:  "ask builders whether they would build for this client",
		LongHelp:   "Connects to the builders, all of them without a NAME, and asks who they are.\nNothing is built. The exit code is that of the first that failed.",
		FlagSet:    fs,
		Options:    fromEnvironment,
		Exec: func(ctx context.Context, args []string) error {
			names, err := a.operands(fs, args)
			if err != nil {
				return err
			}
			if slices.Contains(names, "") {
				return usagef("builders test takes NAMEs, and one is empty")
			}
			if len(names) == 0 {
				all, err := a.builders()
				if err != nil {
					return err
				}
				if len(all) == 0 && !*asJSON {
					return &hintError{errors.New("no builder has a name yet"), "write one down with: drv-thru builders add NAME --endpoint-id ID --relay-url URL"}
				}
				for _, b := range all {
					names = append(names, b.name)
				}
			}
			asked := make([]askedBuilder, len(names))
			for i, name := range names {
				asked[i] = a.askBuilder(ctx, name, keyFile)
			}
			return a.printAsked(asked, *asJSON)
		},
	}
}

// askBuilder asks a builder who it is.
func (a *app) askBuilder(ctx context.Context, name, keyFile string) askedBuilder {
	out := askedBuilder{Name: name}
	began := time.Now()
	info, path, err := a.builderInfo(ctx, name, keyFile)
	out.Seconds = time.Since(began).Seconds()
	if err != nil {
		out.err, out.Error, out.Hint = err, err.Error(), hintOf(err)
		return out
	}
	out.OK = true
	out.Software, out.NixVersion, out.Systems, out.SigningKey = info.Software, info.NixVersion, info.Systems, info.SigningKey
	out.Slots, out.Active, out.Waiting, out.Path = info.Slots, info.Active, info.Waiting, path
	return out
}

func (a *app) builderInfo(ctx context.Context, name, keyFile string) (info wire.Info, path string, err error) {
	r, err := a.resolveBuilder(name, keyFile)
	if err != nil {
		return info, "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, askTime, fmt.Errorf("no answer within %s", term.Span(askTime)))
	defer cancel()
	r.relayOnly = true
	b, err := r.dial(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		return info, "", err
	}
	defer b.link.Close()
	info, err = b.Info(ctx, "")
	switch {
	case wire.CodeOf(err) == wire.CodeNoCredentials:
		return info, "", &hintError{err, trustMeHint(r)}
	case err != nil:
		return info, "", err
	}
	return info, b.link.Path().String(), r.checkKey(info.SigningKey)
}

// trustMeHint says what a client does that the builder does not trust.
func trustMeHint(r *route) string {
	return "have its owner add to trusted_clients the public_key " + r.identity.ID().String()
}

func (a *app) printAsked(asked []askedBuilder, asJSON bool) error {
	var failed []error
	for _, b := range asked {
		if !b.OK {
			failed = append(failed, b.err)
		}
		if asJSON {
			continue
		}
		text := "ok     " + b.Name + ": " + b.describe()
		if !b.OK {
			text = "failed " + b.Name + ": " + b.Error
			if b.Hint != "" {
				text += "\n" + b.Hint
			}
		}
		// A builder's line feed must not begin what looks like another's line.
		text = strings.ReplaceAll(term.Safe(text), "\n", "\n       ")
		if _, err := fmt.Fprintln(a.stdout, text); err != nil {
			return err
		}
	}
	if asJSON {
		if err := term.WriteJSON(a.stdout, asked); err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return &exitError{term.Count(len(failed), "builder") + " cannot be used", exitCode(failed[0])}
	}
	return nil
}

func (b *askedBuilder) describe() string {
	return fmt.Sprintf("%s with Nix %s for %s, %d of %d slots in use, %d waiting; signs with %s; %s, after %s",
		b.Software, b.NixVersion, strings.Join(b.Systems, ", "), b.Active, b.Slots, b.Waiting, b.SigningKey,
		b.Path, term.Span(time.Duration(b.Seconds*float64(time.Second))))
}
