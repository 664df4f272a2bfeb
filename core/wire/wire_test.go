package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
)

var update = flag.Bool("update", false, "write the golden documents anew")

// documents has one full value of every document of the protocol. Their JSON
// in testdata is frozen: peers of other releases read and write it.
func documents(t testing.TB) map[string]any {
	t.Helper()
	secret, err := key.NewSecret(bytes.NewReader(bytes.Repeat([]byte{1}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	when := time.Date(2026, 1, 2, 3, 4, 5, 600_000_000, time.UTC)
	const (
		drv = "/nix/store/00000000000000000000000000000000-hello.drv"
		src = "/nix/store/11111111111111111111111111111111-source"
		out = "/nix/store/22222222222222222222222222222222-hello"
		sum = "0000000000000000000000000000000000000000000000000000"
	)
	limits := ticket.Limits{MaxBuildTime: ticket.DefaultMaxBuildTime, MaxUploadBytes: ticket.DefaultMaxUploadBytes, MaxOutputBytes: 1 << 30, Systems: []string{"x86_64-linux"}, NoFixedOutput: true}
	root := Root{Drv: drv, Outputs: []string{"out"}, Label: ".#hello"}
	closure := []Input{
		{Path: src, NarHash: sum, NarSize: 120, CA: "fixed:r:sha256:" + sum},
		{Path: drv, NarHash: sum, NarSize: 500, References: []int{0}, CA: "text:sha256:" + sum},
		{Path: out, NarHash: sum, NarSize: 200, References: []int{0, 2}, Deriver: drv, Sigs: []string{"cache-1:AAAA"}},
	}
	result := &Result{
		Error:       Errorf(CodeBuildFailed, "builder for '%s' failed", drv).WithHint("read the log above"),
		Outputs:     []Output{{Drv: drv, Name: "out", Path: out, Realisation: `{"id":"sha256:x!out"}`}},
		Derivations: []DrvResult{{Drv: drv, Status: "PermanentFailure", Error: "it failed", TimesBuilt: 1, NonDeterministic: true}},
		QueueTime:   1.5, BuildTime: 2.25, UploadBytes: 620,
	}
	return map[string]any{
		"info": &Info{Version: Version, Software: "drv-thru 1.0", Builder: secret.ID(), NixVersion: "2.8.0", Systems: []string{"x86_64-linux"},
			Features: []string{"kvm"}, SigningKey: "builder-1:AAAA", Slots: 1, Active: 1, Waiting: 2, CADerivations: true, You: secret.ID(), Trusted: true,
			Ticket: &TicketUse{ID: ticket.Secret{1}.ID(), Name: "ticket-1", Expires: when, UsesLeft: -1, Limits: limits}},
		"plan-request":  &PlanRequest{Roots: []Root{root}, Closure: closure},
		"plan":          &Plan{Wanted: []int{0, 1}, UploadBytes: 620, Built: true, WillBuild: []string{drv}, WillSubstitute: []string{out}, DownloadBytes: 1, UnpackBytes: 2},
		"build-request": &BuildRequest{Roots: []Root{root}, Closure: closure, Mode: ModeCheck, KeepGoing: true, Detach: true},
		"build":         &Build{ID: "aaaaaaaaaaaaaaaaaaaaaaaaaa", State: StateFailed, Created: when, Position: 2, KeepGoing: true, Wanted: []int{1}, LastEvent: 9, Result: result},
		"event-queued":  &Event{Seq: 1, Time: when, Type: EventQueued, Position: 3},
		"event-wait":    &Event{Seq: 1, Time: when, Type: EventQueued, Position: 3, WaitSeconds: 90.5},
		"event-phase":   &Event{Seq: 2, Time: when, Type: EventPhase, State: StateBuilding},
		"event-start": &Event{Seq: 3, Time: when, Type: EventStart, Activity: &Activity{ID: 7, Parent: 1, Type: 105, Level: 3, Text: "building",
			Fields: []Field{{Str: drv, IsText: true}, {Int: 1<<64 - 1}, {Str: "", IsText: true}}}},
		"event-log":         &Event{Seq: 4, Time: when, Type: EventLog, Log: NewLog(7, []byte("käse"), false)},
		"event-log-bytes":   &Event{Seq: 5, Time: when, Type: EventLog, Log: &Log{Activity: 7, Bytes: []byte{0, 0xff}, More: true, Level: 1, PostBuild: true}},
		"event-finished":    &Event{Seq: 6, Time: when, Type: EventFinished, Result: result},
		"closure":           &Closure{NarInfos: []string{"StorePath: " + out + "\n"}, Roots: []string{out}},
		"manifests-request": &ManifestsRequest{Nars: []string{sum, sum}},
		"chunks-request": &ChunksRequest{Goodput: 125_000_000, Nars: []NarChunks{
			{NarHash: sum, Chunks: []ChunkRange{{0, 3}, {7, 1}}}, {NarHash: sum, Chunks: []ChunkRange{{1<<32 - 1, 1}}}}},
		"error": Errorf(CodeTicketExpired, "since %s", "yesterday").WithHint("ask for another"),
	}
}

func TestGoldenDocuments(t *testing.T) {
	for name, doc := range documents(t) {
		path := filepath.Join("testdata", name+".json")
		got, err := json.MarshalIndent(doc, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: writes\n%s\nwant\n%s", name, got, want)
		}
		back := reflect.New(reflect.TypeOf(doc).Elem()).Interface()
		if err := json.Unmarshal(want, back); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(back, doc) {
			t.Errorf("%s: reads back as %+v", name, back)
		}
	}
}

// FuzzDocuments feeds anything to every document: none may panic, and what
// was accepted must survive being written and read again.
func FuzzDocuments(f *testing.F) {
	docs := documents(f)
	for _, doc := range docs {
		data, err := json.Marshal(doc)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for name, doc := range docs {
			first := reflect.New(reflect.TypeOf(doc).Elem()).Interface()
			if json.Unmarshal(data, first) != nil {
				continue
			}
			text, err := json.Marshal(first)
			if err != nil {
				continue // a size below zero or a year beyond JSON's
			}
			second := reflect.New(reflect.TypeOf(doc).Elem()).Interface()
			if err := json.Unmarshal(text, second); err != nil {
				t.Fatalf("%s: %s does not read back: %v", name, text, err)
			}
		}
	})
}

func TestEveryCodeIsUsable(t *testing.T) {
	exits := map[int]bool{ExitFailed: true, ExitDenied: true, ExitUnreachable: true, ExitBuildFailed: true}
	for _, c := range Codes() {
		if c.Status() < 400 || c.Title() == "" || c.Title() == string(c) || !exits[c.Exit()] {
			t.Errorf("%s: status %d, exit %d, title %q", c, c.Status(), c.Exit(), c.Title())
		}
		if strings.Trim(string(c), "abcdefghijklmnopqrstuvwxyz._") != "" {
			t.Errorf("%s: not a code", c)
		}
	}
	if c := Code("of.tomorrow"); c.Status() != 500 || c.Exit() != ExitFailed || c.Title() != "of.tomorrow" {
		t.Error("an unknown code is not handled as a failure")
	}
}

func TestErrorCrossesTheWire(t *testing.T) {
	sent := fmt.Errorf("admit: %w", Errorf(CodeTicketExpired, "it ended\x1b[2J at noon").WithHint("ask for another"))
	rec := httptest.NewRecorder()
	WriteError(rec, sent)
	resp := rec.Result()
	if resp.StatusCode != http.StatusForbidden || resp.Header.Get("Content-Type") != TypeProblem {
		t.Errorf("status %d, type %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	err := ReadError(resp)
	if !errors.Is(err, CodeTicketExpired.Err()) || errors.Is(err, CodeTicketUsed.Err()) || CodeOf(err) != CodeTicketExpired {
		t.Errorf("got %v", err)
	}
	if got, want := err.Error(), "ticket expired: it ended[2J at noon"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWriteErrorHidesInternals(t *testing.T) {
	rec := httptest.NewRecorder()
	WriteError(rec, errors.New("open /root/secret: permission denied"))
	if body := rec.Body.String(); strings.Contains(body, "secret") || rec.Code != 500 {
		t.Errorf("%d %s", rec.Code, body)
	}
}

func TestReadErrorOfAnythingElse(t *testing.T) {
	for _, body := range []string{"", "<html>", "{}", strings.Repeat("x", 2*MaxDocument)} {
		err := ReadError(&http.Response{Status: "502 Bad Gateway", StatusCode: 502, Body: io.NopCloser(strings.NewReader(body))})
		if err == nil || CodeOf(err) != "" || !strings.Contains(err.Error(), "502") {
			t.Errorf("%.20q: %v", body, err)
		}
	}
}

// FuzzReadError: whatever a peer answers, what is shown of it is of bounded length
// and moves no cursor.
func FuzzReadError(f *testing.F) {
	f.Add([]byte(`{"code":"ticket.expired","status":200,"title":"fine","detail":"at noon\u001b[2J\r","hint":"ask\u009b2J"}`))
	f.Add([]byte(`{"code":"of.tomorrow\u001b[2J","detail":"x"}`))
	f.Add([]byte(`{"code":"` + strings.Repeat("x", 4*maxText) + `","hint":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		err := ReadError(&http.Response{Status: "403 Forbidden", StatusCode: http.StatusForbidden, Body: io.NopCloser(bytes.NewReader(body))})
		var e *Error
		if !errors.As(err, &e) {
			if !strings.Contains(err.Error(), "403") {
				t.Errorf("got %v", err)
			}
			return
		}
		if e.Code == "" || e.Status != http.StatusForbidden || len(err.Error())+len(e.Hint) > 4*maxText {
			t.Errorf("got %d, %d bytes", e.Status, len(err.Error())+len(e.Hint))
		}
		if strings.ContainsFunc(err.Error()+e.Hint, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }) {
			t.Errorf("got %q", err)
		}
	})
}

func TestLogCarriesEveryByte(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, piece := range [][]byte{nil, []byte("plain"), []byte("käse \x00"), all, {0xc3}} {
		data, err := json.Marshal(Event{Type: EventLog, Log: NewLog(1, piece, false)})
		if err != nil {
			t.Fatal(err)
		}
		var e Event
		if err := json.Unmarshal(data, &e); err != nil || !bytes.Equal(e.Log.Content(), piece) {
			t.Errorf("%q came as %q, %v", piece, e.Log.Content(), err)
		}
	}
}

func TestBuildID(t *testing.T) {
	id, err := NewBuildID(bytes.NewReader(make([]byte, 16)))
	if err != nil || id != "aaaaaaaaaaaaaaaaaaaaaaaaaa" {
		t.Fatalf("%s, %v", id, err)
	}
	for _, text := range []string{"", "a", "../../etc/passwd", strings.Repeat("A", 26), strings.Repeat("a", 25) + "b", strings.Repeat("a", 27)} {
		if _, err := ParseBuildID(text); err == nil {
			t.Errorf("%q accepted", text)
		}
	}
	if got, err := ParseBuildID(string(id)); err != nil || got != id {
		t.Errorf("%s, %v", got, err)
	}
}

// No builder's number is taken for more than it can be.
func TestWait(t *testing.T) {
	for seconds, want := range map[float64]time.Duration{
		0: 0, -1: 0, math.Inf(-1): 0, math.NaN(): 0, 1.5: 1500 * time.Millisecond, 1e300: MaxQueueWait, math.Inf(1): MaxQueueWait,
	} {
		if got := (&Event{WaitSeconds: seconds}).Wait(); got != want {
			t.Errorf("%g: %s, want %s", seconds, got, want)
		}
	}
}
