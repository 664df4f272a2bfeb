package builder

import (
	"net/http"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// maxAnswers bounds the answers of chunks, manifests and logs that are under way:
	// each has buffers of half a megabyte or somewhat more, unpacking a log 4 MB. A
	// ticket or trusted client has answerShare of them; what is beyond waits.
	maxAnswers  = 96
	answerShare = 24
	// answerStall is how long a client may take for one write of an answer, of
	// half a megabyte at most, before it is given up.
	answerStall = time.Minute
)

// answer runs one answer of the cache, once there is room for it.
func (s *Service) answer(w http.ResponseWriter, r *http.Request, c *caller, f func(http.ResponseWriter) error) error {
	group := c.group()
	if !s.answers.enter(r.Context(), group) {
		return r.Context().Err()
	}
	defer s.answers.leave(group)
	return cacheError(f(&stallWriter{w, http.NewResponseController(w)}))
}

// stallWriter gives up an answer that the client does not take. Between its
// writes an answer may take its time: a NAR is being cut.
type stallWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
}

func (s *stallWriter) Write(p []byte) (int, error) {
	defer s.deadline()()
	return s.ResponseWriter.Write(p)
}

// FlushError is what [http.ResponseController] calls.
func (s *stallWriter) FlushError() error {
	defer s.deadline()()
	return s.rc.Flush()
}

// deadline begins the time for one write, and returns what ends it.
func (s *stallWriter) deadline() (end func()) {
	_ = s.rc.SetWriteDeadline(time.Now().Add(answerStall)) // not every server has deadlines
	return func() { _ = s.rc.SetWriteDeadline(time.Time{}) }
}

func (s *stallWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *Service) postManifests(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req wire.ManifestsRequest
	done, err := s.readJSON(w, r, c, &req, wire.MaxDocument)
	if err != nil {
		return err
	}
	defer done()
	if len(req.Nars) > wire.MaxNarsRequest {
		return wire.Errorf(wire.CodeTooLarge, "%d NARs; at most %d", len(req.Nars), wire.MaxNarsRequest)
	}
	infos, err := s.nars(r.Context(), c, req.Nars)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if info != nil {
			s.cfg.Meter.Offered(info.NarSize)
		}
	}
	compress := strings.Contains(r.Header.Get("Accept-Encoding"), "zstd")
	return s.answer(w, r, c, func(w http.ResponseWriter) error {
		return s.cache.ServeManifests(r.Context(), w, infos, compress)
	})
}

func (s *Service) postChunks(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req wire.ChunksRequest
	done, err := s.readJSON(w, r, c, &req, wire.MaxDocument)
	if err != nil {
		return err
	}
	defer done()
	if err := checkChunks(&req); err != nil {
		return err
	}
	hashes := make([]string, len(req.Nars))
	for i, n := range req.Nars {
		hashes[i] = n.NarHash
	}
	infos, err := s.nars(r.Context(), c, hashes)
	if err != nil {
		return err
	}
	items := make([]cache.ChunkItem, len(req.Nars))
	for i, n := range req.Nars {
		items[i] = cache.ChunkItem{Info: infos[i], Ranges: n.Chunks}
	}
	return s.answer(w, r, c, func(w http.ResponseWriter) error {
		return s.cache.ServeChunks(r.Context(), w, cache.ChunkAnswer{
			Items: items, Client: c.client.String(), Goodput: req.Goodput, Check: req.Check,
		})
	})
}

// checkChunks counts what is asked for. It cannot overflow: a request has at most
// a million bytes, and each range counts up to 2³².
func checkChunks(req *wire.ChunksRequest) error {
	var total uint64
	for _, n := range req.Nars {
		if len(n.Chunks) == 0 {
			return badRequest("no chunks of NAR %.60q", n.NarHash)
		}
		for _, r := range n.Chunks {
			if r[1] == 0 {
				return badRequest("an empty range of chunks")
			}
			total += uint64(r[1])
		}
	}
	if total > wire.MaxChunksRequest {
		return wire.Errorf(wire.CodeTooLarge, "%d chunks; at most %d", total, wire.MaxChunksRequest)
	}
	return nil
}
