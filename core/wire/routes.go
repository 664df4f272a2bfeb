package wire

import (
	"errors"
	"io"

	"github.com/drv-thru/drv-thru/core/key"
)

// Version is the protocol's version; see the package comment for what a
// difference means.
const Version = 1

// Headers of every request and answer.
const (
	// HeaderVersion holds the decimal protocol version.
	HeaderVersion = "Drv-Thru-Version"
	// HeaderAgent tells the program and its release, for logs.
	HeaderAgent = "User-Agent"
)

// Media types.
const (
	TypeJSON    = "application/json"
	TypeProblem = "application/problem+json"
	TypeEvents  = "application/x-ndjson"
	TypeFrames  = "application/octet-stream"
	TypeNar     = "application/x-nix-nar"
	TypeNarInfo = "text/x-nix-narinfo"
)

// Routes, as net/http patterns without the method.
const (
	RouteInfo   = "/v1/info"
	RoutePlan   = "/v1/plan"
	RouteBuild  = "/v1/builds/{id}"
	RouteInputs = "/v1/builds/{id}/inputs"

	RouteInput         = "/v1/builds/{id}/inputs/{index}"
	RouteInputManifest = "/v1/builds/{id}/inputs/{index}/manifest"
	RouteInputChunks   = "/v1/builds/{id}/inputs/{index}/chunks"

	RouteEvents    = "/v1/builds/{id}/events"
	RouteClosure   = "/v1/cache/closure"
	RouteNarInfo   = "/v1/cache/narinfo/{hash}"
	RouteManifests = "/v1/cache/manifests"
	RouteChunks    = "/v1/cache/chunks"
	RouteLog       = "/v1/cache/log/{drv}"
)

// BuildID names a build: 16 random bytes that the client chose, as 26
// characters of lower-case base32.
type BuildID string

// NewBuildID draws an ID from r.
func NewBuildID(r io.Reader) (BuildID, error) {
	var raw [16]byte
	if _, err := io.ReadFull(r, raw[:]); err != nil {
		return "", err
	}
	return BuildID(key.EncodeBase32(raw[:])), nil
}

// ParseBuildID checks the text of an ID.
func ParseBuildID(text string) (BuildID, error) {
	if raw, ok := key.DecodeBase32(text); !ok || len(raw) != 16 {
		return "", errors.New("not a build ID: want 26 characters of a-z and 2-7")
	}
	return BuildID(text), nil
}
