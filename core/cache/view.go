package cache

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
)

// Defaults of ViewConfig.
const (
	DefaultBudget      = 64 << 20
	DefaultFetches     = 16
	DefaultReadTimeout = 30 * time.Second

	// priority stands in nix-cache-info; lower is preferred.
	priority = 50
	// minSlabs is the smallest budget: enough for one run, its reader, and
	// something read ahead.
	minSlabs = 24
	// slabsPerRun is what one run and the readers that wait for it hold on
	// to at most, twice.
	slabsPerRun = 12
)

// ViewConfig says what a [View] shows and how it gets it.
type ViewConfig struct {
	// Fetcher gets NARs, and logs if it is a [LogFetcher]. Required.
	Fetcher Fetcher
	// SigningKey, "name:base64", is the builder's public key: when it is
	// set, every narinfo must have a valid signature of it.
	SigningKey string
	// Realisations are Nix's JSON texts of content-addressed outputs
	// (wire.Output.Realisation), shown as they are, which is unsigned.
	// Copying a store path never reads them; copying "<drv>^<output>"
	// does, and registers them with the daemon, which up to Nix 2.34 takes
	// them without a signature (daemon.cc, RegisterDrvOutput).
	Realisations []string
	// Budget is the memory for NAR bytes; 0 means DefaultBudget. At least
	// 6 MiB are used.
	Budget int64
	// Filed, if set, is the size from which NARs can be had as [View.Pieces], and are not
	// fetched ahead. It is for what comes from this machine's chunk store alone: whoever
	// found a chunk damaged could not have another, so that the importing store, which
	// hashes all of it anyway, may as well.
	Filed int64
	// Fetches bounds the NARs that are fetched at once, for readers that read
	// several; 0 means DefaultFetches. Budget has to suffice for them, unless
	// it is 0.
	Fetches int
	// ReadTimeout is how long a read waits without progress; 0 means
	// DefaultReadTimeout.
	ReadTimeout time.Duration
	// Progress, if set, is told of every piece of a NAR that arrives. It
	// may be called concurrently and must not block.
	Progress func(Progress)
	// Lookup, if set, is asked for the narinfo of a path, by its hash part,
	// each time that it is looked for; the error is fs.ErrNotExist when there
	// is none. What it returns is checked as by NewView. It may be called
	// concurrently and must return soon after ctx is done.
	Lookup func(ctx context.Context, hash string) (string, error)
	// MaxPaths bounds the paths that are remembered of Lookup's answers; those
	// that were looked up longest ago go first. 0 means 20,000.
	MaxPaths int
}

// Progress is how far the fetching of one NAR has come, in bytes. What was
// fetched twice counts twice.
type Progress struct {
	Path          nix.Path // the first path that has this NAR
	Fetched, Size uint64   // of this NAR
}

// Stats counts what a View has done, in bytes but for Requests.
type Stats struct {
	Fetched  uint64 // arrived
	Read     uint64 // handed to readers
	Evicted  uint64 // dropped before they were read
	Requests uint64 // made of the Fetcher
	Buffers  int64  // memory for NAR bytes, now
}

// View is a builder's signed binary cache as a read-only file system. Its
// methods are safe for concurrent use. The package comment says how it behaves.
type View struct {
	cfg        ViewConfig
	keys       []nix.PublicKey
	stallTime  time.Duration
	maxRuns    int
	lastWindow int
	// firstWindow is where a run's window begins.
	firstWindow int

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	logs   logCache

	mu     sync.Mutex
	closed bool
	err    error
	failed chan struct{} // closed when err is set
	stats  Stats
	infos  map[string]nix.PathInfo // by the path's hash part
	paths  []nix.Path              // as added
	used   map[string]lookedUp
	looked int // bytes of their narinfos
	uses   uint64
	nars   map[string]*narState // by hash
	static map[string][]byte    // other files, by name
	// verified is closed when what AddInfos was given has been, and unfit is what
	// was wrong with it.
	verified chan struct{}
	unfit    error

	order    []*narState // import order
	expected int         // how many of order are fetched ahead
	front    int64       // where somebody read last, in bytes of order
	// arrived is woken when a NAR may have become whole, and when it cannot.
	arrived chan struct{}

	pool    pool
	runs    map[*run]struct{}
	main    *run
	files   map[*File]struct{} // open NARs
	waiters []*waiter
	idle    []*waiter
	scratch []*segment
}

var (
	_ fs.ReadDirFS = (*View)(nil)
	_ fs.StatFS    = (*View)(nil)
)

// Directories of a View. Nix makes them when it opens a file:// cache, which
// succeeds only when they are there already.
const (
	narDir         = "nar"
	logDir         = "log"
	realisationDir = "realisations"
	buildTraceDir  = "build-trace-v2"
	cacheInfoName  = "nix-cache-info"
	narInfoSuffix  = ".narinfo"
)

var dirs = []string{buildTraceDir, logDir, narDir, realisationDir}

// NewView makes a View of the paths whose narinfos are given
// (wire.Closure.NarInfos). Nothing is fetched yet. It fails with ErrNarInfo or
// ErrSignature, or when the configuration is wrong.
func NewView(narinfos []string, cfg ViewConfig) (*View, error) {
	if cfg.Fetcher == nil {
		return nil, errors.New("cache: no fetcher")
	}
	if cfg.Fetches <= 0 {
		cfg.Fetches = DefaultFetches
	}
	if cfg.Budget == 0 {
		cfg.Budget = max(DefaultBudget, int64(cfg.Fetches)*slabsPerRun*slabSize)
	}
	if cfg.ReadTimeout == 0 {
		cfg.ReadTimeout = DefaultReadTimeout
	}
	if cfg.MaxPaths == 0 {
		cfg.MaxPaths = defaultMaxPaths
	}
	slabs := int(max(minSlabs, cfg.Budget/slabSize))
	v := &View{
		cfg:         cfg,
		stallTime:   cfg.ReadTimeout / stallShare,
		maxRuns:     max(1, min(cfg.Fetches, slabs/slabsPerRun)),
		lastWindow:  slabs * 3 / 4,
		firstWindow: min(firstWindow, slabs/2),
		infos:       make(map[string]nix.PathInfo, len(narinfos)),
		used:        make(map[string]lookedUp),
		nars:        make(map[string]*narState, len(narinfos)),
		pool:        pool{max: slabs},
		failed:      make(chan struct{}),
		runs:        make(map[*run]struct{}),
		files:       make(map[*File]struct{}),
		static: map[string][]byte{
			cacheInfoName: []byte("StoreDir: " + nix.StoreDir + "\nWantMassQuery: 1\nPriority: " + strconv.Itoa(priority) + "\n"),
		},
	}
	if cfg.SigningKey != "" {
		key, err := nix.ParsePublicKey(cfg.SigningKey)
		if err != nil {
			return nil, err
		}
		v.keys = []nix.PublicKey{key}
	}
	for _, text := range cfg.Realisations {
		name, err := realisationName(text)
		if err != nil {
			return nil, err
		}
		v.static[name] = []byte(text)
	}
	v.ctx, v.cancel = context.WithCancel(context.Background())
	if err := v.Add(narinfos); err != nil {
		v.cancel()
		return nil, err
	}
	return v, nil
}

// Add makes further paths visible. It fails as NewView does; then paths before
// the failing one may have been added.
func (v *View) Add(narinfos []string) error {
	infos, err := parseNarInfos(narinfos, v.keys)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.add(infos)
}

// AddInfos makes further paths visible and returns at once. Until wait returns,
// which it does when all have been verified, no NAR is shown, and none ever if its
// error is not nil, which is Add's. Call it once, before anybody looks.
func (v *View) AddInfos(infos []nix.PathInfo) (wait func() error) {
	done := make(chan struct{})
	v.mu.Lock()
	defer v.mu.Unlock()
	v.verified = done
	v.unfit = v.add(infos)
	v.wg.Go(func() {
		defer close(done)
		if err := verifyInfos(infos, v.keys); err != nil {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.unfit = err
		}
	})
	return func() error {
		<-done
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.unfit
	}
}

// fit waits until NARs may be shown, or tells why they may not.
func (v *View) fit(ctx context.Context) error {
	v.mu.Lock()
	done := v.verified
	v.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	case <-v.ctx.Done():
		return fs.ErrClosed
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.unfit
}

// RunAhead starts to fetch the NARs of paths, nil for all, in the order in
// which `nix copy` reads them, as far ahead of the reader as the budget allows.
// It returns at once. Paths that the View does not have are ignored. Call it
// right before the import, with what the importing store lacks.
func (v *View) RunAhead(paths []nix.Path) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	if paths == nil {
		paths = v.paths
	}
	v.reorder(paths)
	if v.main != nil {
		v.stop(v.main)
		v.main = nil
	}
	if v.expected > 0 {
		v.start(true, v.order[0], 0)
	}
}

// Infos returns what is known of the paths, in the order in which they were
// added. Those that were looked up are not among them.
func (v *View) Infos() []nix.PathInfo {
	v.mu.Lock()
	defer v.mu.Unlock()
	infos := make([]nix.PathInfo, len(v.paths))
	for i, p := range v.paths {
		infos[i] = v.infos[p.Hash()]
	}
	return infos
}

// Info returns what is known of a path.
func (v *View) Info(p nix.Path) (nix.PathInfo, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	info, ok := v.infos[p.Hash()]
	return info, ok && info.Path == p
}

// Stats returns what was done so far.
func (v *View) Stats() Stats {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.stats
	s.Buffers = int64(len(v.pool.all)) * slabSize
	return s
}

// Err returns why a NAR could not be read, the first time that happened. Nix
// only sees an input/output error.
func (v *View) Err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// Failed is closed when a NAR could not be read: Err tells why.
func (v *View) Failed() <-chan struct{} { return v.failed }

// Close fails all reads that wait, and all later ones, with fs.ErrClosed; it
// returns when nothing of the View runs any more.
func (v *View) Close() error {
	v.mu.Lock()
	v.closed = true
	for _, w := range v.waiters {
		w.fail(fs.ErrClosed)
	}
	v.mu.Unlock()
	v.cancel()
	v.wg.Wait()
	return nil
}

// Open implements [fs.FS]. A NAR is opened as a [*File]; nothing is fetched
// before it is read.
func (v *View) Open(name string) (fs.File, error) {
	return v.open(context.Background(), name)
}

// OpenFile opens a file of the View, not a directory. Only a build log makes it
// wait, and a narinfo that is looked up, for as long as ctx lasts.
func (v *View) OpenFile(ctx context.Context, name string) (*File, error) {
	f, err := v.open(ctx, name)
	if err != nil {
		return nil, err
	}
	file, ok := f.(*File)
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("is a directory")}
	}
	return file, nil
}

func (v *View) open(ctx context.Context, name string) (fs.File, error) {
	info, err := v.stat(ctx, "open", name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		list, err := v.ReadDir(name)
		return &dir{info: info, list: list}, err
	}
	if drv, ok := strings.CutPrefix(name, logDir+"/"); ok {
		v.logs.drop(drv)
	}
	f := &File{view: v, info: info}
	v.mu.Lock()
	defer v.mu.Unlock()
	if info.nar != nil {
		f.nar = info.nar
		f.nar.err = nil
		f.nar.files = append(f.nar.files, f)
		v.files[f] = struct{}{}
	} else {
		f.data = info.data
	}
	return f, nil
}

// Stat implements [fs.StatFS].
func (v *View) Stat(name string) (fs.FileInfo, error) {
	return v.StatContext(context.Background(), name)
}

// StatContext is Stat that stops waiting, which it does for a build log and for a
// narinfo that is looked up, when ctx is done.
func (v *View) StatContext(ctx context.Context, name string) (fs.FileInfo, error) {
	info, err := v.stat(ctx, "stat", name)
	if err != nil {
		return nil, err
	}
	return info, nil
}

func (v *View) stat(ctx context.Context, op, name string) (*fileInfo, error) {
	fail := func(err error) (*fileInfo, error) {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	if !fs.ValidPath(name) {
		return fail(fs.ErrInvalid)
	}
	if name == "." || slices.Contains(dirs, name) {
		return &fileInfo{name: path.Base(name), mode: fs.ModeDir | 0o555}, nil
	}
	if drv, ok := strings.CutPrefix(name, logDir+"/"); ok {
		text, err := v.log(ctx, drv)
		if err != nil {
			return fail(err)
		}
		return dataInfo(name, text), nil
	}
	base, isNar := strings.CutPrefix(name, narDir+"/")
	var err error
	if isNar {
		err = v.fit(ctx)
	} else if hash, ok := strings.CutSuffix(name, narInfoSuffix); ok && v.cfg.Lookup != nil {
		err = v.lookup(ctx, hash)
	}
	if err != nil {
		return fail(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return fail(fs.ErrClosed)
	}
	if data, ok := v.static[name]; ok {
		return dataInfo(name, data), nil
	}
	if hash, ok := strings.CutSuffix(name, narInfoSuffix); ok {
		if info, ok := v.infos[hash]; ok {
			return dataInfo(name, info.MarshalNarInfo()), nil
		}
	}
	if isNar {
		hash, _ := strings.CutSuffix(base, ".nar")
		if n, ok := v.nars[hash]; ok && n.name == name {
			return &fileInfo{name: base, size: n.size, mode: 0o444, nar: n}, nil
		}
	}
	return fail(fs.ErrNotExist)
}

// ReadDir implements [fs.ReadDirFS]. The log directory appears empty.
func (v *View) ReadDir(name string) ([]fs.DirEntry, error) {
	info, err := v.stat(context.Background(), "readdir", name)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	if err != nil {
		return nil, err
	}
	var list []fs.DirEntry
	add := func(name string, mode fs.FileMode) {
		list = append(list, dirEntry{v, name, mode})
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if name == "." {
		for _, d := range dirs {
			add(d, fs.ModeDir)
		}
		for hash := range v.infos {
			add(hash+narInfoSuffix, 0)
		}
	}
	if name == narDir {
		for _, n := range v.order {
			add(n.name, 0)
		}
	}
	for file := range v.static {
		if path.Dir(file) == name {
			add(file, 0)
		}
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}
