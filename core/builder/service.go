package builder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// CacheAccess says what a trusted client may read.
type CacheAccess string

// The kinds of access.
const (
	CacheBuilds CacheAccess = "builds" // closures of its own builds
	CacheStore  CacheAccess = "store"  // every valid path
)

// TrustedClient is a client that needs no ticket.
type TrustedClient struct {
	Name   string
	Limits ticket.Limits
	Cache  CacheAccess
	// Policy is the name of its policy in the configuration; "" is the default.
	Policy string
	// Priority puts its builds before (or, if negative, behind) those of others,
	// and tickets', which have 0.
	Priority int
}

// Config makes a Service. Fields without a stated default are required.
type Config struct {
	Identity   key.ID
	Software   string // "drv-thru 1.2.3"
	NixVersion string
	SigningKey nix.SecretKey
	Store      Store
	Records    Records
	Policy     Policy // nil allows
	// Dir is where builds keep their events and roots, below it one directory
	// each. The Nix daemon must be able to reach it.
	Dir string
	// UploadDir is where large inputs gather, and the manifests of those that
	// came are kept; by default "uploads" beside Dir.
	UploadDir string
	// Now is the wall clock.
	Now func() time.Time
	// FreeDisk returns the free bytes of the fullest disk that builds write to.
	FreeDisk func() (uint64, error)
	// DiskEvery is how often that is asked while a build may fill it, default 5 s.
	DiskEvery time.Duration
	// Peer tells who sends a request; by default the TLS identity.
	Peer func(*http.Request) (key.ID, error)
	// Trace tells for the log how a request came: pairs of names and values. Nil
	// is nothing.
	Trace func(*http.Request) []any
	Log   *slog.Logger // default: none
	// Meter is told what happens; nil for nobody.
	Meter Meter

	Tuning
	Systems  []string
	Features []string
	// CADerivations says that the daemon has the feature enabled.
	CADerivations bool
	// TrustedKeys are those of the builder's own Nix.
	TrustedKeys []nix.PublicKey
	Clients     map[key.ID]TrustedClient
	// Index keeps what is known of NARs over restarts; nil keeps it in memory.
	Index *cache.Index
	// ParallelFills is how many store paths are walked and cut at once to serve
	// their NARs, default 4.
	ParallelFills int
	MaxLog        int64 // of one build's events, default DefaultMaxLog
}

const (
	defaultKeepOutputs = 24 * time.Hour
	// DefaultKeepLogs is what the events of ended builds may take.
	DefaultKeepLogs     = 4 << 30
	defaultRecentBuilds = 20
	// maxLivePerClient and maxLive bound the builds that are not ended.
	maxLivePerClient = 128
	maxLive          = 4096
	// maxDocuments bounds the bytes of request documents that are being read at
	// once: one of the largest and many ordinary ones. A ticket or trusted
	// client has documentShare of it: one of the largest.
	maxDocuments  = documentShare + 64<<20
	documentShare = wire.MaxClosureDocument + 1<<20
	// maxDecoders bounds the compressed requests that are being read at once.
	// Each costs zstdWindow; an honest client has one or two for each build.
	maxDecoders  = 48
	decoderShare = 12
)

// Service is the builder. Make it with New, serve it as an http.Handler, stop
// it with Close.
type Service struct {
	cfg      Config
	mux      *http.ServeMux
	cache    *cache.Server
	queue    *queue
	estimate estimate
	// hashes are the NAR hashes of content-addressed paths, which cannot change
	// as long as the path's name stays.
	hashes cache.Recent[nix.Path, nix.Hash]
	// served are the paths of NAR hashes that a client with access to the whole
	// store was told.
	served    cache.Recent[nix.Hash, nix.Path]
	documents budget // bytes
	decoders  budget
	readers   budget
	unread    budget // bytes
	sessions  turnstile
	questions turnstile
	answers   turnstile
	disk      reserved
	diskTold  atomic.Int64 // when the log was told that it is full, in nanoseconds
	incoming  *incoming
	turns     turnstile // of requests with parts of large inputs
	// admissions are decided one after another where they share a counter.
	admissions turns
	indexing   turns // by builds

	ctx  context.Context // ends with Close
	stop context.CancelCauseFunc
	wg   sync.WaitGroup

	keeping sync.Mutex // held by what removes old builds

	tuned atomic.Pointer[Tuning]

	mu       sync.Mutex
	draining bool
	builds   register
	clients  map[key.ID]TrustedClient
	indexes  bounded[*index] // closures of outputs
	digests  bounded[digest]
}

// New makes a service and takes over the records of an earlier run: detached
// builds that had all their inputs are queued again, others that were under way
// become interrupted, directories without a record are removed.
func New(ctx context.Context, cfg Config) (*Service, error) {
	setDefaults(&cfg)
	s := &Service{
		cfg:       cfg,
		queue:     newQueue(cfg.Slots),
		hashes:    cache.Recent[nix.Path, nix.Hash]{Most: maxRecent},
		served:    cache.Recent[nix.Hash, nix.Path]{Most: maxRecent},
		documents: budget{most: maxDocuments, share: documentShare},
		decoders:  budget{most: maxDecoders, share: decoderShare},
		readers:   budget{most: maxAllReaders, share: readersShare},
		unread:    budget{most: maxUnread, share: unreadShare},
		sessions:  turnstile{budget: budget{most: maxInputSessions, share: inputSessionsShare}},
		questions: turnstile{budget: budget{most: maxQuestions, share: questionsShare}},
		turns:     turnstile{budget: budget{most: maxTurns, share: turnsShare}},
		answers:   turnstile{budget: budget{most: maxAnswers, share: answerShare}},
		builds:    newRegister(),
		indexes: bounded[*index]{
			most: maxIndexBytes, of: make(map[wire.BuildID]*index), size: func(x *index) int { return x.bytes },
		},
		digests: bounded[digest]{
			most: maxDigestBytes, of: make(map[wire.BuildID]digest), size: func(d digest) int { return 8 * cap(d) },
		},
	}
	s.tuned.Store(&cfg.Tuning)
	s.SetClients(cfg.Clients)
	s.cache = cache.NewServer(cache.ServerConfig{
		Infos: cfg.Store, Nars: cfg.Store, Key: cfg.SigningKey, Scans: cfg.ParallelFills,
		Index: cfg.Index, Now: cfg.Now, Log: cfg.Log,
	})
	s.ctx, s.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make builds directory: %w", err)
	}
	var err error
	if s.incoming, err = newIncoming(cfg.UploadDir, &cfg, s.reserveDisk); err != nil {
		return nil, err
	}
	resumed, err := s.recover(ctx)
	if err != nil {
		return nil, fmt.Errorf("take over earlier builds: %w", err)
	}
	s.routes()
	for _, b := range resumed {
		b.goOn()
	}
	s.wg.Add(1)
	go s.retain()
	return s, nil
}

func setDefaults(cfg *Config) {
	cfg.Tuning.setDefaults()
	if cfg.DiskEvery <= 0 {
		cfg.DiskEvery = diskEvery
	}
	if cfg.MaxLog <= 0 {
		cfg.MaxLog = DefaultMaxLog
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Meter == nil {
		cfg.Meter = noMeter{}
	}
	if cfg.Peer == nil {
		cfg.Peer = link.PeerID
	}
	cfg.Dir = filepath.Clean(cfg.Dir)
	if cfg.UploadDir == "" {
		cfg.UploadDir = filepath.Join(filepath.Dir(cfg.Dir), "uploads")
	}
}

// errShutdown is the cause of builds that end with the service: they are
// recorded as interrupted.
var errShutdown = errors.New("the builder stops")

// Drain stops taking new builds (and takes them again after Drain(false)).
func (s *Service) Drain(on bool) {
	s.mu.Lock()
	s.draining = on
	s.mu.Unlock()
}

// Pause stops giving out slots; what waits goes on waiting.
func (s *Service) Pause(on bool) { s.queue.setPaused(on) }

// SetClients replaces the trusted clients.
func (s *Service) SetClients(clients map[key.ID]TrustedClient) {
	s.mu.Lock()
	s.clients = clients
	s.mu.Unlock()
	priorities := make(map[string]int)
	for id, c := range clients {
		priorities[(&caller{client: id}).group()] = c.Priority
	}
	s.queue.setPriorities(priorities)
}

// Settle takes and begins no more builds and waits until those that run have
// ended, or ctx has. What still runs or waits is for Close.
func (s *Service) Settle(ctx context.Context) {
	s.Drain(true)
	s.Pause(true)
	for _, b := range s.live() {
		if b.record().State != wire.StateBuilding {
			continue
		}
		select {
		case <-b.done:
		case <-ctx.Done():
			return
		}
	}
}

// Close cancels what runs, which is recorded as interrupted so that clients may
// resubmit it, and waits until all has ended.
func (s *Service) Close() {
	s.Drain(true)
	s.mu.Lock() // no admission begins from here on
	s.stop(errShutdown)
	s.mu.Unlock()
	s.wg.Wait()
	// The disk may have room again since ends could not be recorded: who has made some
	// may well start the builder anew.
	for _, b := range s.past() {
		_ = s.amend(context.WithoutCancel(s.ctx), b, s.cfg.Now())
	}
	s.cache.Close()
}

// storeError wraps what the Nix daemon or store answered, if that is an error, for
// the client.
func storeError(err error) error {
	var e *wire.Error
	if err == nil || errors.As(err, &e) || cutOff(err) {
		return err
	}
	return fmt.Errorf("%w: %w", wire.Errorf(wire.CodeStore, "%s", clipText(err.Error())), err)
}

// cutOff tells whether work ended because its client had gone or the builder
// stops, which is nobody's failure.
func cutOff(err error) bool { return errors.Is(err, context.Canceled) || errors.Is(err, errShutdown) }

// clipText bounds text of the daemon that is told to a client.
func clipText(s string) string {
	const most = 2 << 10
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
