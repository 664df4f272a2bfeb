package daemon

import (
	"errors"
	"fmt"
)

// Version is a version of the worker protocol.
type Version struct{ Major, Minor uint8 }

// The versions that this package speaks.
var (
	MinVersion = Version{1, 34}
	MaxVersion = Version{1, 38}
)

// String returns "major.minor".
func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// AtLeast reports whether v is o or newer.
func (v Version) AtLeast(o Version) bool {
	return v.Major > o.Major || v.Major == o.Major && v.Minor >= o.Minor
}

func (v Version) wire() uint64 { return uint64(v.Major)<<8 | uint64(v.Minor) }

// Versions from which on something is on the wire or can be relied on.
var (
	versionTrust    = Version{1, 35} // the daemon says whether it trusts the client
	versionCPUTimes = Version{1, 37} // build results carry CPU times
	versionFeatures = Version{1, 38} // the handshake exchanges feature names

	// Up to Nix 2.17 (1.35) a path of AddMultipleToStore that is valid already
	// leaves its NAR unread in the stream, which the daemon then takes for the
	// next path info (Nix commit 31a6e10fe5). AddToStoreNar never had that.
	versionAddMultiple = Version{1, 36}
)

const (
	magicClient = 0x6e697863 // "nixc"
	magicDaemon = 0x6478696f // "dxio"
)

// Operations (Nix WorkerProto::Op).
const (
	opAddTempRoot           = 11
	opAddIndirectRoot       = 12
	opSyncWithGC            = 13 // does nothing since Nix 2.4: our ping
	opSetOptions            = 19
	opQueryPathInfo         = 26
	opQueryPathFromHashPart = 29
	opQueryValidPaths       = 31
	opAddToStoreNar         = 39
	opQueryMissing          = 40
	opAddMultipleToStore    = 44
	opBuildPathsWithResults = 46
)

// Messages of the log channel (Nix libstore/worker-protocol.hh).
const (
	msgNext          = 0x6f6c6d67
	msgRead          = 0x64617461
	msgWrite         = 0x64617416
	msgLast          = 0x616c7473
	msgError         = 0x63787470
	msgStartActivity = 0x53545254
	msgStopActivity  = 0x53544f50
	msgResult        = 0x52534c54
)

// Limits on what the daemon sends.
const (
	// LogPiece is the largest piece of a log line or message handed to a Sink.
	LogPiece = 64 << 10
	// MaxText bounds the texts and string fields of activities and results, and
	// each trace of an error; the rest is dropped.
	MaxText = 64 << 10
	// MaxErrorText bounds the message of an error or a build result, which may
	// hold the last lines of a log; the rest is dropped.
	MaxErrorText = 1 << 20
	// MaxFields bounds the fields of an activity or result; the rest is dropped.
	MaxFields = 64
	// MaxTraces bounds the traces of an error; the rest is dropped.
	MaxTraces = 256
	// MaxPaths bounds a set of store paths.
	MaxPaths = 4 << 20

	maxPathLen    = 512     // a store path, or a derived path without outputs
	maxName       = 4 << 10 // a version, feature, signature, content address, output name
	maxDerived    = 1 << 20 // a derived path with its outputs
	maxOutputs    = 1 << 16
	maxRealise    = 1 << 20 // a realisation in JSON
	maxFeatures   = 1 << 10
	maxSkip       = 1 << 20 // elements of a list that are read and dropped
	maxStringSize = 1 << 40 // no string of the protocol can be longer and be meant
)

var (
	// ErrProtocol is wrapped by errors about bytes that no daemon should send.
	ErrProtocol = errors.New("malformed answer from the Nix daemon")
	// ErrBusy says that the connection has an operation in progress.
	ErrBusy = errors.New("the connection to the Nix daemon has an operation in progress")
	// ErrClosed says that the connection or pool was closed by its owner.
	ErrClosed = errors.New("the connection to the Nix daemon is closed")
)

// VersionError says that the daemon's protocol is outside of what is spoken here.
type VersionError struct{ Daemon Version }

func (e *VersionError) Error() string {
	if e.Daemon.Major != MinVersion.Major {
		return fmt.Sprintf("the Nix daemon speaks protocol %s, an unknown one", e.Daemon)
	}
	return fmt.Sprintf("the Nix daemon speaks protocol %s; at least %s (Nix 2.8) is needed", e.Daemon, MinVersion)
}

// Trust is what the daemon thinks of this client.
type Trust uint8

// The values, as on the wire.
const (
	// TrustUnknown: the daemon did not say (protocol 1.34; see ProbeTrust).
	TrustUnknown Trust = 0
	// Trusted: the client may add unsigned paths and change any setting.
	Trusted Trust = 1
	// NotTrusted: what the client adds must be signed or content-addressed.
	NotTrusted Trust = 2
)

func (t Trust) String() string {
	switch t {
	case Trusted:
		return "trusted"
	case NotTrusted:
		return "not trusted"
	}
	return "unknown"
}

// Info is what the daemon said of itself when connecting.
type Info struct {
	// NixVersion is the daemon's, such as "2.34.8".
	NixVersion string
	// Protocol is the version in use, the lower of both sides'.
	Protocol Version
	Trust    Trust
}
