package wire

import "time"

// Limits of documents and streams. Sizes are bytes after decompression.
const (
	// MaxDocument bounds a JSON request or answer that has no larger limit
	// of its own.
	MaxDocument = 1 << 20
	// MaxClosureDocument bounds BuildRequest, PlanRequest, Plan, Build and
	// Closure: room for MaxClosurePaths entries.
	MaxClosureDocument = 256 << 20
	// MaxClosurePaths is the largest closure of inputs or outputs.
	MaxClosurePaths = 200_000
	// MaxReferences bounds the references of one path.
	MaxReferences = 50_000
	// MaxElement bounds the JSON text of one root or input of a request: what
	// MaxReferences allows, with room to spare.
	MaxElement = 2 << 20
	// MaxFields bounds the fields of a request's document, those of newer
	// clients included.
	MaxFields = 64
	// MaxRoots bounds the derivations that one build asks for.
	MaxRoots = 4096
	// MaxEventLine bounds one event's line. Log text is cut into pieces of at
	// most MaxLogPiece before it is encoded; a Result that is too long is left out.
	MaxEventLine = 4 << 20
	// MaxLogPiece is the most log text, in raw bytes, that one event carries.
	MaxLogPiece = 256 << 10
	// MaxNarInfo bounds one narinfo.
	MaxNarInfo = 8 << 20
	// MaxNarsRequest bounds the NARs named in one ManifestsRequest.
	MaxNarsRequest = 16_384
	// MaxChunksRequest and MaxChunkBytesRequest bound the chunks that one
	// ChunksRequest names: requests are short, so that the next one may take
	// another path, and what a lost one costs is little.
	MaxChunksRequest     = 4096
	MaxChunkBytesRequest = 16 << 20
	// MaxLabel bounds what a client calls an installable.
	MaxLabel = 1024
	// ChunkedInput is the NAR size from which on an input travels in chunks; a
	// .drv file never does.
	ChunkedInput = 256 << 10
	// MaxInputChunks bounds the chunks of one input: 64 GiB of the usual ones.
	MaxInputChunks = 1 << 20
	// MaxInputManifest bounds an input's manifest.
	MaxInputManifest = 64 << 20
	// MaxInputChunkBytes bounds the chunks, as they are uncompressed, that one
	// request carries.
	MaxInputChunkBytes = 8 << 20
	// MaxMissingChunks bounds the MissingChunks document.
	MaxMissingChunks = 16 << 20
	// ChunkOrdinal is the size of the number before each chunk of an input.
	ChunkOrdinal = 4
	// InputFrameHeader is the size of an input frame's header.
	InputFrameHeader = 12
	// ManifestFollows and ManifestUnavailable are the bytes before a manifest.
	ManifestFollows     = 0
	ManifestUnavailable = 1
)

// Times of the protocol.
const (
	// EventKeepalive is how often an idle event stream carries an empty line.
	EventKeepalive = 10 * time.Second
	// DefaultReattachGrace is how long a build waits for its client to return.
	DefaultReattachGrace = 2 * time.Minute
	// MaxQueueWait is the longest wait that an [Event] tells of.
	MaxQueueWait = 7 * 24 * time.Hour
)
