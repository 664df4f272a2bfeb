package main

import (
	"slices"
	"strings"
	"testing"
)

func TestTallyCountsEvents(t *testing.T) {
	const stream = `{"Action":"run","Package":"m/a","Test":"TestX"}
{"Action":"pass","Package":"m/a","Test":"TestX"}
{"Action":"fail","Package":"m/a","Test":"TestY/sub"}
{"Action":"fail","Package":"m/a","Test":"TestY"}
{"Action":"fail","Package":"m/a"}
{"Action":"skip","Package":"m/a","Test":"TestZ"}
not JSON: printed by a program
{"Action":"skip","Package":"m/without-tests"}
{"ImportPath":"m/b","Action":"build-output","Output":"b.go:1: undefined: x\n"}
{"ImportPath":"m/b","Action":"build-fail"}
{"Action":"fail","Package":"m/b","FailedBuild":"m/b"}
{"Action":"output","Package":"m/c","Output":"panic: out of test\n"}
{"Action":"fail","Package":"m/c"}
{"Action":"run","Package":"m/d","Test":"TestBad"}
{"Action":"fail","Package":"m/d","Test":"TestBad"}
{"Action":"run","Package":"m/d","Test":"TestSlow"}
{"Action":"output","Package":"m/d","Test":"TestSlow","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"m/d"}
`
	var tl tally
	if err := tl.events("", strings.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if tl.passed != 1 {
		t.Errorf("%d passed, want 1", tl.passed)
	}
	// A package that fails because of its tests does not count again.
	if want := []string{"m/a TestY/sub", "m/a TestY", "m/b", "m/c", "m/d TestBad", "m/d TestSlow (did not end)"}; !slices.Equal(tl.failed, want) {
		t.Errorf("failed %q, want %q", tl.failed, want)
	}
	if want := []string{"m/a TestZ"}; !slices.Equal(tl.skipped, want) {
		t.Errorf("skipped %q, want %q", tl.skipped, want)
	}
	if got := tl.report(); got != 1 {
		t.Errorf("exit status %d, want 1", got)
	}
}
