package cache

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// serverTransport answers the requests of a ChunkFetcher from a Server that has one
// NAR.
type serverTransport struct {
	s       *Server
	info    nix.PathInfo
	checked atomic.Int32 // requests for chunks that were to be checked
}

func (s *serverTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	var err error
	if r.URL.Path == wire.RouteManifests {
		err = s.s.ServeManifests(r.Context(), rec, []*nix.PathInfo{&s.info}, false)
	} else {
		var req wire.ChunksRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			return nil, err
		}
		if req.Check {
			s.checked.Add(1)
		}
		a := ChunkAnswer{Goodput: 1 << 40, Check: req.Check}
		for _, n := range req.Nars {
			a.Items = append(a.Items, ChunkItem{Info: &s.info, Ranges: n.Chunks})
		}
		err = s.s.ServeChunks(r.Context(), rec, a)
	}
	return rec.Result(), err
}

// A builder does not compare what it sends with the chunks' IDs until the client has
// found one that is wrong. Then an index that lies is made anew, and a store path
// that is damaged is found out.
func TestChunkCheckedOnDemand(t *testing.T) {
	for name, c := range map[string]struct {
		spoil   func(t *testing.T, e *chunkEnv, info nix.PathInfo)
		checked bool
		want    string // in the error; "" for none
		log     string
	}{
		"sound": {spoil: func(*testing.T, *chunkEnv, nix.PathInfo) {}},
		"index lies": {spoil: func(t *testing.T, e *chunkEnv, info nix.PathInfo) {
			k := e.index.load(info)
			k.manifest.Chunks[3].ID[0] ^= 1
			if err := e.index.store(k); err != nil {
				t.Fatal(err)
			}
			e.restart()
		}, checked: true, log: "is not what it was"},
		"store damaged": {spoil: func(t *testing.T, e *chunkEnv, info nix.PathInfo) {
			flip(t, filepath.Join(e.store.file(info.Path), "noise"), 500<<10)
		}, checked: true, want: ErrUnavailable.Error(), log: "verify-path"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newChunkEnv(t)
			info := e.store.add(t, 1, map[string]string{"noise": noise(1, 1<<20)})
			n := &testNar{info: info, data: e.store.nar(t, info.Path)}
			e.whole(info, n.data)
			e.settle()
			c.spoil(t, e, info)
			tr := &serverTransport{s: e.s, info: info}
			f := NewChunkFetcher(ChunkConfig{Transport: tr})
			defer f.Close()
			v := viewOf(t, f, []*testNar{n})
			err := readNar(t, v, n)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
			v.Close()
			if (tr.checked.Load() > 0) != c.checked {
				t.Errorf("%d requests were to be checked", tr.checked.Load())
			}
			if !strings.Contains(e.logs.String(), c.log) {
				t.Errorf("the log does not say %q:\n%s", c.log, e.logs.String())
			}
		})
	}
}
