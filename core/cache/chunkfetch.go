package cache

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/wire"
)

// ChunkStore keeps chunks from one session to the next (*pack.Store). It must be
// safe for concurrent use.
type ChunkStore interface {
	Has(id chunk.ID) bool
	// Get returns a chunk, in dst if it has the room. It has been verified.
	Get(id chunk.ID, dst []byte) ([]byte, bool)
	// Locate tells which file has a chunk of that size, if one has, and where. It has not been
	// verified there, and the file may be closed at any time.
	Locate(id chunk.ID, size int) (file *os.File, off int64)
	// Put takes a chunk in; it copies or writes it before it returns.
	Put(id chunk.ID, masked []byte) error
}

// ChunkConfig says where a [ChunkFetcher] gets chunks from.
type ChunkConfig struct {
	// Transport carries the requests: the bulk lane of a session. Each is
	// short, so that the next can take another path. nil: there is nobody to ask.
	Transport http.RoundTripper
	// Header is sent with every request: credentials, agent. May be nil.
	Header http.Header
	// Base is the URL before the routes; "" means https://builder.
	Base string
	// Store, if set, is asked before the builder, and gets what came from it.
	Store ChunkStore
	// Seeds, if set, finds local data that may have the same chunks. They are
	// used when the link is slower than looking through them.
	Seeds SeedFinder
	// Warn, if set, is told the first time that the chunk store takes nothing.
	Warn func(text string)
	// Now tells the time, for measuring the link; nil leaves it unmeasured.
	Now func() time.Time
}

const (
	// blockSize is the memory of one job, and the most that one request asks
	// for: below what the protocol allows, so that a window is several requests,
	// and one that is lost costs little.
	blockSize = 2 << 20
	// maxBlocks bounds that memory: 16 MiB under way, and some that waits for
	// the reader or for the chunk store.
	maxBlocks = 12
	// maxBehind bounds what the chunk store may have beyond that before it goes
	// without: what it does not get is fetched again next time, so a hiccup of
	// its disk should cost nothing.
	maxBehind = 20
	// blockChunks bounds the chunks of a request.
	blockChunks = 2048
	// maxLocalJobs is how many jobs read the chunk store at once: enough for
	// both cores of a small machine.
	maxLocalJobs = 3
	// localJob is what one of them reads.
	localJob = 512 << 10
	// maxAhead bounds what is planned ahead of the reader.
	maxAhead = 24 << 20
)

// ChunkFetcher is a [Fetcher] that gets NARs as chunks: each from the chunk
// store or another local source if it is there, from the builder otherwise, and
// no more than once. Every chunk is verified before anybody sees it. What came
// over the wire goes into the chunk store in the background.
type ChunkFetcher struct {
	cfg    ChunkConfig
	http   httpClient
	pace   goodput
	seeds  *seeds
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	received  uint64
	manifests map[string]*gotManifest // by NAR hash
	entries   int                     // chunks of all manifests
	clock     uint64
	strikes   map[string]int // NARs whose chunks were not what was promised, and how often

	blocks   int // in use or free
	free     []*chunkBlock
	spare    []*chunkBlock // what the chunk store had beyond; memory, not room
	index    map[chunk.ID]chunkPlace
	inflight int // bytes that the wire owes

	puts     []*chunkBlock
	putting  bool
	warned   bool
	filling  int // blocks, whose chunks may be read before they are kept
	putsDone *sync.Cond
}

var (
	_ Fetcher      = (*ChunkFetcher)(nil)
	_ LogFetcher   = (*ChunkFetcher)(nil)
	_ PieceFetcher = (*ChunkFetcher)(nil)
)

// NewChunkFetcher makes a ChunkFetcher. It must be closed.
func NewChunkFetcher(cfg ChunkConfig) *ChunkFetcher {
	f := &ChunkFetcher{
		cfg:       cfg,
		http:      httpClient{transport: cfg.Transport, header: cfg.Header, base: cfg.Base},
		pace:      goodput{now: cfg.Now},
		manifests: make(map[string]*gotManifest),
		strikes:   make(map[string]int),
		index:     make(map[chunk.ID]chunkPlace),
	}
	f.putsDone = sync.NewCond(&f.mu)
	f.ctx, f.cancel = context.WithCancel(context.Background())
	if cfg.Seeds != nil {
		f.seeds = newSeeds(f.ctx, &f.wg, cfg.Seeds)
	}
	return f
}

// Received is how many bytes the builder has sent: manifests, chunks as they
// were on the wire.
func (f *ChunkFetcher) Received() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.received
}

// Flush waits until the chunk store has what came over the wire, or ctx is done.
func (f *ChunkFetcher) Flush(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.putsDone.Broadcast()
	})
	defer stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	for (f.filling > 0 || f.putting) && ctx.Err() == nil {
		f.putsDone.Wait()
	}
}

// Close ends everything that is under way. What waits to be put into the chunk
// store is not put there any more.
func (f *ChunkFetcher) Close() error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	f.wg.Wait()
	if f.seeds != nil {
		f.seeds.close()
	}
	return nil
}

// Fetch implements [Fetcher]. Nothing has been asked for yet when it returns.
func (f *ChunkFetcher) Fetch(ctx context.Context, ranges []NarRange) (Stream, error) {
	if len(ranges) > wire.MaxNarsRequest {
		return nil, Permanent(fmt.Errorf("more than %d NARs in one request", wire.MaxNarsRequest))
	}
	s := &chunkStream{
		f: f, ranges: ranges, cur: -1, first: -1,
		mans: make([]*gotManifest, len(ranges)),
		wake: make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	// Whoever waits for the stream sees the fetcher's end, too.
	s.stop = context.AfterFunc(f.ctx, s.cancel)
	f.mu.Lock()
	defer f.mu.Unlock()
	s.plan()
	return s, nil
}

// sourceOf says which kind of job a chunk is for.
func (f *ChunkFetcher) sourceOf(id chunk.ID) int {
	if f.cfg.Store != nil && f.cfg.Store.Has(id) || f.seeds.has(id) {
		return fromHere
	}
	return fromWire
}

// maxStrikes is how often a NAR may turn out not to be what was promised. After the
// first time the builder compares its chunks with their IDs, too; it finds that its
// index is wrong, says so, which is the second, and makes it anew.
const maxStrikes = 2

// strike notes that a NAR's chunks or its manifest are not what was promised: f.mu
// is held. Its manifest is forgotten and asked for once more; after maxStrikes the
// error is permanent.
func (f *ChunkFetcher) strike(m *gotManifest, err error) error {
	if !m.struck {
		m.struck = true
		f.strikes[m.hash]++
		f.forget(m)
	}
	if f.strikes[m.hash] > maxStrikes {
		return Permanent(err)
	}
	return err
}

// watchers are those to wake when something has changed.
type watchers []chan struct{}

func (w watchers) signal() {
	for _, c := range w {
		wakeUp(c)
	}
}

func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
