package client

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	service "github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// What a client and a builder said to each other is recorded once for each release,
// with -record=NAME, in testdata/peer-NAME.json, and never again: later ones must
// get along with both of them. (What manifests and frames of chunks look like is
// held by the vectors of package chunk.)
var record = flag.String("record", "", "record a conversation of today's client and builder as `NAME`")

// exchange is a request and its answer.
type exchange struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	// Encoding and Accept are Content-Encoding and Accept-Encoding.
	Encoding   string `json:"encoding,omitempty"`
	Accept     string `json:"accept,omitempty"`
	Request    []byte `json:"request,omitempty"`
	Status     int    `json:"status"`
	AnswerType string `json:"answer_type,omitempty"`
	// AnswerEncoding is the answer's Content-Encoding.
	AnswerEncoding string `json:"answer_encoding,omitempty"`
	Answer         []byte `json:"answer,omitempty"`
}

var frozenTime = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// frozenTicket has the only secret that the recordings know.
func frozenTicket() service.TicketRecord {
	tk := bt.Ticket(7, frozenTime)
	tk.MaxUses = 0
	return tk
}

// frozenBuilder is today's builder.
func frozenBuilder(t *testing.T) *bt.Client {
	t.Helper()
	signing, err := nix.ParseSecretKey(frozenSigning)
	if err != nil {
		t.Fatal(err)
	}
	records := bt.NewRecords()
	tk := frozenTicket()
	records.SetTicket(tk)
	svc, err := service.New(t.Context(), service.Config{
		Identity: key.ID{1}, Software: "frozen", NixVersion: "2.99", SigningKey: signing,
		Store: bt.NewStore(), Records: records, Dir: filepath.Join(t.TempDir(), "builds"), Peer: bt.Peer,
		Systems: []string{bt.System}, Now: func() time.Time { return frozenTime },
		FreeDisk: func() (uint64, error) { return 1 << 40, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	server := bt.NewServer(svc)
	t.Cleanup(func() {
		svc.Close()
		server.Close()
	})
	return &bt.Client{Server: server, ID: key.ID{2}, Secret: &tk.Secret}
}

// frozenSigning was made for this test.
var frozenSigning = func() string {
	secret, _, err := signature.GenerateKeypair("frozen-1", strings.NewReader(strings.Repeat("frozen", 32)))
	if err != nil {
		panic(err)
	}
	return secret.String()
}()

// converse has today's client do all that it does with a builder: ask, plan, send
// small and large inputs, follow, and fetch what was built.
func converse(t *testing.T, rt http.RoundTripper) {
	t.Helper()
	s := newStore()
	small := s.source("small", []byte("hello"))
	var text strings.Builder
	for i := 0; text.Len() < largeBytes; i++ {
		fmt.Fprintf(&text, "line %d of a large source that compresses well\n", i)
	}
	large := s.source("large", []byte(text.String()))
	top := s.drv("top", []nix.Path{s.drv("low", nil, small)}, large)
	secret := frozenTicket().Secret
	sess := &Session{
		API:   &API{Control: rt, Bulk: rt, Base: "https://builder/", Ticket: &secret, Agent: "frozen"},
		Files: s, Observer: &recorder{}, Retry: Retry{}, Now: time.Now,
	}
	in, err := Collect(t.Context(), s, s, []nix.Path{top})
	if err != nil {
		t.Fatal(err)
	}
	info, err := sess.API.Info(t.Context(), "")
	if err != nil || info.Ticket == nil || info.Systems[0] != bt.System {
		t.Fatalf("info %+v, %v", info, err)
	}
	roots := []wire.Root{{Drv: string(top), Outputs: []string{"out"}, Label: "frozen"}}
	if plan, err := sess.API.Plan(t.Context(), &wire.PlanRequest{Roots: roots, Closure: in.Wire}); err != nil || len(plan.Wanted) != len(in.Paths) {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	res, err := sess.Build(t.Context(), &Request{ID: testID, Roots: roots, Inputs: in, KeepGoing: true})
	if err != nil || res.Error != nil || len(res.Outputs) != 1 {
		t.Fatalf("result %+v, %v", res, err)
	}
	closure, err := sess.Closure(t.Context(), testID)
	if err != nil {
		t.Fatal(err)
	}
	f := cache.NewChunkFetcher(cache.ChunkConfig{Transport: rt, Header: sess.API.Header(), Base: "https://builder", Now: time.Now})
	defer f.Close()
	view, err := cache.NewView(closure.NarInfos, cache.ViewConfig{Fetcher: f, SigningKey: info.SigningKey})
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	for _, info := range view.Infos() {
		nar, err := view.Open("nar/" + info.NarHash.Nix32() + ".nar")
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(nar)
		if err != nil || uint64(len(data)) != info.NarSize || nix.SumHash(data) != info.NarHash {
			t.Errorf("%s: %d bytes, %v", info.Path, len(data), err)
		}
		if err := nar.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := sess.API.Cancel(t.Context(), testID); err != nil {
		t.Error(err)
	}
	// One that is refused.
	if _, err := sess.API.Info(t.Context(), "bbbbbbbbbbbbbbbbbbbbbbbbbb"); wire.CodeOf(err) != wire.CodeNotFound {
		t.Errorf("a build that nobody made: %v", err)
	}
}

// recording carries requests to a builder and keeps them.
type recording struct {
	to *bt.Client

	mu  sync.Mutex
	all []*exchange
}

func (r *recording) RoundTrip(req *http.Request) (*http.Response, error) {
	x := &exchange{Method: req.Method, Path: req.URL.RequestURI(), Encoding: req.Header.Get("Content-Encoding"), Accept: req.Header.Get("Accept-Encoding")}
	if req.Body != nil {
		var err error
		if x.Request, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	r.all = append(r.all, x)
	r.mu.Unlock()
	resp, err := r.to.Raw(x.Method, x.Path, bytes.NewReader(x.Request), x.header())
	if err != nil {
		return nil, err
	}
	x.Status, x.AnswerType, x.AnswerEncoding = resp.StatusCode, resp.Header.Get("Content-Type"), resp.Header.Get("Content-Encoding")
	resp.Body = &kept{resp.Body, r, x}
	return resp, nil
}

func (x *exchange) header() http.Header {
	h := make(http.Header)
	for name, value := range map[string]string{"Content-Encoding": x.Encoding, "Accept-Encoding": x.Accept} {
		if value != "" {
			h.Set(name, value)
		}
	}
	return h
}

// kept keeps what is read.
type kept struct {
	io.ReadCloser
	r *recording
	x *exchange
}

func (k *kept) Read(p []byte) (int, error) {
	n, err := k.ReadCloser.Read(p)
	k.r.mu.Lock()
	defer k.r.mu.Unlock()
	k.x.Answer = append(k.x.Answer, p[:n]...)
	return n, err
}

func recordings(t *testing.T) map[string][]*exchange {
	t.Helper()
	files, err := filepath.Glob("testdata/peer-*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d recordings, %v", len(files), err)
	}
	all := make(map[string][]*exchange)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var xs []*exchange
		if err := json.Unmarshal(text, &xs); err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(file)] = xs
	}
	return all
}

func TestRecordPeer(t *testing.T) {
	r := &recording{to: frozenBuilder(t)}
	converse(t, r)
	if *record == "" || t.Failed() {
		return
	}
	text, err := json.MarshalIndent(r.all, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile("testdata/peer-"+*record+".json", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(append(text, '\n')); err != nil {
		t.Fatal(err)
	}
}

// Today's client builds on the builders of earlier releases, and asks nothing of
// them that they do not know.
func TestFrozenBuilders(t *testing.T) {
	for name, xs := range recordings(t) {
		t.Run(name, func(t *testing.T) {
			p := &playback{t: t, left: make(map[string][]*exchange)}
			for _, x := range xs {
				k := x.Method + " " + x.Path
				p.left[k] = append(p.left[k], x)
			}
			converse(t, p)
		})
	}
}

// playback answers as a builder has.
type playback struct {
	t    *testing.T
	mu   sync.Mutex
	left map[string][]*exchange
}

func (p *playback) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
	}
	k := req.Method + " " + req.URL.RequestURI()
	p.mu.Lock()
	defer p.mu.Unlock()
	xs := p.left[k]
	if len(xs) == 0 {
		p.t.Errorf("that builder was never asked %s", k)
		return nil, errWire
	}
	x := xs[0]
	if len(xs) > 1 {
		p.left[k] = xs[1:]
	}
	if sent, known := decodeJSON(req.Header.Get("Content-Encoding"), body), decodeJSON(x.Encoding, x.Request); known != nil {
		for _, fault := range beyond("", sent, known) {
			p.t.Errorf("%s: that builder does not know %s", k, fault)
		}
	}
	h := http.Header{"Content-Type": {x.AnswerType}}
	h.Set(wire.HeaderVersion, fmt.Sprint(wire.Version))
	if x.AnswerEncoding != "" {
		h.Set("Content-Encoding", x.AnswerEncoding)
	}
	return &http.Response{
		StatusCode: x.Status, Header: h, ProtoMajor: 2, Request: req,
		Body: io.NopCloser(bytes.NewReader(x.Answer)), ContentLength: int64(len(x.Answer)),
	}, nil
}

// Clients of earlier releases build on today's builder, and find in its answers
// all that theirs had.
func TestFrozenClients(t *testing.T) {
	for name, xs := range recordings(t) {
		t.Run(name, func(t *testing.T) {
			to := frozenBuilder(t)
			var followed sync.WaitGroup
			ask := func(x *exchange) {
				resp, err := to.Raw(x.Method, x.Path, bytes.NewReader(x.Request), x.header())
				if err != nil {
					t.Errorf("%s %s: %v", x.Method, x.Path, err)
					return
				}
				defer resp.Body.Close()
				answer, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != x.Status || resp.Header.Get("Content-Type") != x.AnswerType {
					t.Errorf("%s %s: %d %s, %v; it was %d %s\n%s", x.Method, x.Path, resp.StatusCode, resp.Header.Get("Content-Type"), err, x.Status, x.AnswerType, answer)
					return
				}
				for _, fault := range lost(x, answer) {
					t.Errorf("%s %s: that client would miss %s", x.Method, x.Path, fault)
				}
			}
			for _, x := range xs {
				switch {
				case strings.Contains(x.Path, "/events"):
					followed.Go(func() { ask(x) })
					continue
				case strings.HasPrefix(x.Path, "/v1/cache/"):
					followed.Wait()
				}
				ask(x)
			}
			followed.Wait()
		})
	}
}

// lost lists what an answer of today lacks.
func lost(x *exchange, answer []byte) []string {
	if x.AnswerType != wire.TypeEvents {
		was := decodeJSON(x.AnswerEncoding, x.Answer)
		if was == nil {
			return nil // no document
		}
		return beyond("", was, decodeJSON(x.AnswerEncoding, answer))
	}
	// Of each type of event one of today's must have all that theirs had.
	byType := func(text []byte) map[string]any {
		all := make(map[string]any)
		for line := range bytes.Lines(text) {
			if e, ok := decodeJSON("", line).(map[string]any); ok {
				kind := fmt.Sprint(e["type"], " ", e["state"])
				if e["type"] == string(wire.EventQueued) {
					continue // who gets a slot at once may be told nothing
				}
				all[kind] = e
			}
		}
		return all
	}
	return beyond("", byType(x.Answer), byType(answer))
}

// passing are keys of answers that depend on how far a build has come.
var passing = []string{"position", "wanted", "last_event", "missing"}

// beyond lists what a has that b, a document of the same kind, has not: keys, and
// other kinds of values.
func beyond(at string, a, b any) (faults []string) {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok {
			return []string{at}
		}
		for k, v := range a {
			w, has := b[k]
			switch {
			case slices.Contains(passing, k):
			case !has:
				faults = append(faults, at+"."+k)
			default:
				faults = append(faults, beyond(at+"."+k, v, w)...)
			}
		}
	case []any:
		b, ok := b.([]any)
		if !ok {
			return []string{at}
		}
		for i, v := range a {
			// One of the others must be like it: which it is may differ.
			if !slices.ContainsFunc(b, func(w any) bool { return len(beyond("", v, w)) == 0 }) {
				faults = append(faults, fmt.Sprintf("%s[%d]", at, i))
			}
		}
	default:
		if fmt.Sprintf("%T", a) != fmt.Sprintf("%T", b) {
			return []string{at}
		}
	}
	return faults
}

// decodeJSON returns nil for what is no JSON.
func decodeJSON(encoding string, text []byte) (v any) {
	if encoding == "zstd" {
		r, err := zstd.NewReader(bytes.NewReader(text))
		if err != nil {
			return nil
		}
		defer r.Close()
		if text, err = io.ReadAll(r); err != nil {
			return nil
		}
	}
	if json.Unmarshal(text, &v) != nil {
		return nil
	}
	return v
}
