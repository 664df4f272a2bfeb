package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// What an import has brought can be imported again without the builder, as long as the
// chunk store has it: for that, what else it takes is kept there as well, in pieces
// of a chunk's size, and a small file says which. What is damaged or missing costs
// asking the builder. Signatures were verified before anything is kept; Nix checks them
// again.

const (
	// outputsDir, in the cache directory, has those files: each outputs' has one of
	// 4,096 names, which another's may take over.
	outputsDir = "outputs"
	// maxOutputsFile bounds such a file, and maxKept what it names.
	maxOutputsFile = 16 << 10
	maxKept        = 16 << 20
)

// errNotKept is why the builder has to be asked.
var errNotKept = errors.New("not all of it is in the chunk store")

// outputsFile is the JSON of a file in outputsDir.
type outputsFile struct {
	// Of says which outputs of which builder it is about.
	Of string `json:"of"`
	// Chunks are the IDs of the pieces of what is kept of them.
	Chunks []string `json:"chunks"`
}

// kept is what a builder has said of outputs that were imported. It is kept as a line
// with the signing key, the narinfos of the closure ([wire.Closure]) with an empty line
// between them, two empty lines, and the manifests of its NARs as [wire.RouteManifests]
// answers.
type kept struct {
	signingKey string
	infos      []nix.PathInfo
	manifests  []byte
}

// outputsOf names outputs of a builder in outputsFile.Of.
func outputsOf(builder key.ID, outputs []nix.Path) string {
	text := []byte(builder.String())
	for _, p := range outputs {
		text = append(append(text, '\n'), p...)
	}
	return chunk.Sum(text).String()
}

// outputsPath is where the file about outputs is.
func (a *app) outputsPath(of string) (string, error) {
	dir, err := a.cacheDir()
	if err != nil {
		return "", err
	}
	const digits = 3 // of hexadecimal
	return filepath.Join(dir, outputsDir, of[:digits]), nil
}

// beginKept begins to look for what is kept of the wanted outputs, while Nix is asked
// whether they are here; find waits for it. If they are, nobody calls that, and the chunk
// store stays open to the end of the process. find is nil where the builder has to be asked
// in any case.
func (r *buildRun) beginKept() (find func() (*kept, error)) {
	wanted := builtPaths(r.targets)
	if r.route == nil || slices.Contains(wanted, "") || r.flags.rebuild || r.flags.detach || r.flags.dryRun {
		return nil
	}
	file, err := r.readKept(wanted)
	if err != nil {
		return func() (*kept, error) { return nil, err }
	}
	chunks := r.app.openChunks(r.cacheSize, r.view.Note)
	search := sync.OnceValues(func() (*kept, error) { return file.find(chunks.store, wanted) })
	go search()
	return func() (*kept, error) {
		r.chunks = chunks
		return search()
	}
}

// importKept imports the targets' outputs without the builder, and reports whether
// that could be done. No use of a ticket is spent on what is here.
func (r *buildRun) importKept(ctx context.Context, find func() (*kept, error), userTrust func() (client.LocalTrust, error)) (bool, error) {
	in := &incoming{buildRun: r, wanted: builtPaths(r.targets), sum: &summary{began: time.Now(), path: nobody}}
	err := in.bringKept(ctx, find, userTrust)
	switch {
	case err == nil:
		return true, in.finish(ctx, r.targets, in.sum)
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	}
	r.log.Debug("the builder has to be asked", "reason", err)
	return false, nil
}

// nobody is the path of what comes from the chunk store.
func nobody() string { return "the chunk cache; nobody was asked" }

func (in *incoming) bringKept(ctx context.Context, find func() (*kept, error), userTrust func() (client.LocalTrust, error)) error {
	k, err := find()
	if err != nil {
		return err
	}
	in.kept = k
	if err := in.route.checkKey(k.signingKey); err != nil {
		return err
	}
	trust, err := userTrust()
	if err != nil {
		return err
	}
	if in.helper, err = in.app.trusted(ctx, trust, k.signingKey, in.flags.importMode, in.log); err != nil {
		return err
	}
	in.signingKey, in.trusted, in.infos = k.signingKey, trust.UserTrusted, k.infos
	way, err := in.open()
	if err != nil {
		return err
	}
	// Before this machine's substituters are asked.
	if !way.fetcher.Kept(way.known) {
		return errors.Join(errNotKept, way.shut())
	}
	return in.bringBy(ctx, way)
}

// readKept reads what names the chunks that are kept of outputs.
func (r *buildRun) readKept(wanted []nix.Path) (*outputsFile, error) {
	of := outputsOf(r.route.builder, wanted)
	path, err := r.app.outputsPath(of)
	if err != nil {
		return nil, err
	}
	text, err := readBounded(path, maxOutputsFile)
	if err != nil {
		return nil, err
	}
	var file outputsFile
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if file.Of != of || len(file.Chunks) > maxKept/chunk.MaxSize {
		return nil, errNotKept
	}
	return &file, nil
}

// find returns what a file names, if the chunk store has it.
func (f *outputsFile) find(store cache.ChunkStore, wanted []nix.Path) (*kept, error) {
	if store == nil {
		return nil, errNotKept
	}
	var doc []byte
	for _, text := range f.Chunks {
		id, err := hex.DecodeString(text)
		if err != nil || len(id) != len(chunk.ID{}) {
			return nil, fmt.Errorf("no chunk ID: %.80q", text)
		}
		var ok bool
		if doc, ok = store.Get(chunk.ID(id), doc); !ok {
			return nil, errNotKept
		}
	}
	return parseKept(doc, wanted)
}

func parseKept(doc []byte, wanted []nix.Path) (*kept, error) {
	head, manifests, _ := bytes.Cut(doc, []byte("\n\n\n"))
	signingKey, narinfos, _ := strings.Cut(string(head), "\n")
	infos, err := client.ParseClosure(&wire.Closure{NarInfos: strings.Split(narinfos, "\n\n")})
	if err != nil {
		return nil, err
	}
	return &kept{signingKey, infos, manifests}, client.CheckClosure(infos, wanted)
}

// keep keeps what importKept needs of what way has brought. Nothing depends on it.
func (in *incoming) keep(way *passage) error {
	if in.session == nil || in.chunks.store == nil || len(in.fetched) == 0 || len(in.realisations()) > 0 || !way.fetcher.Kept(in.fetched) {
		return nil
	}
	if in.kept != nil {
		// Not all that manifests are known of was fetched, and so verified, just now.
		if err := cache.VerifySigned(in.infos, in.signingKey); err != nil {
			return err
		}
	}
	doc := append([]byte(in.signingKey), '\n')
	for _, info := range in.infos {
		doc = append(append(doc, info.MarshalNarInfo()...), '\n')
	}
	doc, err := way.fetcher.AppendManifests(append(doc, '\n'), in.infos)
	if err != nil || len(doc) > maxKept {
		return err
	}
	return in.putKept(doc)
}

func (in *incoming) putKept(doc []byte) error {
	file := outputsFile{Of: outputsOf(in.route.builder, in.wanted)}
	for piece := range slices.Chunk(doc, chunk.MaxSize) {
		id := chunk.Sum(piece)
		if err := in.chunks.store.Put(id, piece); err != nil {
			return err
		}
		file.Chunks = append(file.Chunks, id.String())
	}
	text, err := json.Marshal(file)
	if err != nil {
		return err
	}
	path, err := in.app.outputsPath(file.Of)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// Half a file would be none.
	return os.WriteFile(path, text, 0o600)
}
