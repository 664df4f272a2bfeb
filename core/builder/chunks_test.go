package builder_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// manifestsOf asks for manifests; nil for those that are unavailable.
func manifestsOf(t *testing.T, c *bt.Client, nars map[string]int64) map[string]*chunk.Manifest {
	t.Helper()
	var req wire.ManifestsRequest
	for hash := range nars {
		req.Nars = append(req.Nars, hash)
	}
	body, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(bytes.NewReader(fetch(t, c, http.MethodPost, wire.RouteManifests, body)))
	got := make(map[string]*chunk.Manifest)
	for _, hash := range req.Nars {
		status, err := br.ReadByte()
		if err != nil {
			t.Fatal(err)
		}
		if status == wire.ManifestUnavailable {
			continue
		}
		if got[hash], err = chunk.ReadManifest(br, nars[hash]); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

// narOf puts a NAR together from its chunks; nil when one is unavailable.
func narOf(t *testing.T, c *bt.Client, hash string, m *chunk.Manifest) []byte {
	t.Helper()
	body, err := json.Marshal(wire.ChunksRequest{Nars: []wire.NarChunks{{NarHash: hash, Chunks: []wire.ChunkRange{{0, uint32(len(m.Chunks))}}}}})
	if err != nil {
		t.Fatal(err)
	}
	r := chunk.NewFrameReader(bytes.NewReader(fetch(t, c, http.MethodPost, wire.RouteChunks, body)))
	data := make([]byte, 0, m.Size)
	for i, ch := range m.Chunks {
		p, err := r.Next(nil, ch.Size)
		if errors.Is(err, chunk.ErrUnavailable) {
			return nil
		}
		if err != nil || chunk.Sum(p) != ch.ID {
			t.Fatalf("chunk %d: %v", i, err)
		}
		m.Unmask(i, p)
		data = append(data, p...)
	}
	return data
}

func TestChunksOfABuild(t *testing.T) {
	e := start(t, func(c *builder.Config) {
		c.Clients = map[key.ID]builder.TrustedClient{{71}: {Name: "store", Cache: builder.CacheStore}}
	})
	text := "mine"
	e.store.Contents = func(name string) string { return strings.Repeat("output of "+name+", "+text+"\n", 20_000) }
	c, other := e.holder(1), e.holder(2)
	r := e.build(c, 1, small("x")...)
	if r.Error != nil {
		t.Fatal(r.Error)
	}
	text = "another's"
	if r := e.build(other, 2, small("y")...); r.Error != nil {
		t.Fatal(r.Error)
	}
	closure := func(c *bt.Client, id uint32) (hash string, size int64) {
		t.Helper()
		var cl wire.Closure
		if err := c.JSON(http.MethodGet, "/v1/cache/closure?build="+string(bt.ID(id)), nil, &cl); err != nil {
			t.Fatal(err)
		}
		info, err := nix.ParseNarInfo([]byte(cl.NarInfos[len(cl.NarInfos)-1]))
		if err != nil {
			t.Fatal(err)
		}
		return info.NarHash.Nix32(), int64(info.NarSize)
	}
	hash, size := closure(c, 1)
	m := manifestsOf(t, c, map[string]int64{hash: size})[hash]
	if m == nil || nix.SumHash(narOf(t, c, hash, m)).Nix32() != hash {
		t.Fatal("it is not what was built")
	}
	// What somebody else built is not there, as far as this client can tell, and
	// neither is what nobody built.
	theirs, theirSize := closure(other, 2)
	some := &chunk.Manifest{Chunks: make([]chunk.Chunk, 1)}
	nobody := strings.Repeat("0", 52)
	for _, h := range []string{theirs, nobody, "", "../../etc/passwd"} {
		if m := manifestsOf(t, c, map[string]int64{h: theirSize})[h]; m != nil {
			t.Errorf("%q can be had", h)
		}
		if data := narOf(t, c, h, some); data != nil {
			t.Errorf("chunks of %q can be had", h)
		}
	}
	// A client with the whole store gets what it was told the narinfo of.
	all := &bt.Client{Server: e.server, ID: key.ID{71}}
	if m := manifestsOf(t, all, map[string]int64{hash: size})[hash]; m != nil {
		t.Error("a NAR can be had that nobody asked the narinfo of")
	}
	b, err := c.Get(bt.ID(1))
	if err != nil {
		t.Fatal(err)
	}
	path := b.Result.Outputs[0].Path
	fetch(t, all, http.MethodGet, "/v1/cache/narinfo/"+path[len("/nix/store/"):][:32], nil)
	if m := manifestsOf(t, all, map[string]int64{hash: size})[hash]; m == nil || nix.SumHash(narOf(t, all, hash, m)).Nix32() != hash {
		t.Error("it is not what was built")
	}
}

// endless is a meter that takes until a channel is closed to hear of a build's end.
type endless chan struct{}

func (endless) Answered(*http.Request, builder.Answer) {}
func (e endless) Ended(*builder.BuildRecord)           { <-e }
func (endless) Began(string)                           {}
func (endless) Offered(uint64)                         {}

// What was built can be had as soon as the client is told that it is, whatever the
// builder still has to do.
func TestChunksAtOnce(t *testing.T) {
	rest := make(endless)
	e := start(t, func(c *builder.Config) { c.Meter = rest })
	c := e.holder(1)
	if r := e.build(c, 1, small("x")...); r.Error != nil {
		t.Fatal(r.Error)
	}
	defer close(rest)
	var cl wire.Closure
	if err := c.JSON(http.MethodGet, "/v1/cache/closure?build="+string(bt.ID(1)), nil, &cl); err != nil {
		t.Fatal(err)
	}
	info, err := nix.ParseNarInfo([]byte(cl.NarInfos[len(cl.NarInfos)-1]))
	if err != nil {
		t.Fatal(err)
	}
	hash := info.NarHash.Nix32()
	if m := manifestsOf(t, c, map[string]int64{hash: int64(info.NarSize)})[hash]; m == nil {
		t.Error("it cannot be had")
	}
}

func TestChunksRequests(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	if r := e.build(c, 1, small("x")...); r.Error != nil {
		t.Fatal(r.Error)
	}
	hash := strings.Repeat("0", 52)
	many := func(n int, one string) string { return "[" + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + "]" }
	for name, tt := range map[string]struct {
		route, body string
		code        wire.Code
		size        int // of the answer
	}{
		"no manifests":       {wire.RouteManifests, `{"nars":[]}`, "", 0},
		"duplicate":          {wire.RouteManifests, `{"nars":["` + hash + `","` + hash + `"]}`, "", 2},
		"most manifests":     {wire.RouteManifests, `{"nars":` + many(wire.MaxNarsRequest, `""`) + `}`, "", wire.MaxNarsRequest},
		"too many manifests": {wire.RouteManifests, `{"nars":` + many(wire.MaxNarsRequest+1, `""`) + `}`, wire.CodeTooLarge, 0},
		"manifests document": {wire.RouteManifests, `{"nars":["` + strings.Repeat("x", wire.MaxDocument) + `"]}`, wire.CodeTooLarge, 0},
		"no document":        {wire.RouteManifests, `[`, wire.CodeBadRequest, 0},
		"no chunks":          {wire.RouteChunks, `{}`, "", 0},
		"no ranges":          {wire.RouteChunks, `{"nars":[{"nar_hash":"` + hash + `"}]}`, wire.CodeBadRequest, 0},
		"empty range":        {wire.RouteChunks, `{"nars":[{"nar_hash":"` + hash + `","chunks":[[1,0]]}]}`, wire.CodeBadRequest, 0},
		"half a range":       {wire.RouteChunks, `{"nars":[{"nar_hash":"` + hash + `","chunks":[[1]]}]}`, wire.CodeBadRequest, 0},
		"negative":           {wire.RouteChunks, `{"nars":[{"nar_hash":"` + hash + `","chunks":[[-1,1]]}]}`, wire.CodeBadRequest, 0},
		"beyond uint32":      {wire.RouteChunks, `{"nars":[{"nar_hash":"` + hash + `","chunks":[[4294967296,1]]}]}`, wire.CodeBadRequest, 0},
		"goodput":            {wire.RouteChunks, `{"goodput":-1}`, wire.CodeBadRequest, 0},
		"unavailable":        {wire.RouteChunks, `{"nars":[{"nar_hash":"` + hash + `","chunks":[[7,3],[0,1]]},{"nar_hash":"x","chunks":[[4294967295,2]]}]}`, "", 6 * 4},
		"most chunks":        {wire.RouteChunks, `{"nars":[{"nar_hash":"` + hash + `","chunks":[[0,4096]]}]}`, "", 4096 * 4},
		"too many chunks":    {wire.RouteChunks, `{"nars":[{"nar_hash":"` + hash + `","chunks":[[0,4097]]}]}`, wire.CodeTooLarge, 0},
		"far too many":       {wire.RouteChunks, `{"nars":[{"nar_hash":"","chunks":` + many(1000, `[0,4294967295]`) + `}]}`, wire.CodeTooLarge, 0},
	} {
		resp, err := c.Do(http.MethodPost, tt.route, strings.NewReader(tt.body))
		if tt.code != "" {
			t.Run(name, func(t *testing.T) { wantCode(t, err, tt.code) })
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || len(data) != tt.size {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
	}
}
