package nix

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	// MaxDrvSize is the longest .drv file that is read, in bytes.
	MaxDrvSize = 64 << 20
	// maxFeatures bounds the text of requiredSystemFeatures, a few words.
	maxFeatures = 1 << 10

	impureHash      = "impure"
	structuredAttrs = "__json"
)

var (
	// ErrBadDerivation is wrapped by every error of ParseDerivation.
	ErrBadDerivation = errors.New("malformed derivation")
	// ErrDynamicDerivation says that a .drv is of the versioned form that Nix's
	// experimental dynamic derivations need, which drv-thru does not build. It
	// wraps ErrBadDerivation.
	ErrDynamicDerivation = fmt.Errorf("%w: dynamic derivations are not supported", ErrBadDerivation)
)

// Derivation is a build step: what a .drv file says.
type Derivation struct {
	// Name is the store path's name without ".drv".
	Name    string
	Outputs map[string]Output
	// InputDrvs maps the derivations whose outputs are needed to those outputs' names, sorted.
	InputDrvs map[Path][]string
	// InputSrcs are sorted.
	InputSrcs []Path
	// System is "x86_64-linux" and the like, or "builtin".
	System  string
	Builder string
	Args    []string
	Env     map[string]string
}

// Output is one output of a derivation, with the fields as they stand in the
// file; Kind says what their combination means.
type Output struct {
	// Path is empty when it is only known after the build.
	Path Path
	// HashAlgo is the algorithm behind its method: "sha256", "r:sha256", …
	HashAlgo string
	// Hash is the digest in hex (or another base) of a fixed output, "impure"
	// for an impure one, and empty else.
	Hash string
}

// OutputKind says how the path of an output comes about.
type OutputKind uint8

// The kinds of output (Nix libstore/derivations.hh, DerivationOutput).
const (
	// InputAddressed: from the derivation.
	InputAddressed OutputKind = iota
	// Fixed: from a hash that the derivation states. It may use the network.
	Fixed
	// Floating: from the contents, known after the build.
	Floating
	// Deferred: input-addressed, but depending on floating outputs.
	Deferred
	// Impure: like floating, but built anew each time, with the network.
	Impure
)

// Kind returns the kind of output.
func (o Output) Kind() OutputKind {
	switch {
	case o.HashAlgo == "" && o.Path == "":
		return Deferred
	case o.HashAlgo == "":
		return InputAddressed
	case o.Hash == impureHash:
		return Impure
	case o.Hash != "":
		return Fixed
	}
	return Floating
}

// Kind returns the kind of the outputs, which all have the same.
func (d *Derivation) Kind() OutputKind {
	for _, o := range d.Outputs {
		return o.Kind()
	}
	return InputAddressed
}

// References returns the references of the .drv itself: input derivations and
// sources, sorted.
func (d *Derivation) References() []Path {
	refs := make([]Path, 0, len(d.InputDrvs)+len(d.InputSrcs))
	for p := range d.InputDrvs {
		refs = append(refs, p)
	}
	refs = append(refs, d.InputSrcs...)
	slices.Sort(refs)
	return slices.Compact(refs)
}

// RequiredFeatures returns requiredSystemFeatures, sorted: the words of the
// environment variable or, with structured attributes, the list of strings. It
// fails when the latter are malformed, as then the derivation cannot be built either,
// and when they have more than 1024 bytes: in memory they may be many times as long.
func (d *Derivation) RequiredFeatures() ([]string, error) {
	const attr = "requiredSystemFeatures"
	text, structured := d.Env[structuredAttrs]
	list := d.Env[attr]
	if structured {
		// A map, because decoding to a struct would also take "RequiredSystemfeatures".
		var attrs map[string]json.RawMessage
		if err := json.Unmarshal([]byte(text), &attrs); err != nil {
			return nil, fmt.Errorf("%w: structured attributes: %w", ErrBadDerivation, err)
		}
		list = string(attrs[attr])
	}
	if len(list) > maxFeatures {
		return nil, fmt.Errorf("%w: %s: longer than %d bytes", ErrBadDerivation, attr, maxFeatures)
	}
	var features []string
	switch {
	case !structured:
		features = strings.Fields(list)
	case list != "":
		if err := json.Unmarshal([]byte(list), &features); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrBadDerivation, attr, err)
		}
	}
	slices.Sort(features)
	return slices.Compact(features), nil
}

// ParseDerivation reads the contents of a .drv. name is the store path's name,
// with or without ".drv". It takes exactly the text that Nix writes, outputs of
// every kind included; the versioned form of dynamic derivations is
// ErrDynamicDerivation. The path of a fixed output must follow from its hash.
func ParseDerivation(name string, contents []byte) (*Derivation, error) {
	name = strings.TrimSuffix(name, drvSuffix)
	if err := CheckName(name + drvSuffix); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadDerivation, err)
	}
	if len(contents) > MaxDrvSize {
		return nil, fmt.Errorf("%w: %s: longer than %d bytes", ErrBadDerivation, name, int64(MaxDrvSize))
	}
	if bytes.HasPrefix(contents, []byte("DrvWithVersion(")) {
		return nil, fmt.Errorf("%s: %w", name, ErrDynamicDerivation)
	}
	d := &Derivation{Name: name}
	a := aterm{s: contents}
	d.read(&a)
	if a.err == nil && a.pos != len(contents) {
		a.fail("bytes behind its end")
	}
	if a.err != nil {
		return nil, fmt.Errorf("%s: %w", name, a.err)
	}
	if err := d.checkOutputs(); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, ErrBadDerivation, err)
	}
	return d, nil
}

func (d *Derivation) read(a *aterm) {
	a.word("Derive(")
	d.Outputs = make(map[string]Output)
	last := ""
	a.list(func() {
		a.word("(")
		name := a.str()
		a.word(",")
		pathText := a.str()
		a.word(",")
		algo := a.str()
		a.word(",")
		hash := a.str()
		a.word(")")
		if name <= last {
			a.unsorted("output", name)
		}
		o := Output{HashAlgo: algo, Hash: hash}
		if pathText != "" {
			var err error
			if o.Path, err = ParsePath(pathText); err != nil {
				a.fail("output %s: %v", quote(name), err)
			}
		}
		last = name
		d.Outputs[name] = o
	})
	a.word(",")
	d.InputDrvs = make(map[Path][]string)
	var lastDrv Path
	a.list(func() {
		a.word("(")
		p := a.path()
		a.word(",")
		outputs := a.strs("output", true)
		a.word(")")
		switch {
		case a.err != nil:
		case p <= lastDrv:
			a.unsorted("input", string(p))
		case !p.IsDrv():
			a.fail("input %s is no derivation", p)
		case len(outputs) == 0:
			a.fail("input %s without outputs", p)
		}
		lastDrv = p
		d.InputDrvs[p] = outputs
	})
	a.word(",")
	a.list(func() {
		p := a.path()
		if n := len(d.InputSrcs); n > 0 && d.InputSrcs[n-1] >= p {
			a.unsorted("source", string(p))
		}
		d.InputSrcs = append(d.InputSrcs, p)
	})
	a.word(",")
	d.System = a.str()
	a.word(",")
	d.Builder = a.str()
	a.word(",")
	d.Args = a.strs("argument", false)
	a.word(",")
	d.readEnv(a)
	a.word(")")
}

func (d *Derivation) readEnv(a *aterm) {
	d.Env = make(map[string]string)
	last, first := "", true
	a.list(func() {
		a.word("(")
		key := a.str()
		a.word(",")
		value := a.str()
		a.word(")")
		if !first && key <= last {
			a.unsorted("variable", key)
		}
		last, first = key, false
		d.Env[key] = value
	})
}

// checkOutputs checks the combinations that Nix allows.
func (d *Derivation) checkOutputs() error {
	if len(d.Outputs) == 0 {
		return errors.New("no outputs")
	}
	kind := d.Kind()
	for name, o := range d.Outputs {
		if o.Kind() != kind {
			return errors.New("outputs of several kinds")
		}
		pathName := d.Name
		if name != "out" {
			pathName += "-" + name
		}
		if err := CheckName(pathName); err != nil {
			return fmt.Errorf("output %s: %w", quote(name), err)
		}
		if o.Path != "" && o.Path.Name() != pathName {
			return fmt.Errorf("output %s has a path named %s, want %s", quote(name), o.Path.Name(), pathName)
		}
		if o.HashAlgo == "" {
			if o.Hash != "" {
				return fmt.Errorf("output %s has a hash without an algorithm", quote(name))
			}
			continue
		}
		method, algo, err := o.method()
		if err != nil {
			return fmt.Errorf("output %s: %w", quote(name), err)
		}
		if kind != Fixed {
			if o.Path != "" {
				return fmt.Errorf("output %s has a path before it is built", quote(name))
			}
			continue
		}
		if name != "out" { // of several, one has another name
			return errors.New("a fixed output must be the only one and named out")
		}
		ca := CA{Method: method, Algo: algo, Digest: make([]byte, algo.Size())}
		if err := decodeDigest(ca.Digest, o.Hash, o.Hash); err != nil {
			return err
		}
		want, err := PathFromCA(pathName, ca, nil, false)
		if err != nil {
			return err
		}
		if o.Path != want {
			return fmt.Errorf("the fixed output's hash makes %s, not %s", want, quote(string(o.Path)))
		}
	}
	return nil
}

// method splits HashAlgo. Its prefixes are those of content addresses, but for
// the missing "fixed:".
func (o Output) method() (CAMethod, HashAlgo, error) {
	method, text := CAFlat, o.HashAlgo
	for _, prefix := range []string{"r:", "text:", "git:"} {
		rest, ok := strings.CutPrefix(text, prefix)
		if !ok {
			continue
		}
		switch prefix {
		case "git:":
			return "", "", ErrGitCA
		case "r:":
			method = CANar
		default:
			method = CAText
		}
		text = rest
		break
	}
	algo := HashAlgo(text)
	if algo.Size() == 0 {
		return "", "", fmt.Errorf("unknown hash algorithm %s", quote(text))
	}
	return method, algo, nil
}
