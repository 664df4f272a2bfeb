package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/drv-thru/drv-thru/core/nix"
)

// IsValidPath reports whether the path is in the store.
func (c *Conn) IsValidPath(ctx context.Context, p nix.Path) (valid bool, err error) {
	err = c.call(ctx, func(e *encoder) {
		e.u64(opIsValidPath)
		e.string(string(p))
	}, func(d *decoder) { valid = d.bool() })
	return valid, err
}

// QueryValidPaths returns those of the paths that are in the store, sorted. With
// substitute the daemon first fetches what its substituters have of the others.
func (c *Conn) QueryValidPaths(ctx context.Context, ps []nix.Path, substitute bool) (valid []nix.Path, err error) {
	err = c.call(ctx, func(e *encoder) {
		e.u64(opQueryValidPaths)
		e.paths(nix.SortedPaths(ps))
		e.bool(substitute)
	}, func(d *decoder) { valid = d.paths() })
	return valid, err
}

// QueryPathInfo returns what the store knows of a path, or ErrNotValid.
func (c *Conn) QueryPathInfo(ctx context.Context, p nix.Path) (*nix.PathInfo, error) {
	infos, err := c.QueryPathInfos(ctx, []nix.Path{p})
	if err != nil {
		return nil, err
	}
	if infos[0] == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotValid, p)
	}
	return infos[0], nil
}

// QueryPathInfos asks for many paths at once, in one round trip or few. The
// result has an entry for each, nil where the path is not valid.
func (c *Conn) QueryPathInfos(ctx context.Context, ps []nix.Path) ([]*nix.PathInfo, error) {
	infos := make([]*nix.PathInfo, len(ps))
	err := c.pipeline(ctx, batch{
		next: times(len(ps)),
		write: func(e *encoder, i int) error {
			e.u64(opQueryPathInfo)
			e.string(string(ps[i]))
			return e.err
		},
		read: func(d *decoder, i int) {
			if d.bool() {
				infos[i] = d.unkeyedInfo(ps[i])
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return infos, nil
}

// Missing is what it takes to realise some paths.
type Missing struct {
	// WillBuild are derivations.
	WillBuild []nix.Path
	// WillSubstitute are outputs that a substituter has.
	WillSubstitute []nix.Path
	// Unknown are paths that can be had in no way, such as a .drv that is
	// neither here nor in a substituter.
	Unknown []nix.Path
	// DownloadSize and NarSize sum up WillSubstitute in bytes, compressed and not.
	DownloadSize, NarSize uint64
}

// QueryMissing tells what realising the paths would build and fetch. The daemon
// asks its substituters.
func (c *Conn) QueryMissing(ctx context.Context, ps []DerivedPath) (m Missing, err error) {
	if err := checkDerived(ps); err != nil {
		return Missing{}, err
	}
	err = c.call(ctx, func(e *encoder) {
		e.u64(opQueryMissing)
		e.derivedPaths(ps)
	}, func(d *decoder) {
		m = Missing{
			WillBuild: d.paths(), WillSubstitute: d.paths(), Unknown: d.paths(),
			DownloadSize: d.u64(), NarSize: d.u64(),
		}
	})
	return m, err
}

// QueryDerivationOutputMap returns the output paths of a derivation that is in
// the store, by output name; empty where the path is not known, as for an
// output that is content-addressed and not built yet.
func (c *Conn) QueryDerivationOutputMap(ctx context.Context, drv nix.Path) (map[string]nix.Path, error) {
	outs := make(map[string]nix.Path)
	err := c.call(ctx, func(e *encoder) {
		e.u64(opQueryDerivationOutputMap)
		e.string(string(drv))
	}, func(d *decoder) {
		for range d.count(maxOutputs, "outputs") {
			name := d.string(maxName, "output name")
			p := d.optPath()
			if d.err != nil {
				return
			}
			outs[name] = p
		}
	})
	if err != nil {
		return nil, err
	}
	return outs, nil
}

// QueryRealisation returns the realisation of a derivation output, named
// "sha256:<hex>!<output>", as the JSON of Nix ≤ 2.34, or nil if none is known. A
// daemon without the experimental feature ca-derivations answers with an *Error.
func (c *Conn) QueryRealisation(ctx context.Context, drvOutput string) (r json.RawMessage, err error) {
	err = c.call(ctx, func(e *encoder) {
		e.u64(opQueryRealisation)
		e.string(drvOutput)
	}, func(d *decoder) {
		for range d.count(maxOutputs, "realisations") {
			if one := d.realisation(); r == nil {
				r = one
			}
			if d.err != nil {
				return
			}
		}
	})
	return r, err
}

// RegisterDrvOutput adds a realisation, in the JSON of QueryRealisation. From a
// client that it does not trust, the daemon wants it signed.
func (c *Conn) RegisterDrvOutput(ctx context.Context, realisation json.RawMessage) error {
	return c.call(ctx, func(e *encoder) {
		e.u64(opRegisterDrvOutput)
		e.string(string(realisation))
	}, nil)
}

func (d *decoder) realisation() json.RawMessage {
	s := d.string(maxRealise, "realisation")
	if d.err == nil && !json.Valid([]byte(s)) {
		d.malformed("a realisation that is not JSON")
	}
	if d.err != nil {
		return nil
	}
	return json.RawMessage(s)
}

// outPath takes the output path out of a realisation: a base name up to Nix 2.34.
func outPath(realisation json.RawMessage) (nix.Path, error) {
	var r struct {
		OutPath string `json:"outPath"`
	}
	if err := json.Unmarshal(realisation, &r); err != nil {
		return "", err
	}
	if strings.HasPrefix(r.OutPath, "/") {
		return nix.ParsePath(r.OutPath)
	}
	return nix.ParseBase(r.OutPath)
}
