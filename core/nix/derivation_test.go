package nix_test

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

func parseDrv(t *testing.T, name string) *nix.Derivation {
	t.Helper()
	p, contents := drv(t, name)
	d, err := nix.ParseDerivation(p.Name(), contents)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDerivationVectors(t *testing.T) {
	for name, want := range map[string]struct {
		kind    nix.OutputKind
		outputs []string
		drvs    int
		srcs    int
	}{
		"dep-1.0":     {nix.InputAddressed, []string{"dev", "out"}, 0, 1},
		"simple":      {nix.InputAddressed, []string{"out"}, 1, 0},
		"top":         {nix.InputAddressed, []string{"out"}, 1, 2},
		"structured":  {nix.InputAddressed, []string{"lib", "out"}, 0, 0},
		"flat.tar.gz": {nix.Fixed, []string{"out"}, 0, 0},
		"flat-sha1":   {nix.Fixed, []string{"out"}, 0, 0},
		"nar":         {nix.Fixed, []string{"out"}, 0, 0},
		"nar-sha512":  {nix.Fixed, []string{"out"}, 0, 0},
		"nar-md5":     {nix.Fixed, []string{"out"}, 0, 0},
		"floating":    {nix.Floating, []string{"doc", "out"}, 0, 0},
		"deferred":    {nix.Deferred, []string{"out"}, 1, 0},
		"impure":      {nix.Impure, []string{"out"}, 0, 0},
	} {
		d := parseDrv(t, name)
		if d.Name != name || d.Kind() != want.kind || !slices.Equal(slices.Sorted(maps.Keys(d.Outputs)), want.outputs) ||
			len(d.InputDrvs) != want.drvs || len(d.InputSrcs) != want.srcs {
			t.Errorf("%s: %+v", name, d)
		}
		if d.System != "x86_64-linux" || d.Builder != "/bin/sh" || !slices.Equal(d.Args, []string{"-c", "echo \"$x\"\n\techo >$out\\"}) {
			t.Errorf("%s: system %q, builder %q, arguments %q", name, d.System, d.Builder, d.Args)
		}
	}
	if got := parseDrv(t, "simple").Env["weird"]; got != "tab\tquote\" back\\ cr\r nl\n dollar${x} é" {
		t.Errorf("escapes: %q", got)
	}
	if out := parseDrv(t, "floating").Outputs["doc"]; out != (nix.Output{HashAlgo: "r:sha256"}) {
		t.Errorf("floating output %+v", out)
	}
}

// The path of each .drv follows from its contents and references.
func TestDrvPaths(t *testing.T) {
	for path, contents := range drvs(t) {
		d, err := nix.ParseDerivation(path.Name(), contents)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := nix.TextInfo(path.Name(), contents, d.References()); err != nil || info.Path != path {
			t.Errorf("%s: %s, %v", path, info.Path, err)
		}
		more := append(slices.Clone(contents), ' ')
		if info, err := nix.TextInfo(path.Name(), more, d.References()); err != nil || info.Path == path {
			t.Errorf("%s with a byte more: %s, %v", path, info.Path, err)
		}
	}
}

func TestRequiredFeatures(t *testing.T) {
	for name, want := range map[string][]string{
		"simple":     {"big-parallel", "kvm"},
		"structured": {"kvm", "recursive-nix"},
		"top":        nil,
	} {
		got, err := parseDrv(t, name).RequiredFeatures()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	d := nix.Derivation{Env: map[string]string{"__json": "{}", "requiredSystemFeatures": "kvm"}}
	if got, err := d.RequiredFeatures(); err != nil || len(got) > 0 {
		t.Errorf("a variable beside structured attributes: %q, %v", got, err)
	}
	for _, json := range []string{``, `[]`, `{"requiredSystemFeatures":"kvm"}`, `{"requiredSystemFeatures":[1]}`, `{}{}`} {
		d := nix.Derivation{Env: map[string]string{"__json": json, "requiredSystemFeatures": "no"}}
		if got, err := d.RequiredFeatures(); !errors.Is(err, nix.ErrBadDerivation) {
			t.Errorf("%s: %q, %v", json, got, err)
		}
	}
	long := strings.Repeat("a ", 1000)
	for name, env := range map[string]map[string]string{
		"variable": {"requiredSystemFeatures": long},
		"list":     {"__json": `{"requiredSystemFeatures":["` + long + `"]}`},
	} {
		d := nix.Derivation{Env: env}
		if got, err := d.RequiredFeatures(); !errors.Is(err, nix.ErrBadDerivation) {
			t.Errorf("a long %s: %d features, %v", name, len(got), err)
		}
	}
}

const minimal = `Derive([("out","/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x","","")],[],[],"s","b",[],[])`

func TestParseDerivationRefuses(t *testing.T) {
	if _, err := nix.ParseDerivation("x.drv", []byte(minimal)); err != nil {
		t.Fatal(err)
	}
	out := `[("out","/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x","","")]`
	with := func(old, new string) string {
		if !strings.Contains(minimal, old) {
			t.Fatal(old)
		}
		return strings.Replace(minimal, old, new, 1)
	}
	outputs := func(s string) string { return with(out, s) }
	inputs := func(s string) string { return with(`,[],[],"s"`, `,[`+s+`],[],"s"`) }
	srcs := func(s string) string { return with(`,[],[],"s"`, `,[],[`+s+`],"s"`) }
	env := func(s string) string { return with(`[])`, `[`+s+`])`) }
	const a, b = `"/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-a`, `"/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-b`
	for name, text := range map[string]string{
		"empty":               "",
		"prefix":              "Derive(",
		"bytes behind":        minimal + "\n",
		"space":               with(`,"s"`, `, "s"`),
		"trailing comma":      with(`"b",[]`, `"b",["x",]`),
		"leading comma":       with(`"b",[]`, `"b",[,"x"]`),
		"no comma":            with(`"b",[]`, `"b",["x""y"]`),
		"missing field":       with(`,[])`, `)`),
		"field too many":      with(`[])`, `[],[])`),
		"raw newline":         with(`"s"`, "\"s\n\""),
		"raw tab":             with(`"s"`, "\"s\t\""),
		"unneeded escape":     with(`"s"`, `"\s"`),
		"escape at the end":   `Derive([("out\`,
		"unterminated":        with(`"b",[],[])`, `"b`),
		"no outputs":          outputs(`[]`),
		"unnamed output":      outputs(`[("","/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x","","")]`),
		"outputs unsorted":    outputs(`[("out","/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x","",""),("a","/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x-a","","")]`),
		"output twice":        outputs(`[("out","/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x","",""),("out","/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x","","")]`),
		"output of a path":    outputs(`[("out","/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x/..","","")]`),
		"output's other name": outputs(`[("out","/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-y","","")]`),
		"output with a slash": outputs(`[("a/b","","r:sha256","")]`),
		"mixed kinds":         outputs(`[("a","","r:sha256",""),("out","/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x","","")]`),
		"hash alone":          outputs(`[("out","/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x","","aa")]`),
		"floating with path":  outputs(`[("out","/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x","r:sha256","")]`),
		"impure with path":    outputs(`[("out","/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x","r:sha256","impure")]`),
		"unknown algorithm":   outputs(`[("out","","r:sha3","")]`),
		"git":                 outputs(`[("out","","git:sha1","")]`),
		"fixed, other path":   outputs(`[("out","/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x","sha256","` + strings.Repeat("0", 64) + `")]`),
		"fixed, no path":      outputs(`[("out","","sha256","` + strings.Repeat("0", 64) + `")]`),
		"fixed, short hash":   outputs(`[("out","","sha256","00")]`),
		"fixed, not out":      outputs(`[("bin","","sha256","` + strings.Repeat("0", 64) + `")]`),
		"input is no drv":     inputs(`(` + a + `",["out"])`),
		"input is no path":    inputs(`("/etc/passwd.drv",["out"])`),
		"input not wanted":    inputs(`(` + a + `.drv",[])`),
		"inputs unsorted":     inputs(`(` + b + `.drv",["out"]),(` + a + `.drv",["out"])`),
		"input twice":         inputs(`(` + a + `.drv",["out"]),(` + a + `.drv",["dev"])`),
		"input outputs order": inputs(`(` + a + `.drv",["out","dev"])`),
		"input output twice":  inputs(`(` + a + `.drv",["out","out"])`),
		"dynamic input":       inputs(`(` + a + `.drv",(["out"],[]))`),
		"source is no path":   srcs(`"x"`),
		"sources unsorted":    srcs(b + `",` + a + `"`),
		"source twice":        srcs(a + `",` + a + `"`),
		"variables unsorted":  env(`("b",""),("a","")`),
		"variable twice":      env(`("a","1"),("a","2")`),
		"empty twice":         env(`("","1"),("","2")`),
	} {
		d, err := nix.ParseDerivation("x", []byte(text))
		if !errors.Is(err, nix.ErrBadDerivation) || errors.Is(err, nix.ErrDynamicDerivation) {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
	if _, err := nix.ParseDerivation("x", []byte(`DrvWithVersion("xp-dyn-drv",[("out"`)); !errors.Is(err, nix.ErrDynamicDerivation) {
		t.Errorf("dynamic: %v", err)
	}
	for _, name := range []string{"", "a/b", ".", strings.Repeat("n", 208)} {
		if _, err := nix.ParseDerivation(name, []byte(minimal)); !errors.Is(err, nix.ErrBadDerivation) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, err := nix.ParseDerivation("x", make([]byte, nix.MaxDrvSize+1)); !errors.Is(err, nix.ErrBadDerivation) || !strings.Contains(err.Error(), "longer") {
		t.Errorf("too long: %v", err)
	}
}

func TestParseDerivationBytes(t *testing.T) {
	d, err := nix.ParseDerivation("x", []byte(strings.Replace(minimal, `"s"`, "\"\xff\x00\x7f\"", 1)))
	if err != nil || d.System != "\xff\x00\x7f" {
		t.Errorf("%+v, %v", d, err)
	}
}

// unparse writes a derivation the way Nix does: for the parser's inverse.
func unparse(d *nix.Derivation) string {
	str := func(s string) string {
		return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(s) + `"`
	}
	list := func(items []string) string { return "[" + strings.Join(items, ",") + "]" }
	strs := func(items []string) string {
		quoted := make([]string, len(items))
		for i, s := range items {
			quoted[i] = str(s)
		}
		return list(quoted)
	}
	var outputs, inputs, srcs, env []string
	for _, name := range slices.Sorted(maps.Keys(d.Outputs)) {
		o := d.Outputs[name]
		outputs = append(outputs, "("+str(name)+","+str(string(o.Path))+","+str(o.HashAlgo)+","+str(o.Hash)+")")
	}
	for p, names := range d.InputDrvs {
		inputs = append(inputs, "("+str(string(p))+","+strs(names)+")")
	}
	slices.Sort(inputs)
	for _, p := range d.InputSrcs {
		srcs = append(srcs, string(p))
	}
	var keys []string
	for k := range d.Env {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		env = append(env, "("+str(k)+","+str(d.Env[k])+")")
	}
	return "Derive(" + list(outputs) + "," + list(inputs) + "," + strs(srcs) + "," + str(d.System) + "," +
		str(d.Builder) + "," + strs(d.Args) + "," + list(env) + ")"
}

// FuzzDerivation: what is accepted is the one text of what it means.
func FuzzDerivation(f *testing.F) {
	for p, contents := range drvs(f) {
		f.Add(strings.TrimSuffix(p.Name(), ".drv"), contents)
	}
	f.Add("x", []byte(minimal))
	f.Add("x", []byte(`DrvWithVersion("xp-dyn-drv",`))
	f.Fuzz(func(t *testing.T, name string, contents []byte) {
		d, err := nix.ParseDerivation(name, contents)
		if err != nil {
			return
		}
		if got := unparse(d); got != string(contents) {
			t.Fatalf("%s\ncomes out as\n%s", contents, got)
		}
		again, err := nix.ParseDerivation(name, contents)
		if err != nil || !reflect.DeepEqual(d, again) {
			t.Fatal(again, err)
		}
	})
}
