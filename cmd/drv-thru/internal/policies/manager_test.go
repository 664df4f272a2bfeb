package policies

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/policy"
	"github.com/drv-thru/drv-thru/policy/builtin"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// trapping is a policy that traps: its function _start is "unreachable".
var trapping = []byte("\x00asm\x01\x00\x00\x00" + "\x01\x04\x01\x60\x00\x00" + "\x03\x02\x01\x00" + "\x05\x03\x01\x00\x01" +
	"\x07\x0a\x01\x06_start\x00\x00" + "\x0a\x05\x01\x03\x00\x00\x0b")

// compiled is a folder that all tests share: compiling takes long.
var compiled string

// recorder keeps what is recorded and logged.
type recorder struct {
	mu        sync.Mutex
	decisions []state.Decision
	log       strings.Builder
}

func (r *recorder) record(_ context.Context, d state.Decision) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.decisions = append(r.decisions, d)
	return nil
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

func (r *recorder) last(t *testing.T) state.Decision {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.decisions) == 0 {
		t.Fatal("nothing was recorded")
	}
	return r.decisions[len(r.decisions)-1]
}

func start(t *testing.T, dir string, all map[string]Policy) (*Manager, *recorder) {
	t.Helper()
	r := &recorder{}
	m, err := New(t.Context(), Config{
		Policies: all, Dir: dir, Compiled: compiled, Log: slog.New(slog.NewTextHandler(r, nil)), Now: func() time.Time { return now },
		Record: r.record, Wall: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m, r
}

func newTicket(n byte) *builder.TicketRecord {
	t := &builder.TicketRecord{
		Secret: ticket.Secret{n}, Name: "mine", Created: now,
		Limits: ticket.Limits{MaxBuildTime: ticket.DefaultMaxBuildTime, MaxUploadBytes: 1 << 30},
	}
	t.ID = t.Secret.ID()
	return t
}

func (m *Manager) ask(t *testing.T, tk *builder.TicketRecord, used int64) (ticket.Limits, error) {
	t.Helper()
	return m.Decide(t.Context(), &builder.PolicyRequest{
		Event: builder.PolicyBuild, Now: now, Build: "b", Client: key.ID{9}, Ticket: tk, Limits: tk.Limits,
		Usage: builder.Usages{Ticket: builder.Usage{Builds: used}},
		Roots: []builder.PolicyRoot{{Drv: "/nix/store/00000000000000000000000000000000-hello.drv", Outputs: []string{"out"}}},
	})
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantDenied checks both faces of a denial: one for the holder, one for the owner.
func wantDenied(t *testing.T, r *recorder, err error, text string, code policy.Code) {
	t.Helper()
	var w *wire.Error
	if !errors.As(err, &w) || w.Code != wire.CodePolicyDenied || !strings.HasPrefix(w.Error(), text) {
		t.Fatalf("the holder is told %v, want %q", err, text)
	}
	var internals *policy.Error
	if errors.As(err, &internals) {
		t.Errorf("the holder's error holds the owner's: %v", internals)
	}
	d := r.last(t)
	if d.Verdict != "deny" || d.Code != string(code) || d.Limits.MaxBuildTime != 0 {
		t.Errorf("recorded %+v, want %s", d, code)
	}
	if d.Detail != "" && strings.Contains(w.Error()+w.Hint, d.Detail) {
		t.Errorf("the holder is told %q", w.Error())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !strings.Contains(r.log.String(), string(code)) {
		t.Errorf("the log has no %s:\n%s", code, r.log.String())
	}
}

func TestBuiltinIsTheDefault(t *testing.T) {
	m, r := start(t, t.TempDir(), map[string]Policy{
		"few": {Settings: json.RawMessage(`{"ticket":{"builds":3},"limits":{"max_build_seconds":60}}`)},
	})
	tk := newTicket(1)
	if err := m.Pin(t.Context(), Choice{}, tk); err != nil || tk.Policy.Name != "" || tk.Policy.Hash != "" {
		t.Fatalf("%+v, %v", tk.Policy, err)
	}
	limits, err := m.ask(t, tk, 1000)
	if err != nil || limits.MaxBuildTime != tk.Limits.MaxBuildTime || len(r.decisions) != 0 {
		t.Errorf("%+v, %v, recorded %+v", limits, err, r.decisions)
	}
	// Settings of the configuration, and of the ticket instead.
	if err := m.Pin(t.Context(), Choice{Name: "few"}, tk); err != nil {
		t.Fatal(err)
	}
	if limits, err := m.ask(t, tk, 2); err != nil || limits.MaxBuildTime.Std() != time.Minute {
		t.Errorf("%+v, %v", limits, err)
	}
	if d := r.last(t); d.Verdict != "narrow" || d.Limits.MaxBuildTime.Std() != time.Minute || d.Ticket != tk.ID.String() || d.Wall <= 0 {
		t.Errorf("recorded %+v", d)
	}
	_, err = m.ask(t, tk, 3)
	wantDenied(t, r, err, `denied by policy "few": this ticket has 3 builds, 3 are allowed`, policy.CodeDenied)
	if err := m.Pin(t.Context(), Choice{Name: "few", Settings: json.RawMessage(`{}`)}, tk); err != nil {
		t.Fatal(err)
	}
	if _, err := m.ask(t, tk, 3); err != nil {
		t.Error(err)
	}
	// A trusted client has a policy by name.
	client := &builder.PolicyRequest{
		Event: builder.PolicyBuild, Now: now, Trusted: &builder.TrustedClient{Name: "desk", Policy: "few"},
		ClientName: "desk", Usage: builder.Usages{Client: builder.Usage{Builds: 3}},
	}
	_, err = m.Decide(t.Context(), client)
	wantDenied(t, r, err, `denied by policy "few": this ticket has 3 builds`, policy.CodeDenied)
}

// TestModuleChanges: removing, swapping, truncating or restoring a module under
// a running builder never opens anything.
func TestModuleChanges(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "p.wasm")
	write(t, path, builtin.Limits)
	m, r := start(t, filepath.Join(dir, "data"), map[string]Policy{"file": {Module: path}})
	tk := newTicket(1)
	if err := m.Pin(t.Context(), Choice{Name: "file"}, tk); err != nil {
		t.Fatal(err)
	}
	if tk.Policy.Hash != policy.HashOf(builtin.Limits).String() || tk.Policy.Kept {
		t.Fatalf("pinned %+v", tk.Policy)
	}
	if _, err := m.ask(t, tk, 0); err != nil {
		t.Fatal(err)
	}
	changed := append([]byte(nil), builtin.Limits...)
	changed = append(changed, 0, 1, 0) // an empty custom section
	const missing, other = "denied by policy \"file\": the policy is missing", "denied by policy \"file\": the policy is not the one that was agreed on"
	for _, step := range []struct {
		name   string
		change func() error
		text   string
		code   policy.Code
	}{
		{"removed", func() error { return os.Remove(path) }, missing, policy.CodeMissing},
		{"truncated", func() error { return os.WriteFile(path, builtin.Limits[:1000], 0o600) }, other, policy.CodeChanged},
		{"emptied", func() error { return os.WriteFile(path, nil, 0o600) }, other, policy.CodeChanged},
		{"swapped for one that works", func() error { return os.WriteFile(path, changed, 0o600) }, other, policy.CodeChanged},
		{"a folder", func() error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }, missing, policy.CodeMissing},
		{"a link to another", func() error {
			to := filepath.Join(dir, "other")
			return errors.Join(os.Remove(path), os.WriteFile(to, changed, 0o600), os.Symlink(to, path))
		}, other, policy.CodeChanged},
		{"too large", func() error {
			return errors.Join(os.Remove(path), os.WriteFile(path, make([]byte, policy.MaxModule+1), 0o600))
		}, "denied by policy \"file\": the policy or what it was asked is too large", policy.CodeTooLarge},
	} {
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		_, err := m.ask(t, tk, 0)
		wantDenied(t, r, err, step.text, step.code)
		if step.code == policy.CodeChanged {
			var w *wire.Error
			if errors.As(err, &w); !strings.Contains(w.Hint, "new ticket") || !strings.Contains(r.log.String(), "drv-thru ticket create --policy file") {
				t.Errorf("%s: hint %q, log\n%s", step.name, w.Hint, r.log.String())
			}
		}
	}
	write(t, path, builtin.Limits)
	if _, err := m.ask(t, tk, 0); err != nil {
		t.Errorf("put back: %v", err)
	}
	// A restart with another module, or without the policy, does not help it.
	write(t, path, changed)
	again, r := start(t, filepath.Join(dir, "data"), map[string]Policy{"file": {Module: path}})
	_, err := again.ask(t, tk, 0)
	wantDenied(t, r, err, other, policy.CodeChanged)
	again, r = start(t, filepath.Join(dir, "data"), map[string]Policy{"file": {}})
	_, err = again.ask(t, tk, 0)
	wantDenied(t, r, err, other, policy.CodeChanged)
	again, r = start(t, filepath.Join(dir, "data"), nil)
	_, err = again.ask(t, tk, 0)
	wantDenied(t, r, err, missing, policy.CodeMissing)
	// Nor does damage to the record.
	tk.Policy.Hash = "x"
	_, err = again.ask(t, tk, 0)
	wantDenied(t, r, err, other, policy.CodeChanged)
}

// However many modules come with tickets, a bounded number is held in memory, and one
// that was let go decides as before.
func TestLoadedModulesAreBounded(t *testing.T) {
	m, _ := start(t, t.TempDir(), nil)
	tk := newTicket(1)
	if err := m.Pin(t.Context(), Choice{Name: "own", Module: builtin.Limits}, tk); err != nil {
		t.Fatal(err)
	}
	for i := range byte(maxLoaded + 3) {
		choice := Choice{Name: "trap", Module: append(slices.Clone(trapping), 0, 2, 1, i)} // a custom section
		if err := m.Pin(t.Context(), choice, newTicket(2)); wire.CodeOf(err) != wire.CodePolicyDenied {
			t.Fatal(err)
		}
	}
	if _, held := m.loaded[policy.HashOf(builtin.Limits)]; held || len(m.loaded) != maxLoaded {
		t.Errorf("%d modules are held, the first among them: %v", len(m.loaded), held)
	}
	if _, err := m.ask(t, tk, 0); err != nil {
		t.Error(err)
	}
}

// TestKeptModule: a module that came with its ticket needs no file of the owner's.
func TestKeptModule(t *testing.T) {
	dir := t.TempDir()
	made, _ := start(t, dir, nil)
	tk := newTicket(1)
	choice := Choice{Name: "own", Module: builtin.Limits, Settings: json.RawMessage(`{"ticket":{"builds":1}}`)}
	if err := made.Pin(t.Context(), choice, tk); err != nil {
		t.Fatal(err)
	}
	if !tk.Policy.Kept || tk.Policy.Name != "own" {
		t.Fatalf("%+v", tk.Policy)
	}
	m, r := start(t, dir, map[string]Policy{"own": {Mode: Monitor}}) // another policy of that name
	if _, err := m.ask(t, tk, 0); err != nil {
		t.Error(err)
	}
	_, err := m.ask(t, tk, 1)
	wantDenied(t, r, err, `denied by policy "own": this ticket has 1 builds`, policy.CodeDenied)
	if err := os.Remove(m.keptFile(policy.HashOf(builtin.Limits))); err != nil {
		t.Fatal(err)
	}
	_, err = m.ask(t, tk, 0)
	wantDenied(t, r, err, `denied by policy "own": the policy is missing`, policy.CodeMissing)
}

func TestPinRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "trap.wasm")
	write(t, path, trapping)
	m, r := start(t, filepath.Join(dir, "data"), map[string]Policy{
		"trap": {Module: path}, "gone": {Module: filepath.Join(dir, "gone.wasm")}, "wrong": {Settings: json.RawMessage(`{"x":1}`)},
		"watch": {Module: path, Mode: Monitor},
	})
	for name, c := range map[string]struct {
		choice Choice
		code   wire.Code
		text   string
	}{
		"traps":          {Choice{Name: "trap"}, wire.CodePolicyDenied, `denied by policy "trap": policy.trap: the policy failed: `},
		"is missing":     {Choice{Name: "gone"}, wire.CodePolicyDenied, `denied by policy "gone": policy.missing`},
		"says no":        {Choice{Name: "wrong"}, wire.CodePolicyDenied, `denied by policy "wrong": the settings of this policy are not what it knows`},
		"unknown":        {Choice{Name: "nobody"}, wire.CodeBadRequest, `request cannot be understood: the builder's configuration has no policy`},
		"no module":      {Choice{Name: "x", Module: []byte("x")}, wire.CodePolicyDenied, `denied by policy "x": policy.invalid`},
		"settings twice": {Choice{Settings: json.RawMessage(`{"a":1,"a":2}`)}, wire.CodeBadRequest, `request cannot be understood: policy: settings`},
	} {
		err := m.Pin(t.Context(), c.choice, newTicket(1))
		if wire.CodeOf(err) != c.code || !strings.HasPrefix(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The holder of a ticket is told less.
	tk := newTicket(1)
	tk.Policy = builder.TicketPolicy{Name: "trap", Hash: policy.HashOf(trapping).String()}
	_, err := m.ask(t, tk, 0)
	wantDenied(t, r, err, `denied by policy "trap": the policy failed`, policy.CodeTrap)

	// In mode monitor it only tells.
	if err := m.Pin(t.Context(), Choice{Name: "watch"}, tk); err != nil {
		t.Fatal(err)
	}
	limits, err := m.ask(t, tk, 0)
	if d := r.last(t); err != nil || limits.MaxBuildTime != tk.Limits.MaxBuildTime || !d.Monitor || d.Verdict != "deny" || d.Code != string(policy.CodeTrap) {
		t.Errorf("%+v, %v, recorded %+v", limits, err, d)
	}
	write(t, path, nil)
	if _, err := m.ask(t, tk, 0); err != nil || r.last(t).Code != string(policy.CodeChanged) {
		t.Errorf("%v, recorded %+v", err, r.last(t))
	}
}

// A new configuration decides from then on.
func TestConfigure(t *testing.T) {
	module := filepath.Join(t.TempDir(), "p.wasm")
	write(t, module, trapping)
	m, r := start(t, t.TempDir(), map[string]Policy{"p": {Settings: json.RawMessage(`{"limits":{"max_build_seconds":900}}`)}})
	tk := newTicket(1)
	tk.Policy.Name = "p"
	if limits, err := m.ask(t, tk, 0); err != nil || limits.MaxBuildTime.Std() != 15*time.Minute {
		t.Fatalf("%+v, %v", limits, err)
	}
	m.Configure(t.Context(), map[string]Policy{"p": {Settings: json.RawMessage(`{"limits":{"max_build_seconds":60}}`)}})
	if limits, err := m.ask(t, tk, 0); err != nil || limits.MaxBuildTime.Std() != time.Minute {
		t.Errorf("%+v, %v", limits, err)
	}
	m.Configure(t.Context(), map[string]Policy{"p": {Module: module}})
	if _, err := m.ask(t, tk, 0); wire.CodeOf(err) != wire.CodePolicyDenied {
		t.Errorf("a policy that traps: %v", err)
	}
	m.Configure(t.Context(), nil)
	_, err := m.ask(t, tk, 0)
	wantDenied(t, r, err, `denied by policy "p"`, policy.CodeMissing)
	if all := m.List(t.Context()); len(all) != 1 {
		t.Errorf("got %+v", all)
	}
}

func TestList(t *testing.T) {
	m, _ := start(t, t.TempDir(), map[string]Policy{"a": {Mode: Monitor}, "z": {Module: "/nonexistent"}})
	all := m.List(t.Context())
	if len(all) != 3 || all[0].Name != "a" || all[0].Mode != Monitor || all[1].Name != builtin.Name || all[1].Hash == "" ||
		all[2].Error == "" || all[2].Hash != "" {
		t.Errorf("%+v", all)
	}
	for text, p := range map[string]Policy{
		"mode": {Mode: "x"}, "absolute": {Module: "p.wasm"}, "settings": {Settings: json.RawMessage(`{`)},
	} {
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestRequestOf(t *testing.T) {
	tk := newTicket(1)
	hash := nix.SumHash(nil)
	r := requestOf(&builder.PolicyRequest{
		Event: builder.PolicyStart, Now: now, Client: key.ID{9}, Ticket: tk,
		Usage:   builder.Usages{Ticket: builder.Usage{BuildTime: 1, UploadBytes: 1 << 60}, Name: builder.Usage{Builds: 5}},
		Roots:   []builder.PolicyRoot{{Drv: "/nix/store/00000000000000000000000000000000-a-1.drv"}},
		ToBuild: []builder.Planned{{Drv: "/nix/store/00000000000000000000000000000000-b.drv", FixedOutput: true, Features: []string{"kvm"}}},
		Sources: []nix.PathInfo{{Path: "/nix/store/00000000000000000000000000000000-source", NarHash: hash}},
	})
	if _, err := r.Encode(); err != nil {
		t.Fatal(err)
	}
	if r.Usage.BuildSeconds != 1 || r.Usage.UploadBytes != policy.MaxNumber || r.Ticket.NameUsage.Builds != 5 || r.Request.Roots[0].Name != "a-1" ||
		r.Request.ToBuild[0].Name != "b" || !r.Request.ToBuild[0].FixedOutput || r.Request.ToBuildCount != 1 ||
		r.Request.Sources[0].Path != "00000000000000000000000000000000-source" ||
		r.Request.Sources[0].NarHash != "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" {
		t.Errorf("%+v", r)
	}
}
