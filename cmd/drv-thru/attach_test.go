package main

import (
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
)

func TestAttached(t *testing.T) {
	const hash = "/nix/store/00000000000000000000000000000000-"
	good := &wire.Result{Outputs: []wire.Output{
		{Drv: hash + "a-1.drv", Name: "out", Path: hash + "a-1"},
		{Drv: hash + "b.drv", Name: "out", Path: hash + "b"},
		{Drv: hash + "a-1.drv", Name: "dev", Path: hash + "a-1-dev"},
	}}
	targets, err := attached(good)
	if err != nil || len(targets) != 2 || len(targets[0].outputs) != 2 || targets[0].outputs[1].path != hash+"a-1-dev" || targets[1].installable != hash+"b.drv" {
		t.Errorf("%+v, %v", targets, err)
	}
	for _, bad := range []wire.Output{
		{Drv: "a.drv", Name: "out", Path: hash + "a"},
		{Drv: hash + "a", Name: "out", Path: hash + "a"},
		{Drv: hash + "a.drv", Name: "out", Path: "/etc/passwd"},
		{Drv: hash + "a.drv", Name: "out", Path: hash + "b"}, // another name than its derivation's
	} {
		if _, err := attached(&wire.Result{Outputs: []wire.Output{bad}}); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// What the builder says of a build that it does not know is of little use.
func TestOfBuild(t *testing.T) {
	for code, want := range map[wire.Code]string{wire.CodeNotFound: "that started it", wire.CodeRestarted: "build it again"} {
		err := ofBuild(code.Err())
		if wire.CodeOf(err) != code || !strings.Contains(hintOf(err), want) {
			t.Errorf("%s: %v, hint %q", code, err, hintOf(err))
		}
	}
	if ofBuild(nil) != nil {
		t.Error("nothing has become an error")
	}
}
