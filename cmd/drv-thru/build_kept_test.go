package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
)

// What is kept of outputs is found for the same outputs of the same builder, and what
// is damaged is as good as missing.
func TestKeptOutputs(t *testing.T) {
	home := t.TempDir()
	a := &app{environ: []string{"HOME=" + home}}
	wanted := []nix.Path{nix.Path("/nix/store/" + strings.Repeat("a", 32) + "-it")}
	looks := func(builder byte, wanted []nix.Path) *incoming {
		r := &buildRun{app: a, route: &route{builder: key.ID{builder}}, flags: &buildFlags{}, log: slog.New(slog.DiscardHandler), cacheSize: 1 << 30}
		for i, p := range wanted {
			r.targets = append(r.targets, target{drv: "x.drv", outputs: []output{{strconv.Itoa(i), p}}})
		}
		t.Cleanup(r.closeChunks)
		return &incoming{buildRun: r, wanted: wanted}
	}
	info := nix.PathInfo{Path: wanted[0], NarHash: nix.SumHash(nil), NarSize: 120, Sigs: []string{"k-1:" + strings.Repeat("A", 86) + "=="}}
	manifests := bytes.Repeat([]byte("\n\n\nmanifests"), chunk.MaxSize/4) // several pieces
	doc := append([]byte("k-1:key\n"+string(info.MarshalNarInfo())+"\n\n"), manifests...)
	keep := func(doc []byte) string {
		in := looks(1, wanted)
		in.openChunks()
		if err := in.putKept(doc); err != nil {
			t.Fatal(err)
		}
		path, err := a.outputsPath(outputsOf(key.ID{1}, wanted))
		if err != nil {
			t.Fatal(err)
		}
		in.closeChunks()
		in.chunks = nil
		return path
	}
	if k, err := looks(1, wanted).beginKept()(); err == nil {
		t.Fatalf("found before anything is kept: %+v", k)
	}
	file := keep(doc)
	k, err := looks(1, wanted).beginKept()()
	if err != nil || k.signingKey != "k-1:key" || len(k.infos) != 1 || k.infos[0].Path != wanted[0] || !bytes.Equal(k.manifests, manifests) {
		t.Fatalf("%v, or it is not what was kept", err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	refused := func(name string, in *incoming) {
		t.Helper()
		if k, err := in.beginKept()(); err == nil {
			t.Errorf("%s: found %+v", name, k)
		}
	}
	refused("another builder's", looks(2, wanted))
	refused("other outputs", looks(1, append(slices.Clone(wanted), wanted[0]+"-dev")))
	off := looks(1, wanted)
	off.cacheSize = 0
	refused("without a chunk store", off)
	for name, change := range map[string]func(r *buildRun){
		"nobody is named":      func(r *buildRun) { r.route = nil },
		"to build it again":    func(r *buildRun) { r.flags.rebuild = true },
		"detached":             func(r *buildRun) { r.flags.detach = true },
		"to see what would be": func(r *buildRun) { r.flags.dryRun = true },
		"a build tells where":  func(r *buildRun) { r.targets[0].outputs[0].path = "" },
	} {
		in := looks(1, wanted)
		change(in.buildRun)
		if in.beginKept() != nil {
			t.Errorf("%s: it looks", name)
		}
	}
	for name, damaged := range map[string]string{
		"empty":      "",
		"cut":        string(text[:len(text)-1]),
		"of another": strings.Replace(string(text), `"of":"`, `"of":"0`, 1),
		"long ID":    strings.Replace(string(text), `"chunks":["`, `"chunks":["00`, 1),
		"no ID":      strings.Replace(string(text), `"chunks":["`, `"chunks":["x`, 1),
		"no chunk":   strings.Replace(string(text), `"chunks":["`, `"chunks":["`+strings.Repeat("0", 64)+`","`, 1),
		"large":      strings.Replace(string(text), `"chunks":["`, `"chunks":["`+strings.Repeat(strings.Repeat("0", 64)+`","`, 300), 1),
	} {
		if err := os.WriteFile(file, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(name, looks(1, wanted))
	}
	for name, doc := range map[string]string{
		"no text":      "x",
		"key alone":    "k-1:key\n",
		"not the path": "k-1:key\n" + strings.ReplaceAll(string(info.MarshalNarInfo()), "-it", "-other") + "\n\n",
		"twice":        "k-1:key\n" + string(info.MarshalNarInfo()) + "\n" + string(info.MarshalNarInfo()) + "\n\n",
	} {
		keep([]byte(doc))
		refused(name, looks(1, wanted))
	}
	keep(doc)
	packs, err := filepath.Glob(filepath.Join(home, ".cache/drv-thru/chunks/*"))
	if err != nil || len(packs) == 0 {
		t.Fatalf("%v %v", packs, err)
	}
	for _, pack := range packs {
		if err := os.Remove(pack); err != nil {
			t.Fatal(err)
		}
	}
	refused("chunks are gone", looks(1, wanted))
}
