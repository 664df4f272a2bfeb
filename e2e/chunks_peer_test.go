//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/wire"
)

// cut is an entry's NAR in chunks.
func (e entry) cut() *buildertest.Cutting {
	return buildertest.Cut(buildertest.Object{Info: e.PathInfo, Nar: e.nar})
}

func inputPath(id wire.BuildID, index int) string {
	return fmt.Sprintf("/v1/builds/%s/inputs/%d", id, index)
}

// putManifest begins an input and returns what is missing of it.
func (p *peer) putManifest(id wire.BuildID, index int, manifest []byte) ([][2]int, answer) {
	p.t.Helper()
	a := p.ask(http.MethodPut, inputPath(id, index)+"/manifest", bytes.NewReader(manifest))
	var m wire.MissingChunks
	if a.code == "" {
		if err := json.Unmarshal(a.body, &m); err != nil {
			p.t.Fatalf("builder answered %.200q: %v", a.body, err)
		}
	}
	return m.Missing, a
}

func (p *peer) putChunks(id wire.BuildID, index int, body []byte) answer {
	p.t.Helper()
	return p.ask(http.MethodPut, inputPath(id, index)+"/chunks", bytes.NewReader(body))
}

// sendLarge sends an entry in chunks.
func (p *peer) sendLarge(id wire.BuildID, index int, e entry) answer {
	p.t.Helper()
	cut := e.cut()
	missing, a := p.putManifest(id, index, cut.Manifest)
	if a.code != "" {
		return a
	}
	for _, body := range cut.Requests(missing) {
		if a := p.putChunks(id, index, body); a.code != "" {
			return a
		}
	}
	return p.ask(http.MethodPost, inputPath(id, index), nil)
}

// send sends entries as a client does: frames, and chunks of what is large.
func (p *peer) send(id wire.BuildID, c closure, wanted ...int) (last answer) {
	p.t.Helper()
	var small []int
	flush := func() {
		if len(small) > 0 && last.code == "" {
			last = p.putInputs(id, bytes.NewReader(c.frames(small...)))
		}
		small = nil
	}
	for _, i := range wanted {
		if len(c[i].nar) < wire.ChunkedInput || c[i].Path.IsDrv() {
			small = append(small, i)
			continue
		}
		if flush(); last.code == "" {
			last = p.sendLarge(id, i, c[i])
		}
	}
	flush()
	return last
}
