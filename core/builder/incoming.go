package builder

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/zeebo/blake3"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// maxUnits and unitsShare bound the chunks of manifests that are held in
	// memory, some 50 bytes each, in all and for each ticket or trusted client.
	// A manifest counts for intakeUnits beside its chunks, which bounds their
	// number.
	maxUnits    = 4 << 20
	unitsShare  = wire.MaxInputChunks + chunk.MaxSubsts/substsPerUnit + wire.MaxReferences + 64*intakeUnits
	intakeUnits = 256
	// spoolShare bounds what a ticket or trusted client may have here of inputs
	// that are not complete, as their NAR sizes.
	spoolShare = 64 << 30
	// manifestsShare and manifestBytesShare bound the manifests that are kept for
	// it.
	manifestsShare     = 512
	manifestBytesShare = 128 << 20
	// fills is how many NARs are put together from what is here at once, in all and
	// for each ticket or trusted client.
	fills      = 4
	fillsShare = fills - 1
)

// incoming holds the large inputs that arrive in chunks, and the manifests of
// those that did. On the disk there is a directory for each client and ticket,
// and in it for each path, by its base name:
//
//	.manifest  NAR hash, space, NAR size, line feed, the manifest as it was sent
//	.spool     the NAR, with holes where chunks are missing
//	.have      ordinals of the chunks that were written, 4 bytes each
//	.taken     what .manifest becomes when the path was verified and taken
//
// The first three are there until then; the chunks of a .taken one are read from
// the store. Nothing that is read from the disk is believed: chunks are compared
// with their IDs. But that a chunk is of no news to its sender rests on .taken and
// .have, which say what was sent.
type incoming struct {
	dir string
	now func() time.Time
	// reserve promises space on the disk.
	reserve func(uint64) (*promise, error)
	units   budget
	work    turnstile // of fills
	// disk is held while files are looked for, made and removed.
	disk sync.Mutex

	mu   sync.Mutex
	open map[string]*intake // by the common name of its files
}

const (
	endManifest = ".manifest"
	endSpool    = ".spool"
	endHave     = ".have"
	endTaken    = ".taken"
)

// newPrefix begins the names of manifests that are being received.
const newPrefix = ".new-"

func newIncoming(dir string, cfg *Config, reserve func(uint64) (*promise, error)) (*incoming, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of inputs: %w", err)
	}
	// What an earlier process was just being sent.
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read directory of inputs: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), newPrefix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("remove what an earlier run left: %w", err)
			}
		}
	}
	return &incoming{
		dir: dir, now: cfg.Now, reserve: reserve,
		units: budget{most: maxUnits, share: unitsShare},
		work:  turnstile{budget: budget{most: fills, share: fillsShare}}, open: make(map[string]*intake),
	}, nil
}

// sender is who sends an input.
type sender struct {
	client key.ID
	ticket ticket.ID // zero for a trusted client
	group  string    // shares a budget
}

// dir is where the sender's inputs are. The ticket comes first: its holders
// share a quota, as they may make up any number of client IDs.
func (s sender) dir() string { return s.tickets() + "." + s.client.String() }

func (s sender) tickets() string {
	if s.ticket == (ticket.ID{}) {
		return "trusted"
	}
	return s.ticket.String()
}

// shares tells whether the inputs in a directory count as this sender's.
func (s sender) shares(dir string) bool {
	if s.ticket == (ticket.ID{}) {
		return dir == s.dir()
	}
	return strings.HasPrefix(dir, s.tickets()+".")
}

// knows tells whether the sender may learn what is in a directory: the same
// client or the same ticket has sent it.
func (s sender) knows(dir string) bool {
	return s.shares(dir) || strings.HasSuffix(dir, "."+s.client.String())
}

// begin takes the manifest of an input that may have begun to arrive before,
// and finds what of it is here. The caller releases what is returned.
func (in *incoming) begin(ctx context.Context, from sender, info *nix.PathInfo, body io.Reader, donors donorStore) (*intake, error) {
	a := &intake{
		in: in, from: from, info: *info, users: 1, busy: make(chan struct{}, 1),
		name: filepath.Join(in.dir, from.dir(), info.Path.Base()),
	}
	if err := a.grow(intakeUnits); err != nil {
		return nil, err
	}
	fresh, err := a.read(body)
	if err != nil {
		a.forget()
		return nil, err
	}
	defer os.Remove(fresh) // unless it has got its final name
	a.busy <- struct{}{}
	in.mu.Lock()
	if old := in.open[a.name]; old != nil && !old.isOver() {
		if old.sum != a.sum || old.info.NarHash != info.NarHash {
			in.mu.Unlock()
			a.forget()
			return nil, wire.Errorf(wire.CodeConflict, "%s arrives with another manifest already", info.Path)
		}
		old.users++
		in.mu.Unlock()
		a.forget()
		if err := old.lock(ctx); err != nil {
			old.release()
			return nil, err
		}
		defer old.unlock()
		if old.isOver() { // what it began with failed
			old.release()
			return nil, errIncomplete(info.Path)
		}
		return old, nil
	}
	in.open[a.name] = a
	in.mu.Unlock()
	err = a.prepare(fresh)
	if err == nil {
		err = in.fill(ctx, a, donors)
	}
	if err != nil {
		a.over() // who waits for it must not take it for ready
	}
	a.unlock()
	if err != nil {
		a.release()
		return nil, err
	}
	return a, nil
}

func errIncomplete(path nix.Path) *wire.Error {
	return wire.Errorf(wire.CodeInputIncomplete, "%s", path).WithHint("send its manifest again to learn which")
}

// intake is an input on its way in.
type intake struct {
	in   *incoming
	from sender
	info nix.PathInfo
	name string   // of its files, without the ending
	sum  [32]byte // of the manifest's bytes
	list *chunkList
	// busy holds one token: of who puts it together or verifies it.
	busy  chan struct{}
	users int // of in.mu

	paid  int64
	space *promise // nil for none

	mu     sync.Mutex
	have   []uint64 // a bit for each chunk
	left   int      // chunks that are missing
	isDone bool     // complete or given up
}

func (a *intake) manifest() string { return a.name + endManifest }
func (a *intake) spool() string    { return a.name + endSpool }
func (a *intake) journal() string  { return a.name + endHave }

// head is the first line of the manifest's file.
func (a *intake) head() string { return fmt.Sprintf("%s %d\n", a.info.NarHash.Nix32(), a.info.NarSize) }

// grow takes memory from the budget.
func (a *intake) grow(units int64) error {
	if !a.in.units.take(a.from.group, units) {
		return wire.Errorf(wire.CodeRate, "the builder holds too many chunks of inputs that are not complete").
			WithHint("try again in a moment, or build less at once")
	}
	a.paid += units
	return nil
}

// forget gives back what the intake holds of budgets.
func (a *intake) forget() {
	a.in.units.release(a.from.group, a.paid)
	a.paid = 0
	if a.space != nil {
		a.space.end()
	}
}

// retain begins another use.
func (a *intake) retain() {
	a.in.mu.Lock()
	defer a.in.mu.Unlock()
	a.users++
}

// release ends one use. What has arrived stays on the disk.
func (a *intake) release() {
	a.in.mu.Lock()
	a.users--
	last := a.users == 0
	if last && a.in.open[a.name] == a {
		delete(a.in.open, a.name)
	}
	a.in.mu.Unlock()
	if last {
		a.forget()
	}
}

func (a *intake) lock(ctx context.Context) error {
	select {
	case a.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (a *intake) unlock() { <-a.busy }

func (a *intake) isOver() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.isDone
}

// over lets nobody go on with it.
func (a *intake) over() {
	a.mu.Lock()
	a.isDone = true
	a.mu.Unlock()
}

// read reads the manifest and writes it to a file, whose name it returns.
func (a *intake) read(body io.Reader) (name string, err error) {
	f, err := os.CreateTemp(a.in.dir, newPrefix+"*")
	if err != nil {
		return "", fmt.Errorf("hold %s: %w", a.info.Path, err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("hold %s: %w", a.info.Path, cerr)
		}
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = io.WriteString(f, a.head()); err != nil {
		return "", fmt.Errorf("hold %s: %w", a.info.Path, err)
	}
	sum := blake3.New()
	limited := &io.LimitedReader{R: body, N: wire.MaxInputManifest}
	text := bufio.NewReader(io.TeeReader(limited, io.MultiWriter(f, sum)))
	a.list, err = readChunks(text, &a.info, a.grow)
	if err == nil {
		// Nothing may follow: the file would be another for the same list.
		if _, rerr := text.ReadByte(); !errors.Is(rerr, io.EOF) {
			err = wire.Errorf(wire.CodeInputManifest, "%s: something follows the manifest", a.info.Path)
		}
	}
	if err != nil {
		if limited.N <= 0 {
			err = wire.Errorf(wire.CodeTooLarge, "the manifest of %s has more than %d bytes", a.info.Path, wire.MaxInputManifest)
		}
		return "", err
	}
	copy(a.sum[:], sum.Sum(nil))
	a.left = len(a.list.ids)
	a.have = make([]uint64, (a.left+63)/64)
	return f.Name(), nil
}
