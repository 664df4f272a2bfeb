package term

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

func TestGraph(t *testing.T) {
	in := inputs()
	root := in.Paths[len(in.Paths)-1]
	g := NewGraph(in, []nix.Path{root, drvPath("missing")})
	for name, want := range map[string][]nix.Path{
		"libfoo-2.1": {root, drvPath("libfoo-2.1")},
		"glibc-2.40": {root, drvPath("gcc-14.2.0"), drvPath("glibc-2.40")}, // not by way of libfoo
		"unknown":    {drvPath("unknown")},
	} {
		if got := g.way(drvPath(name)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := (*Graph)(nil).way(root); !slices.Equal(got, []nix.Path{root}) {
		t.Errorf("without a graph: %q", got)
	}
	var shape func(nodes []*node) string
	shape = func(nodes []*node) string {
		var s []string
		for _, n := range nodes {
			text := drvTitle(n.drv)
			if n.job == nil {
				text = "(" + text + ")"
			}
			if len(n.children) > 0 {
				text += "[" + shape(n.children) + "]"
			}
			s = append(s, text)
		}
		return strings.Join(s, " ")
	}
	jobs := func(names ...string) (out []*job) {
		for _, n := range names {
			out = append(out, &job{drv: drvPath(n)})
		}
		return out
	}
	const app = "(app-with-a-name-that-is-rather-long-1.0)"
	for _, c := range []struct {
		jobs []*job
		want string
	}{
		{jobs("glibc-2.40"), app + "[glibc-2.40]"},
		{jobs("glibc-2.40", "gcc-14.2.0"), app + "[gcc-14.2.0[glibc-2.40]]"},
		{jobs("plugin-audio-1.0", "unknown", "libbar-0.9"), app + "[plugin-audio-1.0 libbar-0.9] unknown"},
		{nil, ""},
	} {
		// libbar may be below any of three, all as near.
		got := strings.ReplaceAll(shape(g.tree(c.jobs)), "plugin-audio-1.0[libbar-0.9]", "plugin-audio-1.0 libbar-0.9")
		if got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

// However much builds, the picture is as high as it may be and no higher.
func TestManyBuilds(t *testing.T) {
	p := newPlay(t, 80, 24, Config{}, map[string]string{"LANG": "C.UTF-8"})
	p.tell(wire.Event{Type: wire.EventPhase, State: wire.StateBuilding})
	for i := range maxRunning + 10 {
		p.begin(fmt.Sprintf("package-%d", i), "")
	}
	for rows := range 60 {
		frame := p.frame(p.now, 80, rows)
		if most := max(1, rows-1); rows > 6 && len(frame) > most {
			t.Errorf("%d rows of %d", len(frame), rows)
		}
	}
	frame := p.frame(p.now, 80, 24)
	if want := fmt.Sprintf("… and %d more running", maxRunning-7); len(frame) != 10 || !strings.Contains(frame[7], want) {
		t.Errorf("%q", frame)
	}
}
