package cache

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/drv-thru/drv-thru/core/nix"
)

// maxRealisation bounds the JSON text of a realisation.
const maxRealisation = 1 << 20

// realisationName is where a binary cache has a realisation
// (Nix libstore/binary-cache-store.cc, 2.8 to 2.34): realisations/<id>.doi, the
// id being "sha256:<64 hex digits>!<output>". Nix 2.35 looks in build-trace-v2
// instead, for another format.
func realisationName(text string) (string, error) {
	var r struct {
		ID      string `json:"id"`
		OutPath string `json:"outPath"`
	}
	if len(text) > maxRealisation {
		return "", fmt.Errorf("%w: a realisation of %d bytes", ErrNarInfo, len(text))
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return "", fmt.Errorf("%w: realisation: %w", ErrNarInfo, err)
	}
	hash, output, _ := strings.Cut(r.ID, "!")
	if h, err := nix.ParseHash(hash); err != nil || hash != "sha256:"+h.Hex() {
		return "", fmt.Errorf("%w: realisation of %.80q", ErrNarInfo, r.ID)
	}
	if err := nix.CheckName(output); err != nil {
		return "", fmt.Errorf("%w: realisation of output %.40q: %w", ErrNarInfo, output, err)
	}
	if _, err := nix.ParseBase(r.OutPath); err != nil {
		return "", fmt.Errorf("%w: realisation: %w", ErrNarInfo, err)
	}
	return realisationDir + "/" + r.ID + ".doi", nil
}
