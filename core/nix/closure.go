package nix

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

const (
	// MaxClosureDrvs bounds the derivations of one closure.
	MaxClosureDrvs = 1_000_000
	// MaxClosureBytes bounds the sum of their files, which are held in memory.
	MaxClosureBytes = 1 << 30
)

// ErrClosure is wrapped by the errors of DrvClosure that are about the graph
// and not about one file: a cycle, or a limit.
var ErrClosure = errors.New("derivation graph")

// Drv is a .drv file of a closure.
type Drv struct {
	Path     Path
	Contents []byte
	*Derivation
}

// Info returns the path info of the .drv file itself, which follows from its
// contents, and fails with ErrContentAddress when its path does not.
func (d *Drv) Info() (PathInfo, error) {
	info, err := TextInfo(d.Path.Name(), d.Contents, d.References())
	if err == nil && info.Path != d.Path {
		err = fmt.Errorf("%w: the contents of %s make %s", ErrContentAddress, d.Path, info.Path)
	}
	return info, err
}

// Closure is a set of derivations with everything that they are built from.
type Closure struct {
	// Drvs has each derivation once, behind those that it depends on.
	Drvs []Drv
	// Srcs are the input sources of all of them, sorted. They may refer to more
	// paths, which only the store that has them knows; a .drv can be among them.
	Srcs []Path
}

// DrvClosure loads the .drv files that can be reached from roots, which must be
// .drv paths themselves. load returns a file's contents, and is called once for each. The order
// is the same for the same graph.
func DrvClosure(ctx context.Context, roots []Path, load func(Path) ([]byte, error)) (*Closure, error) {
	w := closureWalk{ctx: ctx, load: load, state: make(map[Path]visit), srcs: make(map[Path]struct{})}
	for _, root := range roots {
		if err := w.from(root); err != nil {
			return nil, err
		}
	}
	srcs := slices.AppendSeq(make([]Path, 0, len(w.srcs)), maps.Keys(w.srcs))
	slices.Sort(srcs)
	return &Closure{Drvs: w.drvs, Srcs: srcs}, nil
}

type visit uint8

const (
	unseen visit = iota
	open
	done
)

// frame is a derivation whose inputs are being visited. An explicit stack,
// because a stranger's graph may be a chain of a million.
type frame struct {
	drv    Drv
	inputs []Path
}

type closureWalk struct {
	ctx   context.Context
	load  func(Path) ([]byte, error)
	state map[Path]visit
	drvs  []Drv
	srcs  map[Path]struct{}
	stack []frame
	bytes int
}

func (w *closureWalk) from(root Path) error {
	if err := w.enter(root); err != nil {
		return err
	}
	for len(w.stack) > 0 {
		top := &w.stack[len(w.stack)-1]
		if len(top.inputs) == 0 {
			w.state[top.drv.Path] = done
			w.drvs = append(w.drvs, top.drv)
			w.stack = w.stack[:len(w.stack)-1]
			continue
		}
		next := top.inputs[0]
		top.inputs = top.inputs[1:]
		if err := w.enter(next); err != nil {
			return err
		}
	}
	return nil
}

// enter pushes a derivation unless it was seen.
func (w *closureWalk) enter(p Path) error {
	switch w.state[p] {
	case done:
		return nil
	case open:
		return fmt.Errorf("%w: %s depends on itself", ErrClosure, p)
	}
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if _, err := ParsePath(string(p)); err != nil || !p.IsDrv() {
		return fmt.Errorf("%w: %s is no derivation", ErrClosure, quote(string(p)))
	}
	if len(w.state) == MaxClosureDrvs {
		return fmt.Errorf("%w: more than %d derivations", ErrClosure, MaxClosureDrvs)
	}
	contents, err := w.load(p)
	if err != nil {
		return fmt.Errorf("load %s: %w", p, err)
	}
	if w.bytes += len(contents); w.bytes > MaxClosureBytes {
		return fmt.Errorf("%w: more than %d bytes of derivations", ErrClosure, int64(MaxClosureBytes))
	}
	d, err := ParseDerivation(p.Name(), contents)
	if err != nil {
		return err
	}
	inputs := make([]Path, 0, len(d.InputDrvs))
	for in := range d.InputDrvs {
		inputs = append(inputs, in)
	}
	slices.Sort(inputs)
	for _, src := range d.InputSrcs {
		w.srcs[src] = struct{}{}
	}
	w.state[p] = open
	w.stack = append(w.stack, frame{Drv{p, contents, d}, inputs})
	return nil
}
