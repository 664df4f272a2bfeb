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

// NarsRequest asks POST /v1/cache/nars for several NARs in one answer.
type NarsRequest struct {
	Nars []NarRange `json:"nars"` // at most MaxNarsRequest
}

// NarRange is a NAR from an offset to its end.
type NarRange struct {
	NarHash string `json:"nar_hash"` // 52 characters of Nix's base32
	Offset  uint64 `json:"offset,omitempty"`
}
