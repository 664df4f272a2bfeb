package builder

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/wire"
)

func TestDecodeBuildRequest(t *testing.T) {
	want := wire.BuildRequest{
		Roots: []wire.Root{{Drv: "/nix/store/x.drv", Outputs: []string{"out", "dev"}, Label: "a \"label\""}},
		Closure: []wire.Input{
			{Path: "/nix/store/a", NarHash: "h", NarSize: 1 << 63, CA: "text:"},
			{Path: "/nix/store/b", References: []int{0, 1}, Sigs: []string{"k:s"}, Deriver: "d"},
		},
		Mode: wire.ModeCheck, KeepGoing: true, Detach: true,
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	later := strings.Replace(string(text), `{"roots"`, `{"new":{"a":[1,{"b":[]},"x"],"c":null},"roots"`, 1)
	for name, text := range map[string]string{"as encoded": string(text), "of a newer client": later} {
		var got wire.BuildRequest
		if err := decodeBuildRequest(strings.NewReader(text), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v (%v)", name, got, err)
		}
	}
}

// What unpacks to far more than its text is refused before it is all there.
func TestDecodeBuildRequestRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		head, again string
		want        wire.Code
	}{
		"paths":       {`{"closure":[{}`, `,{}`, wire.CodeTooLarge},
		"roots":       {`{"roots":[{}`, `,{}`, wire.CodeTooLarge},
		"references":  {`{"closure":[{"refs":[0`, `,0`, wire.CodeTooLarge},
		"signatures":  {`{"closure":[{"sigs":[""`, `,""`, wire.CodeTooLarge},
		"outputs":     {`{"roots":[{"outputs":[""`, `,""`, wire.CodeTooLarge},
		"a string":    {`{"roots":[{"label":"`, `x`, wire.CodeTooLarge},
		"a key":       {`{"`, `x`, wire.CodeTooLarge},
		"keys":        {`{"roots":[],"roots":[]`, `,"roots":[]`, ""},
		"new fields":  {`{"new":[0`, `,0`, wire.CodeTooLarge},
		"nesting":     {`{"new":[`, `[`, ""},
		"a deep root": {`{"roots":[`, `[`, ""},
	} {
		r := &endless{head: c.head, again: strings.Repeat(c.again, max(1, 4096/len(c.again)))}
		var req wire.BuildRequest
		err := decodeBuildRequest(r, &req)
		if err == nil || wire.CodeOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
		if r.n > 64<<20 {
			t.Errorf("%s: read %d MiB", name, r.n>>20)
		}
	}
	fields := `{"0":0`
	for i := range 100 {
		fields += fmt.Sprintf(`,"%d":0`, i+1)
	}
	if err := decodeBuildRequest(strings.NewReader(fields+"}"), &wire.BuildRequest{}); wire.CodeOf(err) != wire.CodeTooLarge {
		t.Errorf("many fields: %v", err)
	}
	d := &documentReader{references: maxAllReferences, stretch: &stretchReader{r: strings.NewReader(`{"refs":[0]}`)}}
	d.dec = json.NewDecoder(d.stretch)
	if err := d.input(&wire.BuildRequest{}); wire.CodeOf(err) != wire.CodeTooLarge {
		t.Errorf("references of all paths: %v", err)
	}
	root := `{"roots":[{"outputs":[` + strings.Repeat(`"a",`, maxOutputs) + `"a"]}]}`
	if err := decodeBuildRequest(strings.NewReader(root), &wire.BuildRequest{}); wire.CodeOf(err) != wire.CodeTooLarge {
		t.Errorf("outputs of a root: %v", err)
	}
	for _, text := range []string{"", "null", "[]", "{", "{}{}", `{"roots":{}}`, `{"closure":3}`, `{"roots":[}`, `{"mode":[]}`} {
		var req wire.BuildRequest
		if err := decodeBuildRequest(strings.NewReader(text), &req); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// endless is head, then again for ever.
type endless struct {
	head, again string
	rest        string
	n           int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.head != "" {
		e.rest, e.head = e.head, ""
	} else if e.rest == "" {
		e.rest = e.again
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	e.n += n
	return n, nil
}

func FuzzDecodeBuildRequest(f *testing.F) {
	f.Add(`{"roots":[{"drv":"/nix/store/x.drv","outputs":["out"]}],"closure":[{"path":"p","refs":[0],"nar_size":1}],"mode":"check"}`)
	f.Add(`{"roots":null,"closure":[null],"detach":true,"x":{"y":[[]]}}`)
	f.Add(`{"closure":[{}`)
	f.Fuzz(func(t *testing.T, text string) {
		var got, want wire.BuildRequest
		if err := decodeBuildRequest(strings.NewReader(text), &got); err != nil {
			return
		}
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatalf("taken, but encoding/json says %v", err)
		}
	})
}

// One that sends slowly leaves room for the others.
func TestBudget(t *testing.T) {
	b := budget{most: maxDocuments, share: documentShare}
	fill := func(group string) (n int64) {
		for b.take(group, budgetStep) {
			n += budgetStep
		}
		return n
	}
	if n := fill("greedy"); n != documentShare {
		t.Errorf("one client may have %d bytes", n)
	}
	r := &budgetReader{r: strings.NewReader("document"), budget: &b, group: "honest"}
	if text, err := io.ReadAll(r); string(text) != "document" || err != nil {
		t.Errorf("another reads %q (%v)", text, err)
	}
	r.release()
	fill("others")
	if left := b.most - b.taken; left < b.most/newcomers || left >= b.most/newcomers+budgetStep {
		t.Errorf("%d bytes are left for who has nothing", left)
	}
	if n := fill("late"); n != budgetStep {
		t.Errorf("who had nothing may have %d bytes", n)
	}
	for i := 0; b.take(fmt.Sprint(i), budgetStep); i++ {
	}
	if left := b.most - b.taken; left < 0 || left >= budgetStep {
		t.Errorf("%d bytes are left in the end", left)
	}
	b.release("greedy", documentShare)
	if !b.take("greedy", budgetStep) {
		t.Error("what was given back is not there")
	}
	b.release("late", budgetStep)
	if _, ok := b.by["late"]; ok {
		t.Error("who has nothing is remembered")
	}
}

// With the bounds of the service one alone has its share, and several who take all that
// they get leave something for others.
func TestBudgetsLeaveRoom(t *testing.T) {
	for name, b := range map[string]*budget{
		"documents": {most: maxDocuments, share: documentShare},
		"decoders":  {most: maxDecoders, share: decoderShare},
		"readers":   {most: maxAllReaders, share: readersShare},
		"unread":    {most: maxUnread, share: unreadShare},
		"sessions":  {most: maxInputSessions, share: inputSessionsShare},
		"questions": {most: maxQuestions, share: questionsShare},
		"turns":     {most: maxTurns, share: turnsShare},
		"answers":   {most: maxAnswers, share: answerShare},
		"units":     {most: maxUnits, share: unitsShare},
	} {
		step := max(1, b.share>>12)
		for i := range b.most/b.share + 1 {
			group, n := fmt.Sprint(i), int64(0)
			for b.take(group, step) {
				n += step
			}
			if i == 0 && n <= b.share-step {
				t.Errorf("%s: one alone has %d of %d", name, n, b.share)
			}
			if n == 0 {
				t.Errorf("%s: nothing is left for the next after %d", name, i)
			}
		}
	}
}

// Compressed requests cost memory from their first byte on.
func TestDecoders(t *testing.T) {
	s := &Service{decoders: budget{most: 2, share: 1}}
	request := func() *http.Request {
		r := httptest.NewRequest(http.MethodPut, "/", strings.NewReader(""))
		r.Header.Set("Content-Encoding", "zstd")
		return r
	}
	one, two := &caller{client: key.ID{1}}, &caller{client: key.ID{2}}
	body, err := s.requestBody(request(), one)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.requestBody(request(), one); wire.CodeOf(err) != wire.CodeRate {
		t.Errorf("more than its share: %v", err)
	}
	if _, err := s.requestBody(request(), two); err != nil {
		t.Errorf("another client: %v", err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.requestBody(request(), one); err != nil {
		t.Errorf("after the first was closed: %v", err)
	}
}

// A document counts for as long as its request is under way, by what it has and no
// more; one that is refused does not.
func TestDocumentCountsToTheEnd(t *testing.T) {
	s := &Service{documents: budget{most: maxDocuments, share: documentShare}}
	c := &caller{client: key.ID{1}, trusted: &TrustedClient{}}
	read := func(text string) (func(), error) {
		r := httptest.NewRequest(http.MethodPost, wire.RouteManifests, strings.NewReader(text))
		return s.readJSON(httptest.NewRecorder(), r, c, &wire.ManifestsRequest{}, wire.MaxDocument)
	}
	text := `{"nars":["` + strings.Repeat("x", budgetStep) + `"]}`
	done, err := read(text)
	if err != nil {
		t.Fatal(err)
	}
	if s.documents.taken != int64(len(text)) {
		t.Errorf("%d bytes are counted of %d", s.documents.taken, len(text))
	}
	if _, err := read(`{"nars":[`); wire.CodeOf(err) != wire.CodeBadRequest {
		t.Errorf("half a document: %v", err)
	}
	if s.documents.taken != int64(len(text)) {
		t.Errorf("with one that was refused, %d bytes are counted", s.documents.taken)
	}
	done()
	if s.documents.taken != 0 || len(s.documents.by) != 0 {
		t.Errorf("%d bytes stay counted", s.documents.taken)
	}
}
