package policy

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func FuzzDecodeDecision(f *testing.F) {
	for _, text := range []string{
		allows,
		`{"abi":"ticket-policy/1","decision":"deny","reason":"\ud800 \u0000"}`,
		decides(`"max_build_seconds":1,"max_upload_bytes":9007199254740991,"systems":["a","b"],"no_fixed_output":true`),
		decides(`"max_upload_bytes":NaN`), decides(`"max_upload_bytes":-0`), decides(`"systems":null`),
		`{"abi":"ticket-policy/1","decision":"allow","decision":"deny"}`, allows + allows, "\xff", `[[[[`, ``,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := DecodeDecision(data)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || (e.Code != CodeBadOutput && e.Code != CodeOutputLimit) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if strings.ContainsFunc(d.Reason, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Fatalf("reason %q", d.Reason)
		}
		// No decision leaves more than there was.
		limits, err := d.settle(testLimits)
		if err == nil {
			if limits.MaxBuildTime <= 0 || limits.MaxBuildTime > testLimits.MaxBuildTime ||
				limits.MaxUploadBytes <= 0 || limits.MaxUploadBytes > testLimits.MaxUploadBytes ||
				limits.MaxOutputBytes <= 0 || limits.MaxOutputBytes > testLimits.MaxOutputBytes ||
				len(limits.Systems) == 0 || len(limits.Systems) > len(testLimits.Systems) || !limits.NoFixedOutput {
				t.Fatalf("limits %+v", limits)
			}
		}
		again, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeDecision(again); err != nil {
			t.Fatalf("%s: %v", again, err.(*Error).Owner())
		}
	})
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(goldenRequest))
	f.Add([]byte(strings.Replace(goldenRequest, `[1,null]`, `{"x":{"y":[{}]}}`, 1)))
	f.Add([]byte(`{"abi":"ticket-policy/1","event":"create"}`))
	f.Add([]byte(`{"abi":"ticket-policy/1","now":1e3,"event":"create"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeRequest(data)
		if err != nil {
			return
		}
		text, err := r.Encode()
		if err != nil {
			var e *Error
			if errors.As(err, &e) && e.Code == CodeTooLarge {
				return // escapes made it larger
			}
			t.Fatalf("%+v: %v", r, err)
		}
		if _, err := DecodeRequest(text); err != nil {
			t.Fatalf("%s: %v", text, err.(*Error).Owner())
		}
	})
}

// FuzzModule runs mutated modules: whatever they are, each ends, and only those
// that say so allow.
func FuzzModule(f *testing.F) {
	for _, c := range hostile() {
		if len(c.code) < 4096 {
			f.Add(c.code)
		}
	}
	f.Add(says(allows))
	f.Add(says(decides(`"max_upload_bytes":1`)))
	hosts := []*Host{
		NewHost(Config{Wall: 5 * time.Millisecond, Concurrency: 1}),
		NewHost(Config{Wall: 5 * time.Millisecond, Concurrency: 1, Interpret: true}),
	}
	f.Fuzz(func(t *testing.T, code []byte) {
		if len(code) > 64<<10 {
			return
		}
		for _, h := range hosts {
			res, err := ask(t, h, code)
			if err == nil {
				if res.Decision.Decision != Allow && res.Decision.Decision != Narrow {
					t.Fatalf("permission by %+v", res.Decision)
				}
				continue
			}
			var e *Error
			if !errors.As(err, &e) || holderText[e.Code] == "" {
				t.Fatalf("error %v", err)
			}
		}
	})
}
