package client

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// What the builder has of a source is not sent, and counts as done.
func TestOnlyMissingChunksAreSent(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		large := slices.IndexFunc(r.request.Inputs.Paths, func(p nix.Path) bool { return p.Name() == "large" })
		sender := chunkSender{s: r.Session, in: r.request.Inputs}
		nar, err := r.store.OpenNar(t.Context(), r.request.Inputs.Paths[large])
		if err != nil {
			t.Fatal(err)
		}
		cut, err := sender.cut(t.Context(), large, nar)
		if err != nil {
			t.Fatal(err)
		}
		c := &coming{manifest: &cut.manifest, chunks: make([][]byte, len(cut.manifest.Chunks))}
		for i, k := range cut.manifest.Chunks {
			if i%10 == 0 {
				continue
			}
			c.chunks[i] = make([]byte, k.Size)
			if _, err := nar.ReadAt(c.chunks[i], k.Offset); err != nil {
				t.Fatal(err)
			}
			cut.manifest.Mask(i, c.chunks[i])
		}
		r.builder.coming[large] = c
		r.mustBuild(t)
		if r.builder.wasted > 0 || r.wire.count("PUT chunks") != 1 {
			t.Errorf("%d chunks were sent in vain, with %d requests", r.builder.wasted, r.wire.count("PUT chunks"))
		}
		if sent, all := r.Sent(), int64(r.request.Inputs.Bytes); sent != r.wire.carried.Load() || sent == 0 || sent > all/2 {
			t.Errorf("%d bytes are said to have been sent, %d arrived, of inputs of %d", sent, r.wire.carried.Load(), all)
		}
		if r.seen.last.Done != r.seen.last.Total {
			t.Errorf("progress ended at %+v", r.seen.last)
		}
	})
}

// Sources of some size travel side by side, with references before referrers.
func TestManyLargeSources(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var srcs []nix.Path
		for i := range 30 {
			contents := noise(300<<10 + i*1000)
			if i > 0 {
				copy(contents, srcs[i-1])
			}
			p := r.store.source(fmt.Sprint("src", i), contents)
			if i > 0 {
				r.store.refs[p] = []nix.Path{srcs[i-1]}
			}
			srcs = append(srcs, p)
		}
		top := r.store.drv("many", nil, srcs...)
		in, err := Collect(t.Context(), r.store, r.store, []nix.Path{top})
		if err != nil {
			t.Fatal(err)
		}
		r.request.Inputs = in
		r.request.Roots = []wire.Root{{Drv: string(top), Outputs: []string{"out"}}}
		r.mustBuild(t)
	})
}

// A source of several requests, each of which is lost once on its way.
func TestRequestsAreLost(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		src := r.store.source("several", noise(3*requestBytes))
		top := r.store.drv("one", nil, src)
		in, err := Collect(t.Context(), r.store, r.store, []nix.Path{top})
		if err != nil {
			t.Fatal(err)
		}
		r.request.Inputs = in
		r.request.Roots = []wire.Root{{Drv: string(top), Outputs: []string{"out"}}}
		r.wire.cut = func(kind string, n int) *cut {
			if kind == "PUT chunks" && n <= 4 {
				return &cut{sendBytes: requestBytes / 2}
			}
			return nil
		}
		r.mustBuild(t)
		if r.builder.wasted > 0 {
			t.Errorf("%d chunks were sent again", r.builder.wasted)
		}
	})
}

// Another build of this client ends a source while this one sends it: the builder
// has to be told of it again, and lacks nothing then.
func TestAnotherBuildEndsTheSource(t *testing.T) {
	for _, when := range []string{"PUT manifest", "PUT chunks", "POST input"} {
		t.Run(when, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				var ended atomic.Bool
				r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
					if kind(req) != when || ended.Swap(true) {
						return false
					}
					_, _ = io.Copy(io.Discard, req.Body)
					wire.WriteError(w, wire.CodeInputIncomplete.Err())
					return true
				}
				r.mustBuild(t)
				if !ended.Load() {
					t.Error("it was not asked")
				}
			})
		})
	}
}

// What was sent over a connection that was lost may be taken after the builder has
// said what it lacks, and is not asked for when it comes again.
func TestTakenSinceTheBuilderWasAsked(t *testing.T) {
	for _, when := range []string{"PUT inputs", "POST input"} {
		inBubble(t, func(t *testing.T, r *rig) {
			var again atomic.Bool
			r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
				if kind(req) != when || again.Swap(true) {
					return false
				}
				r.builder.ServeHTTP(httptest.NewRecorder(), req)
				wire.WriteError(w, wire.CodeInputUnasked.Err())
				return true
			}
			r.mustBuild(t)
			if !again.Load() {
				t.Errorf("%s was not asked", when)
			}
		})
	}
	inBubble(t, func(t *testing.T, r *rig) {
		r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
			if kind(req) != "PUT inputs" {
				return false
			}
			_, _ = io.Copy(io.Discard, req.Body)
			wire.WriteError(w, wire.CodeInputUnasked.Err())
			return true
		}
		if _, err := r.build(t); wire.CodeOf(err) != wire.CodeInputUnasked {
			t.Errorf("error %v", err)
		}
		if n := r.wire.count("PUT inputs"); n != maxStuck {
			t.Errorf("sent %d times", n)
		}
	})
}

// What a lost connection had carried may be being added when the builder is asked what it
// lacks, and be wanted again after that because it could not be.
func TestAddingFailsAfterTheConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var lost atomic.Bool
		var asked atomic.Int64
		r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
			switch k := kind(req); {
			case k == "PUT inputs" && !lost.Swap(true):
				_, _ = io.Copy(io.Discard, req.Body)
				wire.WriteError(w, wire.Errorf(wire.CodeRate, "as good as lost"))
				return true
			case k == "GET build" && asked.Load() < 3:
				asked.Add(1)
				answer(w, wire.Build{ID: testID, State: wire.StateUploading})
				return true
			}
			return false
		}
		r.mustBuild(t)
		if n := asked.Load(); n != 3 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestRequestsAreBounded(t *testing.T) {
	var chunks []chunk.Chunk
	for i := range 1000 {
		chunks = append(chunks, chunk.Chunk{Size: uint32(chunk.MinSize + i*97%(chunk.MaxSize-chunk.MinSize))})
	}
	next := 0
	for _, one := range requests(chunks, [][2]int{{0, 400}, {400, 600}}) {
		size := 0
		for _, i := range one {
			if i != next {
				t.Fatalf("chunk %d follows %d", i, next)
			}
			next++
			size += int(chunks[i].Size)
		}
		if size > requestBytes || size == 0 || size > wire.MaxInputChunkBytes {
			t.Errorf("a request of %d bytes", size)
		}
	}
	if next != 1000 {
		t.Errorf("%d chunks are sent", next)
	}
}

// A source that changes while it is sent is noticed here.
func TestSourceChangesWhileItIsSent(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.wire.cut = func(kind string, n int) *cut {
			if kind == "PUT chunks" && n == 1 {
				for p, contents := range r.store.files {
					if p.Name() == "large" {
						changed := slices.Clone(contents)
						changed[len(changed)/2] ^= 1
						r.store.files[p] = changed
					}
				}
				return &cut{refuse: true}
			}
			return nil
		}
		_, err := r.build(t)
		if !errors.Is(err, errChanged) || !strings.Contains(err.Error(), "large") {
			t.Errorf("error %v", err)
		}
	})
}

// FuzzMissingChunks: whatever a builder asks for, it is rising ranges of chunks
// that there are.
func FuzzMissingChunks(f *testing.F) {
	f.Add(`{"missing":[[0,2],[5,3]]}`)
	f.Add(`{}`)
	f.Add(`{"missing":[[0,9],[8,1]]}`)
	f.Add(`{"missing":[[-1,2]]}`)
	f.Add(`{"missing":[[1,9223372036854775807]]}`)
	f.Fuzz(func(t *testing.T, text string) {
		tr := &transport{handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })}
		api := &API{Control: tr, Bulk: tr, Base: "https://builder/"}
		missing, err := api.PutManifest(t.Context(), testID, 0, nil, 8)
		if err != nil {
			return
		}
		next := 0
		for _, r := range missing {
			if r[0] < next || r[1] < 1 || r[0]+r[1] > 8 {
				t.Errorf("accepted %v", missing)
			}
			next = r[0] + r[1]
		}
	})
}
