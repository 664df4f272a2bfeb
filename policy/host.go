package policy

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/zeebo/blake3"
)

// Hash is the BLAKE3 of a module, as b3sum prints it.
type Hash [32]byte

// HashOf returns the hash of a module's bytes.
func HashOf(module []byte) Hash { return blake3.Sum256(module) }

// String writes the hash in lowercase hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// ParseHash reads what [Hash.String] writes.
func ParseHash(text string) (Hash, error) {
	var h Hash
	if n, err := hex.Decode(h[:], []byte(text)); len(text) != 2*len(h) || err != nil || n != len(h) || text != h.String() {
		return Hash{}, fmt.Errorf("not a module's BLAKE3 in 64 hexadecimal digits: %.80q", text)
	}
	return h, nil
}

// Config is what a [Host] needs from its surroundings. The zero value works.
type Config struct {
	// CacheDir keeps compiled modules; empty compiles on every Load. What is in
	// it is run as machine code: nobody else may be able to write there.
	CacheDir string
	// Concurrency is how many decisions run at once; 0 means half the CPUs.
	Concurrency int
	// Wall replaces MaxWall; 0 means MaxWall.
	Wall time.Duration
	// Interpret uses wazero's interpreter where it has a compiler.
	Interpret bool
	// Clock measures what decisions cost; nil means time.Now.
	Clock func() time.Time
}

// Host runs policies. It is safe for concurrent use.
type Host struct {
	cfg   Config
	gate  gate
	spare sync.Pool // see memory
}

// NewHost returns a host. It holds nothing that needs closing; modules do.
func NewHost(cfg Config) *Host {
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = (runtime.GOMAXPROCS(0) + 1) / 2
	}
	if cfg.Wall <= 0 {
		cfg.Wall = MaxWall
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	return &Host{cfg: cfg, gate: gate{free: cfg.Concurrency}}
}

// Module is a compiled policy. It is safe for concurrent use.
type Module struct {
	host     *Host
	info     Info
	runtime  wazero.Runtime
	cache    wazero.CompilationCache
	compiled wazero.CompiledModule
	cost     atomic.Int64 // expected nanoseconds of a decision

	mu     sync.RWMutex // held for reading by decisions
	closed bool
}

// Info is what a module declares.
type Info struct {
	Hash      Hash
	Bytes     int
	Imports   []string // "module.function"
	Exports   []string
	Functions int
	Memory    uint64 // bytes at the start
	Table     uint64 // elements at the start
	// Interpreted tells that compiling it would take long, or that the host was
	// told to interpret: decisions take some ten times as long.
	Interpreted bool
}

// Info returns what the module declares.
func (m *Module) Info() Info { return m.info }

// Hash returns the BLAKE3 of the module as it was loaded.
func (m *Module) Hash() Hash { return m.info.Hash }

// ReadModule reads a module's file, and no more than [MaxModule] of it. The error is
// an [*Error], with [CodeMissing] where there is no such file.
func ReadModule(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, &Error{Code: CodeMissing, Detail: err.Error(), Err: err}
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		return nil, errorf(CodeMissing, "%s is no regular file", name)
	}
	code, err := io.ReadAll(io.LimitReader(f, MaxModule+1))
	switch {
	case err != nil:
		return nil, &Error{Code: CodeMissing, Detail: err.Error(), Err: err}
	case len(code) > MaxModule:
		return nil, errorf(CodeTooLarge, "%s has more than %d bytes", name, MaxModule)
	}
	return code, nil
}

// Load checks and compiles a module. The error is an [*Error] that says what
// the module would be refused for.
func (h *Host) Load(ctx context.Context, code []byte) (*Module, error) {
	s, err := scan(code)
	if err != nil {
		return nil, err
	}
	m := &Module{host: h}
	m.info = Info{
		Hash: HashOf(code), Bytes: len(code), Imports: s.imports, Exports: s.exports,
		Functions: s.functions, Memory: s.memory, Table: s.table,
		Interpreted: h.cfg.Interpret || s.hard > maxWork,
	}
	if m.info.Interpreted && s.steps > maxSteps {
		return nil, errorf(CodeTooLarge, "%d steps to interpret, more than %d, and hard to compile", s.steps, maxSteps)
	}
	m.cost.Store(int64(unknownCost))
	if err := m.compile(ctx, s.code); err != nil {
		return nil, err
	}
	if err := m.checkTypes(); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// Close frees what the module holds, after the decisions that are under way.
func (m *Module) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	m.closed = true
	m.release()
}

func (m *Module) release() {
	ctx := context.Background()
	if m.runtime != nil {
		_ = m.runtime.Close(ctx)
	}
	if m.cache != nil {
		_ = m.cache.Close(ctx)
	}
	m.runtime, m.cache, m.compiled = nil, nil, nil
}

var errClosed = errors.New("the module was closed")
