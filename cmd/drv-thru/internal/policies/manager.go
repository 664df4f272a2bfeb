package policies

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/policy"
	"github.com/drv-thru/drv-thru/policy/builtin"
)

// Mode tells what a policy's decisions do.
type Mode string

// Modes.
const (
	Enforce Mode = "enforce" // they hold; the default
	Monitor Mode = "monitor" // they are recorded
)

// Policy is one of the configuration.
type Policy struct {
	Module   string          `json:"module"` // a file; empty is the module that is part of the program
	Settings json.RawMessage `json:"settings"`
	Mode     Mode            `json:"mode"`
}

// Check says what is wrong with a policy's configuration.
func (p Policy) Check() error {
	switch p.Mode {
	case "", Enforce, Monitor:
	default:
		return fmt.Errorf("mode is %q; want enforce or monitor", p.Mode)
	}
	if p.Module != "" && !filepath.IsAbs(p.Module) {
		return fmt.Errorf("module %q is no absolute path", p.Module)
	}
	if len(p.Settings) == 0 {
		return nil
	}
	return policy.CheckSettings(p.Settings)
}

// builtinWall bounds the program's own module, which ends: a machine so loaded
// that its third of a millisecond takes long must not refuse every ticket.
const builtinWall = 10 * time.Second

// Config makes a Manager.
type Config struct {
	Policies map[string]Policy
	// Dir keeps the modules that came with tickets, and compiled code unless
	// Compiled does. Nobody else may be able to write there.
	Dir, Compiled string
	Log           *slog.Logger
	Now           func() time.Time
	// Record keeps a decision for the owner.
	Record func(context.Context, state.Decision) error
	// Decided, if set, is told every decision, also those that Record is not.
	Decided func(state.Decision)
	// Wall replaces policy.MaxWall; 0 means that.
	Wall time.Duration
}

// Manager decides by the policies of a builder. It is a [builder.Policy].
type Manager struct {
	cfg     Config
	host    *policy.Host
	builtin *policy.Module

	mu     sync.Mutex
	loaded map[policy.Hash]*load
	uses   uint64
	files  map[string]file

	configured atomic.Pointer[configured]
}

// configured are the policies of the configuration.
type configured struct {
	policies map[string]Policy
	// modules are what their files were when the configuration was read: what
	// decides for those without a pin.
	modules map[string]policy.Hash
}

// maxLoaded bounds the modules that are held in memory, of which one by Go takes
// 25 MB: each change of a policy is another, and so is each that comes with a ticket.
const maxLoaded = 32

// load is a module that is compiled once for all who wait for it.
type load struct {
	done   chan struct{}
	used   uint64 // the value of Manager.uses then
	module *policy.Module
	err    error
}

// file is what a module's file was when it was read.
type file struct {
	info fs.FileInfo
	hash policy.Hash
}

var _ builder.Policy = (*Manager)(nil)

// New loads the configured policies. One that cannot be loaded is logged, and
// denies.
func New(ctx context.Context, cfg Config) (*Manager, error) {
	cache := cmp.Or(cfg.Compiled, filepath.Join(cfg.Dir, "compiled"))
	m := &Manager{
		cfg:    cfg,
		host:   policy.NewHost(policy.Config{CacheDir: cache, Wall: cfg.Wall}),
		loaded: make(map[policy.Hash]*load), files: make(map[string]file),
	}
	if err := os.MkdirAll(m.kept(), 0o700); err != nil {
		return nil, fmt.Errorf("make policies directory: %w", err)
	}
	var err error
	m.builtin, err = policy.NewHost(policy.Config{CacheDir: cache, Wall: builtinWall}).Load(ctx, builtin.Limits)
	if err != nil {
		return nil, fmt.Errorf("load the built-in policy: %s", ownerText(err))
	}
	m.Configure(ctx, cfg.Policies)
	return m, nil
}

// Configure replaces the configured policies, for builds that are not decided
// yet. One that cannot be loaded is logged, and denies.
func (m *Manager) Configure(ctx context.Context, all map[string]Policy) {
	c := &configured{policies: all, modules: make(map[string]policy.Hash)}
	for name, p := range all {
		if p.Module == "" {
			continue
		}
		module, err := m.fromFile(ctx, p.Module, policy.Hash{})
		if err != nil {
			m.cfg.Log.Warn("policy cannot be used, and denies", "policy", name, "err", ownerText(err))
			continue
		}
		c.modules[name] = module.Hash()
	}
	m.configured.Store(c)
}

// Close frees the modules.
func (m *Manager) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.loaded {
		<-l.done
		if l.module != nil {
			l.module.Close()
		}
	}
	m.builtin.Close()
}

func (m *Manager) kept() string { return filepath.Join(m.cfg.Dir, "modules") }

func (m *Manager) keptFile(hash policy.Hash) string {
	return filepath.Join(m.kept(), hash.String()+".wasm")
}

// fromFile returns the module in a file, which must be the pinned one unless the
// pin is zero. A file that has not changed is not read again.
func (m *Manager) fromFile(ctx context.Context, path string, pin policy.Hash) (*policy.Module, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, &policy.Error{Code: policy.CodeMissing, Detail: err.Error(), Err: err}
	}
	m.mu.Lock()
	known, ok := m.files[path]
	m.mu.Unlock()
	if ok && os.SameFile(known.info, info) && known.info.Size() == info.Size() && known.info.ModTime().Equal(info.ModTime()) &&
		(pin == policy.Hash{} || known.hash == pin) {
		if module, err := m.load(ctx, known.hash, nil); module != nil || !errors.Is(err, errUnread) {
			return module, err
		}
	}
	code, err := policy.ReadModule(os.DirFS(filepath.Dir(path)), filepath.Base(path))
	if err != nil {
		return nil, err
	}
	hash := policy.HashOf(code)
	if pin != (policy.Hash{}) && hash != pin {
		return nil, &policy.Error{Code: policy.CodeChanged, Detail: fmt.Sprintf("%s is %s now, not %s", path, hash, pin)}
	}
	m.mu.Lock()
	m.files[path] = file{info, hash}
	m.mu.Unlock()
	return m.load(ctx, hash, code)
}

var errUnread = errors.New("the module was not loaded yet")

// load compiles a module, or returns what came of it before. Without code it
// does not compile.
func (m *Manager) load(ctx context.Context, hash policy.Hash, code []byte) (*policy.Module, error) {
	m.mu.Lock()
	l := m.loaded[hash]
	mine := l == nil
	if mine && code == nil {
		m.mu.Unlock()
		return nil, errUnread
	}
	if mine {
		l = &load{done: make(chan struct{})}
		m.makeRoom()
		m.loaded[hash] = l
	}
	m.uses++
	l.used = m.uses
	m.mu.Unlock()
	if mine {
		// Whoever waits for it may stay longer than who asked first.
		l.module, l.err = m.host.Load(context.WithoutCancel(ctx), code)
		close(l.done)
	}
	select {
	case <-l.done:
		return l.module, l.err
	case <-ctx.Done():
		return nil, &policy.Error{Code: policy.CodeCanceled, Detail: ctx.Err().Error(), Err: ctx.Err()}
	}
}

// makeRoom lets go of the module that was used longest ago, if there are as many as
// there may be. Who decides by it goes on; the memory is free once nobody does. m.mu
// is held.
func (m *Manager) makeRoom() {
	if len(m.loaded) < maxLoaded {
		return
	}
	var oldest policy.Hash
	for hash, l := range m.loaded {
		if first := m.loaded[oldest]; first == nil || l.used < first.used {
			oldest = hash
		}
	}
	delete(m.loaded, oldest)
}

// chosen is the policy that decides.
type chosen struct {
	name     string
	settings json.RawMessage
	monitor  bool
	hash     string // of what should decide, "" if unknown
	module   *policy.Module
}

// choose finds the policy of a ticket, or of a trusted client by its name. What
// can be said of it is there even if it cannot decide.
func (m *Manager) choose(ctx context.Context, p builder.TicketPolicy) (c chosen, err error) {
	c = chosen{name: cmp.Or(p.Name, builtin.Name), settings: p.Settings, hash: p.Hash}
	all := m.configured.Load()
	configured, ok := all.policies[c.name]
	if ok && !p.Kept {
		c.monitor = configured.Mode == Monitor
		if len(c.settings) == 0 {
			c.settings = configured.Settings
		}
	}
	var pin policy.Hash
	if p.Hash != "" {
		if pin, err = policy.ParseHash(p.Hash); err != nil {
			return c, &policy.Error{Code: policy.CodeChanged, Detail: err.Error(), Err: err}
		}
	}
	switch {
	case p.Kept:
		c.module, err = m.fromFile(ctx, m.keptFile(pin), pin)
	case !ok && c.name != builtin.Name:
		err = &policy.Error{Code: policy.CodeMissing, Detail: fmt.Sprintf("the configuration has no policy %q", c.name)}
	case configured.Module == "":
		c.hash = m.builtin.Hash().String()
		if pin != (policy.Hash{}) {
			err = &policy.Error{Code: policy.CodeChanged, Detail: fmt.Sprintf("the policy is the built-in module now, not %s", pin)}
			break
		}
		c.module = m.builtin
	case pin == policy.Hash{}:
		// A trusted client's, or one that was the built-in module's.
		if pin, ok = all.modules[c.name]; !ok {
			err = &policy.Error{Code: policy.CodeMissing, Detail: configured.Module + " could not be loaded when the configuration was read"}
			break
		}
		c.hash = pin.String()
		c.module, err = m.fromFile(ctx, configured.Module, pin)
	default:
		c.module, err = m.fromFile(ctx, configured.Module, pin)
	}
	return c, err
}

// Info is a configured policy as it is now.
type Info struct {
	Name     string          `json:"name"`
	Module   string          `json:"module"` // "" for the built-in one
	Hash     string          `json:"hash,omitempty"`
	Mode     Mode            `json:"mode"`
	Settings json.RawMessage `json:"settings,omitempty"`
	Error    string          `json:"error,omitempty"` // why it cannot decide
}

// List returns the configured policies and the built-in one, by name.
func (m *Manager) List(ctx context.Context) []Info {
	names := []string{builtin.Name}
	all := m.configured.Load().policies
	for name := range all {
		if name != builtin.Name {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	infos := make([]Info, 0, len(names))
	for _, name := range names {
		p := all[name]
		info := Info{Name: name, Module: p.Module, Mode: cmp.Or(p.Mode, Enforce), Settings: p.Settings}
		if p.Module == "" {
			info.Hash = m.builtin.Hash().String()
		} else if module, err := m.fromFile(ctx, p.Module, policy.Hash{}); err != nil {
			info.Error = ownerText(err)
		} else {
			info.Hash = module.Hash().String()
		}
		infos = append(infos, info)
	}
	return infos
}

func ownerText(err error) string {
	var e *policy.Error
	if errors.As(err, &e) {
		return e.Owner()
	}
	return err.Error()
}
