package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/drv-thru/drv-thru/core/nix"
)

// BuildMode says what to do with outputs that are there already.
type BuildMode uint64

// The modes that this package uses. Nix has a third, repairing (1), which is
// not atomic and for trusted clients only.
const (
	// BuildNormal builds what is missing.
	BuildNormal BuildMode = 0
	// BuildCheck builds again what is there and compares.
	BuildCheck BuildMode = 2

	buildRepair BuildMode = 1
)

// Status is the outcome for one derived path (Nix libstore/common-protocol.cc,
// buildResultStatusTable; the numbers are the same from Nix 2.8 to 2.34).
type Status uint64

// The statuses.
const (
	Built                  Status = 0
	Substituted            Status = 1
	AlreadyValid           Status = 2
	PermanentFailure       Status = 3
	InputRejected          Status = 4
	OutputRejected         Status = 5 // a fixed output's wrong hash among others
	TransientFailure       Status = 6
	CachedFailure          Status = 7 // no longer used
	TimedOut               Status = 8 // by timeout or max-silent-time
	MiscFailure            Status = 9
	DependencyFailed       Status = 10
	LogLimitExceeded       Status = 11
	NotDeterministic       Status = 12
	ResolvesToAlreadyValid Status = 13
	NoSubstituters         Status = 14
)

var statusNames = [...]string{
	"Built", "Substituted", "AlreadyValid", "PermanentFailure", "InputRejected",
	"OutputRejected", "TransientFailure", "CachedFailure", "TimedOut", "MiscFailure",
	"DependencyFailed", "LogLimitExceeded", "NotDeterministic", "ResolvesToAlreadyValid",
	"NoSubstituters",
}

// String returns Nix's name of the status.
func (s Status) String() string {
	if s < Status(len(statusNames)) {
		return statusNames[s]
	}
	return fmt.Sprintf("Status(%d)", uint64(s))
}

// Success reports whether the path is valid now.
func (s Status) Success() bool {
	switch s {
	case Built, Substituted, AlreadyValid, ResolvesToAlreadyValid:
		return true
	}
	return false
}

// BuildResult is the outcome for one derived path.
type BuildResult struct {
	Path   DerivedPath
	Status Status
	// ErrorMsg says why a build failed, with its last log lines: at most
	// MaxErrorText bytes, possibly with ANSI colours.
	ErrorMsg string
	// TimesBuilt counts the rounds, 0 if nothing was built. Nix 2.34.8 leaves it at 0
	// also for what it has built.
	TimesBuilt uint64
	// IsNonDeterministic says that rounds differed.
	IsNonDeterministic bool
	// BuiltOutputs has the paths of the wanted outputs by name; empty for a
	// failure and for a path that is not a derivation.
	BuiltOutputs map[string]nix.Path
	// Realisations has the same outputs by id ("sha256:<hex>!<output>"), in
	// Nix's JSON.
	Realisations map[string]json.RawMessage
}

// BuildPathsWithResults realises the paths, by substitution where the daemon
// has substitutes and by building else. The derivations must be in the store.
// A failed build is a result, but of some failures (of a system feature that is
// missing, of a FIFO in an output) Nix up to 2.26 makes an [Error] for all of them. Results come in the daemon's order.
func (c *Conn) BuildPathsWithResults(ctx context.Context, ps []DerivedPath, mode BuildMode) ([]BuildResult, error) {
	if mode != BuildNormal && mode != BuildCheck {
		return nil, fmt.Errorf("build: mode %d is not supported", mode)
	}
	if err := checkDerived(ps); err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	return c.build(ctx, ps, mode)
}

func (c *Conn) build(ctx context.Context, ps []DerivedPath, mode BuildMode) (rs []BuildResult, err error) {
	err = c.call(ctx, func(e *encoder) {
		e.u64(opBuildPathsWithResults)
		e.derivedPaths(ps)
		e.u64(uint64(mode))
	}, func(d *decoder) {
		for range d.count(MaxPaths, "build results") {
			r := d.buildResult(c.info.Protocol)
			if d.err != nil {
				return
			}
			rs = append(rs, r)
		}
	})
	if err != nil {
		return nil, err
	}
	return rs, nil
}

// ProbeTrust connects and finds out whether the daemon trusts this client, also
// where it does not say so by itself (Info().Trust, before protocol 1.35). It
// asks to repair nothing at all: a daemon that does not trust the client refuses
// repairs before it looks at the list and hangs up, hence a connection of its
// own; one that does has nothing to do (Nix libstore/daemon.cc, 2.8 to 2.34).
func ProbeTrust(ctx context.Context, cfg Config) (Trust, error) {
	c, err := Dial(ctx, cfg)
	if err != nil {
		return TrustUnknown, err
	}
	defer func() { _ = c.Close() }()
	if c.info.Trust != TrustUnknown {
		return c.info.Trust, nil
	}
	_, err = c.build(ctx, nil, buildRepair)
	switch {
	case err == nil:
		return Trusted, nil
	case isRemote(err) && strings.Contains(err.Error(), "repairing is not allowed"):
		return NotTrusted, nil
	}
	return TrustUnknown, fmt.Errorf("ask whether the Nix daemon trusts this user: %w", err)
}

// buildResult reads a path and a result (Nix KeyedBuildResult).
func (d *decoder) buildResult(v Version) BuildResult {
	r := BuildResult{
		Path:               d.derivedPath(),
		Status:             Status(d.u64()),
		ErrorMsg:           d.text(MaxErrorText),
		TimesBuilt:         d.u64(),
		IsNonDeterministic: d.bool(),
	}
	d.u64() // start time
	d.u64() // stop time
	if v.AtLeast(versionCPUTimes) {
		d.skipOptional() // user
		d.skipOptional() // system
	}
	for range d.count(maxOutputs, "built outputs") {
		id := d.string(maxName, "derivation output")
		real := d.realisation()
		if d.err != nil {
			return BuildResult{}
		}
		p, err := outPath(real)
		if err != nil {
			d.malformed("realisation of %q: %v", id, err)
			return BuildResult{}
		}
		if r.BuiltOutputs == nil {
			r.BuiltOutputs = make(map[string]nix.Path)
			r.Realisations = make(map[string]json.RawMessage)
		}
		r.BuiltOutputs[id[strings.LastIndexByte(id, '!')+1:]] = p
		r.Realisations[id] = real
	}
	return r
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

// skipOptional reads a number that need not be there.
func (d *decoder) skipOptional() {
	switch tag := d.u64(); tag {
	case 0:
	case 1:
		d.u64()
	default:
		d.malformed("optional value with tag %d", tag)
	}
}
