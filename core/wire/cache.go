package wire

// Closure answers GET /v1/cache/closure: the closure of a finished build's
// outputs. (A client that holds a ticket names the build; the answer is
// [CodeNotFound] until it is built.)
type Closure struct {
	// NarInfos are complete narinfo texts, references before referrers. URL is
	// "nar/<narhash>.nar", Compression is none.
	NarInfos []string `json:"narinfos"`
	// Roots are the store paths that the build's roots came to.
	Roots []string `json:"roots"`
}

// ManifestsRequest asks POST /v1/cache/manifests for the manifests of several
// NARs in one answer.
type ManifestsRequest struct {
	Nars []string `json:"nars"` // NAR hashes; at most MaxNarsRequest
}

// ChunksRequest asks POST /v1/cache/chunks for chunks of NARs: at most
// MaxChunksRequest of them and MaxChunkBytesRequest bytes. It may be repeated.
type ChunksRequest struct {
	// Goodput is how many bytes per second the client lately got over the path
	// that the answer will take; 0 when it does not know. The builder compresses
	// where that is slower than compressing.
	Goodput uint64 `json:"goodput,omitempty"`
	// Check has the builder compare each chunk with its ID before it sends it. The
	// client compares them anyway, and asks for this when one of these NARs had one
	// that was wrong: so the builder finds out what is.
	Check bool        `json:"check,omitempty"`
	Nars  []NarChunks `json:"nars"`
}

// NarChunks are chunks of one NAR.
type NarChunks struct {
	NarHash string       `json:"nar_hash"` // 52 characters of Nix's base32
	Chunks  []ChunkRange `json:"chunks"`
}

// ChunkRange is the ordinal in the NAR's manifest (from 0) of the first of some
// adjacent chunks, and how many they are, at least one.
type ChunkRange [2]uint32
