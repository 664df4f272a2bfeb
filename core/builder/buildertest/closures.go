package buildertest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/nar"
	"github.com/drv-thru/drv-thru/core/wire"
)

// System is what derivations of this package are for.
const System = "x86_64-linux"

// FileNar returns the NAR of a file.
func FileNar(text string) []byte {
	var b bytes.Buffer
	if err := nar.WriteFile(&b, []byte(text), false); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// Source is a content-addressed file (fixed:r:sha256).
func Source(name, text string) Object {
	archive := FileNar(text)
	hash := nix.SumHash(archive)
	ca := nix.CA{Method: nix.CANar, Algo: nix.SHA256, Digest: hash[:]}
	path, err := nix.PathFromCA(name, ca, nil, false)
	if err != nil {
		panic(err)
	}
	return Object{nix.PathInfo{Path: path, NarHash: hash, NarSize: uint64(len(archive)), CA: ca.String()}, archive}
}

// Built is an input-addressed path with contents that are not verified by it.
func Built(path nix.Path, text string) Object {
	archive := FileNar(text)
	return Object{nix.PathInfo{
		Path: path, NarHash: nix.SumHash(archive), NarSize: uint64(len(archive)), Ultimate: true,
	}, archive}
}

// Drv says what a derivation is.
type Drv struct {
	Name    string
	Inputs  []nix.Path // derivations, of which "out" is needed
	Sources []nix.Path
	System  string // default System
	Fixed   bool   // fixed-output
	Outputs []string
	Text    string // makes it another derivation
}

// Derivation makes the .drv of d. Its output paths are of the right form but not
// the ones that Nix would compute.
func Derivation(d Drv) (o Object, outputs map[string]nix.Path) {
	if d.System == "" {
		d.System = System
	}
	if len(d.Outputs) == 0 {
		d.Outputs = []string{"out"}
	}
	slices.Sort(d.Outputs)
	slices.Sort(d.Inputs)
	slices.Sort(d.Sources)
	outputs = make(map[string]nix.Path)
	var outs, ins, srcs []string
	for _, name := range d.Outputs {
		full := d.Name
		if name != "out" {
			full += "-" + name
		}
		algo, digest := "", ""
		fake := Source(full, d.Text+fmt.Sprint(d.Name, d.Inputs, d.Sources, d.System, name))
		outputs[name] = fake.Info.Path
		if d.Fixed {
			algo = "r:sha256"
			digest = fake.Info.NarHash.Hex()
		}
		outs = append(outs, fmt.Sprintf(`(%q,%q,%q,%q)`, name, outputs[name], algo, digest))
	}
	for _, in := range d.Inputs {
		ins = append(ins, fmt.Sprintf(`(%q,["out"])`, in))
	}
	for _, src := range d.Sources {
		srcs = append(srcs, fmt.Sprintf("%q", src))
	}
	text := fmt.Sprintf(`Derive([%s],[%s],[%s],%q,"/bin/sh",[],[("text",%q)])`,
		strings.Join(outs, ","), strings.Join(ins, ","), strings.Join(srcs, ","), d.System, d.Text)
	info, err := nix.TextInfo(d.Name+".drv", []byte(text), append(slices.Clone(d.Inputs), d.Sources...))
	if err != nil {
		panic(err)
	}
	return Object{info, FileNar(text)}, outputs
}

// Inputs makes the closure document of objects, references before referrers.
func Inputs(objects ...Object) []wire.Input {
	index := make(map[nix.Path]int)
	inputs := make([]wire.Input, len(objects))
	for i, o := range objects {
		index[o.Info.Path] = i
		in := wire.Input{
			Path: string(o.Info.Path), NarHash: o.Info.NarHash.Nix32(), NarSize: o.Info.NarSize, CA: o.Info.CA, Sigs: o.Info.Sigs,
		}
		for _, ref := range o.Info.References {
			in.References = append(in.References, index[ref])
		}
		inputs[i] = in
	}
	return inputs
}

// Request asks for the output "out" of the last object.
func Request(objects ...Object) wire.BuildRequest {
	last := objects[len(objects)-1]
	return wire.BuildRequest{
		Roots:   []wire.Root{{Drv: string(last.Info.Path), Outputs: []string{"out"}, Label: "test"}},
		Closure: Inputs(objects...),
	}
}
