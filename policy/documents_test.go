package policy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/ticket"
)

const goldenRequest = `{"abi":"ticket-policy/1","now":1700000000,"event":"build",` +
	`"ticket":{"id":"t","name":"ci","limits":{"max_build_seconds":1800,"max_upload_bytes":1073741824,"max_output_bytes":2147483648,` +
	`"systems":["x86_64-linux","aarch64-linux"],"no_fixed_output":true},` +
	`"name_usage":{"builds":0,"builds_hour":0,"builds_day":0,"active":0,"upload_bytes":0,"output_bytes":0,"build_seconds":0}},` +
	`"usage":{"builds":0,"builds_hour":0,"builds_day":0,"active":0,"upload_bytes":0,"output_bytes":0,"build_seconds":0},` +
	`"client":{"id":"c","name":"","usage":{"builds":0,"builds_hour":0,"builds_day":0,"active":0,"upload_bytes":0,"output_bytes":0,"build_seconds":0}},` +
	`"request":{"roots":[{"name":"hello","system":"x86_64-linux","outputs":["out"]}],"roots_truncated":false,"to_build":[],"to_build_count":0,` +
	`"to_build_truncated":false,"sources":[],"sources_truncated":false,"closure_paths":0,"upload_bytes":0,"rebuild":false},"settings":{"a":[1,null]}}`

func TestRequestGolden(t *testing.T) {
	r := testRequest()
	r.Ticket.Limits = LimitsOf(testLimits)
	r.Settings = json.RawMessage(`{"a": [1, null]}`)
	data, err := r.Encode()
	if err != nil || string(data) != goldenRequest {
		t.Fatalf("%v\n%s\nwant\n%s", err, data, goldenRequest)
	}
	back, err := DecodeRequest(data)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := back.Encode(); err != nil || string(again) != goldenRequest {
		t.Fatalf("%v\n%s", err, again)
	}
}

func TestRequestIsCut(t *testing.T) {
	plan := func(n int) (out []Planned) {
		for i := range n {
			out = append(out, Planned{Name: fmt.Sprintf("package-%0200d", i), System: "x86_64-linux"})
		}
		return out
	}
	roots := func(n int) (out []Root) {
		for i := range n {
			out = append(out, Root{Name: fmt.Sprintf("root-%0200d", i), System: "x86_64-linux", Outputs: []string{"out"}})
		}
		return out
	}
	sources := func(n int) (out []Source) {
		for i := range n {
			out = append(out, Source{Path: fmt.Sprintf("source-%0200d", i)})
		}
		return out
	}
	for name, c := range map[string]struct {
		planned, sourced, rooted      int
		planCut, sourcesCut, rootsCut bool
		keepPlan                      bool
	}{
		"none":       {planned: 10, sourced: 10, rooted: 10, keepPlan: true},
		"sources":    {planned: 10, sourced: 6_000, rooted: 10, planCut: true, sourcesCut: true},
		"plan":       {planned: 6_000, rooted: 10, planCut: true, keepPlan: true},
		"both":       {planned: 10, rooted: 6_000, planCut: true, rootsCut: true},
		"both large": {planned: 6_000, rooted: 6_000, planCut: true, rootsCut: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRequest()
			r.Request.ToBuild, r.Request.Sources, r.Request.Roots = plan(c.planned), sources(c.sourced), roots(c.rooted)
			r.Request.ToBuildCount = Count(c.planned)
			data, err := r.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if len(data) > MaxStdin {
				t.Fatalf("%d bytes", len(data))
			}
			got, err := DecodeRequest(data)
			if err != nil {
				t.Fatal(err)
			}
			b := got.Request
			if b.ToBuildTruncated != c.planCut || b.SourcesTruncated != c.sourcesCut || b.RootsTruncated != c.rootsCut {
				t.Errorf("cut: %t, %t, %t", b.ToBuildTruncated, b.SourcesTruncated, b.RootsTruncated)
			}
			if c.planCut != (len(b.ToBuild) < c.planned) || c.sourcesCut != (len(b.Sources) < c.sourced) || c.rootsCut != (len(b.Roots) < c.rooted) || (c.keepPlan && len(b.ToBuild) == 0) {
				t.Errorf("%d derivations and %d roots are left", len(b.ToBuild), len(b.Roots))
			}
			if (c.planCut || c.rootsCut) && len(data) < MaxStdin-1024 {
				t.Errorf("cut to %d bytes", len(data))
			}
			if int(b.ToBuildCount) != c.planned {
				t.Errorf("count %d", b.ToBuildCount)
			}
		})
	}
	// What was cut before stays so.
	r := testRequest()
	r.Request.ToBuildTruncated, r.Request.SourcesTruncated, r.Request.RootsTruncated = true, true, true
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeRequest(data)
	if b := got.Request; err != nil || !b.ToBuildTruncated || !b.SourcesTruncated || !b.RootsTruncated {
		t.Errorf("%+v, %v", b, err)
	}
	r.Client.Name = strings.Repeat("x", MaxStdin)
	_, err = r.Encode()
	wantCode(t, err, CodeTooLarge)
}

func TestRequestRefused(t *testing.T) {
	for name, change := range map[string][2]string{
		"trailing":      {`null]}}`, `null]}}{}`},
		"unknown field": {`"now"`, `"then"`},
		"other case":    {`"now"`, `"Now"`},
		"twice":         {`"now":1700000000`, `"now":1700000000,"now":1`},
		"in settings":   {`"a":[1,null]`, `"a":1,"a":2`},
		"deep settings": {`[1,null]`, strings.Repeat("[", 80) + strings.Repeat("]", 80)},
		"negative":      {`1700000000`, `-1`},
		"2^53":          {`1700000000`, `9007199254740992`},
		"exponent":      {`1700000000`, `1e3`},
		"text":          {`1700000000`, `"1"`},
		"abi":           {`policy/1`, `policy/2`},
		"event":         {`"build"`, `"party"`},
		"null":          {`"hello"`, `null`},
		"list":          {`"hello"`, `["hello"]`},
		"object":        {`"hello"`, `{}`},
		"UTF-8":         {`hello`, "\xc3("},
	} {
		text := strings.Replace(goldenRequest, change[0], change[1], 1)
		if text == goldenRequest {
			t.Fatalf("%s changes nothing", name)
		}
		_, err := DecodeRequest([]byte(text))
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		wantCode(t, err, CodeBadRequest)
	}
	_, err := DecodeRequest(make([]byte, MaxStdin+1))
	wantCode(t, err, CodeTooLarge)
}

func TestCheckSettings(t *testing.T) {
	for _, good := range []string{`{}`, `null`, `"x"`, ` [1, {"a": 1}] `} {
		if err := CheckSettings(json.RawMessage(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		``: "ends early", `{`: "ends early", `{"a": "b`: "ends early", `1,"settings":2`: "more follows", `1},"x":{`: "more follows", `1}`: "more follows",
		`{"a":1,"a":1}`: "given twice", "\"\xff\"": "UTF-8", strings.Repeat("[", 80): "nested deeper", `"` + strings.Repeat("x", MaxSettings) + `"`: "more than",
	} {
		if err := CheckSettings(json.RawMessage(bad)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %q in it", bad, err, want)
		}
	}
}

// TestApply goes over what limits can be before and after.
func TestApply(t *testing.T) {
	yes, no := true, false
	none := ticket.Limits{}
	for name, c := range map[string]struct {
		current ticket.Limits
		narrow  Limits
		want    ticket.Limits
		code    Code
	}{
		"first limit":      {current: none, narrow: Limits{MaxBuildSeconds: 60}, want: ticket.Limits{MaxBuildTime: ticket.Duration(time.Minute)}},
		"huge first limit": {current: none, narrow: Limits{MaxBuildSeconds: MaxNumber}, want: ticket.Limits{MaxBuildTime: 9223372036 * ticket.Duration(time.Second)}},
		"first systems":    {current: none, narrow: Limits{Systems: []string{"a"}}, want: ticket.Limits{Systems: []string{"a"}}},
		"fixed output":     {current: none, narrow: Limits{NoFixedOutput: &yes}, want: ticket.Limits{NoFixedOutput: true}},
		"fixed as before":  {current: none, narrow: Limits{NoFixedOutput: &no}, want: none},
		"rounded seconds kept": {
			current: ticket.Limits{MaxBuildTime: ticket.Duration(90*time.Second + 500*time.Millisecond)}, narrow: Limits{MaxBuildSeconds: 90},
			want: ticket.Limits{MaxBuildTime: ticket.Duration(90*time.Second + 500*time.Millisecond)},
		},
		"rounded seconds":  {current: ticket.Limits{MaxBuildTime: ticket.Duration(90*time.Second + 500*time.Millisecond)}, narrow: Limits{MaxBuildSeconds: 91}, code: CodeWidens},
		"part of a second": {current: ticket.Limits{MaxBuildTime: ticket.Duration(time.Millisecond)}, narrow: Limits{MaxBuildSeconds: 60}, code: CodeWidens},
		"above 2^53":       {current: ticket.Limits{MaxUploadBytes: 1 << 60}, narrow: Limits{MaxUploadBytes: MaxNumber}, want: ticket.Limits{MaxUploadBytes: 1 << 60}},
		"not a number":     {current: none, narrow: Limits{MaxOutputBytes: 1 << 63}, code: CodeWidens},
		"empty systems":    {current: none, narrow: Limits{Systems: []string{}}, code: CodeWidens},
	} {
		got, err := c.narrow.Apply(c.current)
		if c.code != "" {
			wantCode(t, err, c.code)
			continue
		}
		if err != nil || mustJSON(t, got) != mustJSON(t, c.want) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
}
