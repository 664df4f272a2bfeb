package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// What a hostile builder answers, and that the session ends with ErrProtocol
// instead of doing what it says.
func TestHostileBuilder(t *testing.T) {
	reply := func(k, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if kind(r) != k {
				return false
			}
			_, _ = io.WriteString(w, body)
			return true
		}
	}
	wanted := func(list string) string {
		return fmt.Sprintf(`{"id":%q,"state":"uploading","wanted":[%s]}`, testID, list)
	}
	events := func(lines string) func(http.ResponseWriter, *http.Request) bool { return reply("GET events", lines) }
	cases := map[string]func(http.ResponseWriter, *http.Request) bool{
		"wanted out of range":    reply("PUT build", wanted("1000000")),
		"wanted negative":        reply("PUT build", wanted("-1")),
		"wanted twice":           reply("PUT build", wanted("0,0")),
		"wanted falling":         reply("PUT build", wanted("2,1")),
		"wanted huge number":     reply("PUT build", wanted("99999999999999999999999")),
		"other build":            reply("PUT build", `{"id":"bbbbbbbbbbbbbbbbbbbbbbbbbb"}`),
		"negative events":        reply("PUT build", fmt.Sprintf(`{"id":%q,"last_event":-5}`, testID)),
		"not JSON":               reply("PUT build", "hello"),
		"JSON of another type":   reply("PUT build", "[]"),
		"bad time":               reply("PUT build", fmt.Sprintf(`{"id":%q,"created":"soon"}`, testID)),
		"redirect":               func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(302); return true },
		"event gap":              events(`{"seq":2,"type":"log","log":{"text":"x"}}` + "\n"),
		"event again":            events(strings.Repeat(`{"seq":1,"type":"log","log":{"text":"x"}}`+"\n", 2)),
		"event not JSON":         events("x\n"),
		"log without log":        events(`{"seq":1,"type":"log"}` + "\n"),
		"start without activity": events(`{"seq":1,"type":"start"}` + "\n"),
		"finished without":       events(`{"seq":1,"type":"finished"}` + "\n"),
		"chunks out of range":    reply("PUT manifest", `{"missing":[[0,100000]]}`),
		"chunk of no number":     reply("PUT manifest", `{"missing":[[100000,1]]}`),
		"chunks negative":        reply("PUT manifest", `{"missing":[[-1,1]]}`),
		"chunks overlap":         reply("PUT manifest", `{"missing":[[0,2],[1,1]]}`),
		"no chunks":              reply("PUT manifest", `{"missing":[[3,0]]}`),
		"chunks overflow":        reply("PUT manifest", `{"missing":[[1,9223372036854775807]]}`),
		"chunks not JSON":        reply("PUT manifest", "hello"),
		"line without end": func(w http.ResponseWriter, r *http.Request) bool {
			return kind(r) == "GET events" && endless(w, "x")
		},
	}
	for _, name := range sortedKeys(cases) {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.builder.override = cases[name]
				res, err := r.build(t)
				if !errors.Is(err, ErrProtocol) {
					t.Errorf("result %+v, error %v", res, err)
				}
			})
		})
	}
}

func TestDecodeHasALimit(t *testing.T) {
	var out wire.Build
	long := io.MultiReader(strings.NewReader(`{"id":"`), zeros{})
	if err := decode(t.Context(), long, 1<<20, &out); !errors.Is(err, ErrProtocol) {
		t.Errorf("error %v", err)
	}
	if err := decode(t.Context(), strings.NewReader(`{"id":"x"}`), 10, &out); err != nil {
		t.Errorf("a document of exactly the limit: %v", err)
	}
	if err := decode(t.Context(), strings.NewReader(`{"id":"x"`), 100, &out); !errors.Is(err, ErrConnection) {
		t.Errorf("a document that is cut off: %v", err)
	}
}

func TestDecodeClosure(t *testing.T) {
	for text, c := range map[string]struct {
		narinfos int
		err      error
	}{
		`{"narinfos":["a","b"],"roots":["r"]}`: {2, nil},
		`{"new":{"x":[1,2]},"narinfos":["a"]}`: {1, nil},
		`{"narinfos":null,"roots":null}`:       {0, nil},
		`{}`:                                   {0, nil},
		`[]`:                                   {0, ErrProtocol},
		`null`:                                 {0, ErrProtocol},
		`{"narinfos":{"a":1}}`:                 {0, ErrProtocol},
		`{"narinfos":[1]}`:                     {0, ErrProtocol},
		`{"narinfos":["a"`:                     {1, ErrConnection},
		`{"narinfos":["a"]`:                    {1, ErrConnection},
		`{"narinfos":["a"]]`:                   {1, ErrProtocol},
		``:                                     {0, ErrConnection},
		`{"narinfos":[` + strings.Repeat(`"",`, wire.MaxClosurePaths) + `""]}`: {0, ErrProtocol},
	} {
		var out wire.Closure
		err := decodeWith(t.Context(), strings.NewReader(text), 1<<20, func(dec *json.Decoder, src *answerReader) error { return decodeClosure(dec, src, &out) })
		if !errors.Is(err, c.err) || c.err == nil && (err != nil || len(out.NarInfos) != c.narinfos) {
			t.Errorf("%.60s: %d narinfos, %v", text, len(out.NarInfos), err)
		}
	}
	endless := &io.LimitedReader{R: io.MultiReader(strings.NewReader(`{"narinfos":["a","`), zeros{}), N: 8 * maxPiece}
	var lost wire.Closure
	err := decodeWith(t.Context(), endless, wire.MaxClosureDocument, func(dec *json.Decoder, src *answerReader) error { return decodeClosure(dec, src, &lost) })
	if read := 8*maxPiece - endless.N; !errors.Is(err, ErrProtocol) || read > 2*maxPiece {
		t.Errorf("a narinfo without end: %v after %d bytes", err, read)
	}
	broken := io.MultiReader(strings.NewReader(`{"narinfos":["a`), &breaking{})
	var out wire.Closure
	err = decodeWith(t.Context(), broken, 1<<20, func(dec *json.Decoder, src *answerReader) error { return decodeClosure(dec, src, &out) })
	if !errors.Is(err, ErrConnection) || !errors.Is(err, errWire) {
		t.Errorf("a connection that breaks: %v", err)
	}
}

// A build's lists are read member by member: what takes many times its text in
// memory ends at the first member too many, and every field is read.
func TestDecodeBuildAndPlan(t *testing.T) {
	build := wire.Build{
		ID: "b", State: wire.StateBuilt, Created: time.Unix(1_700_000_000, 0).UTC(), Position: 2, KeepGoing: true, Wanted: []int{0, 2}, LastEvent: 9,
		Result: &wire.Result{
			Error:       wire.Errorf(wire.CodeBuildFailed, "no"),
			Outputs:     []wire.Output{{Drv: "d", Name: "out", Path: "p", Realisation: "r"}},
			Derivations: []wire.DrvResult{{Drv: "d", Status: "Built", Error: "e", TimesBuilt: 1, NonDeterministic: true}},
			QueueTime:   1.5, BuildTime: 2.5, UploadBytes: 7,
		},
	}
	plan := wire.Plan{Wanted: []int{1}, UploadBytes: 1, Built: true, WillBuild: []string{"a"}, WillSubstitute: []string{"b"}, DownloadBytes: 2, UnpackBytes: 3, OutputPaths: 4, OutputBytes: 5}
	var gotBuild wire.Build
	var gotPlan wire.Plan
	for _, c := range []struct {
		want, got any
		decode    func(*json.Decoder, *answerReader) error
	}{
		{&build, &gotBuild, func(dec *json.Decoder, src *answerReader) error { return decodeBuild(dec, src, &gotBuild, 3) }},
		{&plan, &gotPlan, func(dec *json.Decoder, src *answerReader) error { return decodePlan(dec, src, &gotPlan, 3) }},
	} {
		for i := range reflect.TypeOf(c.want).Elem().NumField() {
			if reflect.ValueOf(c.want).Elem().Field(i).IsZero() {
				t.Errorf("%T: field %d is not tested", c.want, i)
			}
		}
		text, err := json.Marshal(c.want)
		if err != nil {
			t.Fatal(err)
		}
		text = append(bytes.TrimSuffix(text, []byte("}")), `,"newer":{"x":[1]}}`...)
		if err := decodeWith(t.Context(), bytes.NewReader(text), 1<<20, c.decode); err != nil || !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s was read as %+v, %v", text, c.got, err)
		}
		for _, text := range []string{`{"wanted":[0,1,2,3`, `[]`, `null`, `{"wanted":{}}`, `{"wanted":["x"]}`} {
			endless := io.MultiReader(strings.NewReader(text), zeros{})
			if err := decodeWith(t.Context(), endless, 32<<20, c.decode); !errors.Is(err, ErrProtocol) {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

// endless writes until nobody listens.
func endless(w io.Writer, what string) bool {
	piece := []byte(strings.Repeat(what, 1<<20))
	for {
		if _, err := w.Write(piece); err != nil {
			return true
		}
	}
}

func TestWantsAgainAndAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
			switch kind(req) {
			case "PUT inputs":
				_, _ = io.Copy(io.Discard, req.Body)
			case "PUT manifest":
				answer(w, wire.MissingChunks{Missing: [][2]int{{0, 1}}})
				return true
			case "PUT chunks":
				_, _ = io.Copy(io.Discard, req.Body)
				w.WriteHeader(http.StatusNoContent)
				return true
			case "PUT build", "POST input":
			default:
				return false
			}
			answer(w, wire.Build{ID: testID, State: wire.StateUploading, Wanted: []int{0, 1}})
			return true
		}
		if _, err := r.build(t); !errors.Is(err, ErrProtocol) {
			t.Errorf("error %v", err)
		}
	})
}

func TestLacksAgainAndAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
			if kind(req) != "POST input" {
				return false
			}
			wire.WriteError(w, wire.CodeInputIncomplete.Err())
			return true
		}
		if _, err := r.build(t); wire.CodeOf(err) != wire.CodeInputIncomplete {
			t.Errorf("error %v", err)
		}
		if n := r.wire.count("PUT manifest"); n != 1+maxAgain {
			t.Errorf("%d manifests were sent", n)
		}
	})
}

// Unknown event types and members are a newer builder's, not an attack.
func TestNewerBuilder(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.builder.onComplete = func(b *builder) {
			b.emit(wire.Event{Type: "novelty"})
			b.finish(nil)
		}
		r.mustBuild(t)
	})
}

const hash = "00000000000000000000000000000000"

func path(name string) nix.Path { return nix.Path(nix.StoreDir + "/" + hash + "-" + name) }

func TestWantedOutputs(t *testing.T) {
	drv := path("hello-1.0.drv")
	roots := []wire.Root{{Drv: string(drv), Outputs: []string{"out", "dev"}}}
	out, dev := wire.Output{Drv: string(drv), Name: "out", Path: string(path("hello-1.0"))}, wire.Output{Drv: string(drv), Name: "dev", Path: string(path("hello-1.0-dev"))}
	known := map[nix.Path]map[string]nix.Path{drv: {"out": path("hello-1.0")}}
	evil := func(o wire.Output, p string) wire.Output { o.Path = p; return o }
	for name, c := range map[string]struct {
		outputs []wire.Output
		ok      bool
	}{
		"as expected":        {[]wire.Output{out, dev}, true},
		"one missing":        {[]wire.Output{out}, false},
		"none":               {nil, false},
		"other known path":   {[]wire.Output{evil(out, "/nix/store/11111111111111111111111111111111-hello-1.0"), dev}, false},
		"other name":         {[]wire.Output{out, evil(dev, string(path("evil")))}, false},
		"not a store path":   {[]wire.Output{out, evil(dev, "/etc/passwd")}, false},
		"path below a path":  {[]wire.Output{out, evil(dev, string(path("hello-1.0-dev"))+"/../x")}, false},
		"of another drv":     {[]wire.Output{out, {Drv: "x", Name: "dev", Path: dev.Path}}, false},
		"further of no root": {[]wire.Output{out, dev, {Drv: "x", Name: "out", Path: "y"}}, true},
	} {
		got, err := WantedOutputs(roots, known, &wire.Result{Outputs: c.outputs})
		if c.ok && (err != nil || got[drv]["out"] != path("hello-1.0") || got[drv]["dev"] != path("hello-1.0-dev")) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if !c.ok && !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestCheckClosure(t *testing.T) {
	info := func(name string, refs ...string) nix.PathInfo {
		i := nix.PathInfo{Path: path(name)}
		for _, r := range refs {
			i.References = append(i.References, path(r))
		}
		return i
	}
	for name, c := range map[string]struct {
		infos []nix.PathInfo
		roots []string
		ok    bool
	}{
		"chain":              {[]nix.PathInfo{info("a"), info("b", "a", "b"), info("c", "b")}, []string{"c"}, true},
		"two roots":          {[]nix.PathInfo{info("a"), info("b")}, []string{"a", "b"}, true},
		"root missing":       {[]nix.PathInfo{info("a")}, []string{"b"}, false},
		"foreign path":       {[]nix.PathInfo{info("a"), info("evil"), info("b", "a")}, []string{"b"}, false},
		"foreign referrer":   {[]nix.PathInfo{info("a"), info("evil", "a")}, []string{"a"}, false},
		"reference missing":  {[]nix.PathInfo{info("b", "a")}, []string{"b"}, false},
		"wrong order":        {[]nix.PathInfo{info("b", "a"), info("a")}, []string{"b"}, false},
		"twice":              {[]nix.PathInfo{info("a"), info("a")}, []string{"a"}, false},
		"circle":             {[]nix.PathInfo{info("a", "b"), info("b", "a")}, []string{"a"}, false},
		"nothing for a root": {nil, []string{"a"}, false},
	} {
		var roots []nix.Path
		for _, r := range c.roots {
			roots = append(roots, path(r))
		}
		if err := CheckClosure(c.infos, roots); c.ok && err != nil || !c.ok && !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
