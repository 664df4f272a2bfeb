package cache

import (
	"slices"

	"github.com/drv-thru/drv-thru/core/nix"
)

// signedNar is what a signature is remembered by. A path that was collected and built
// again may have other contents.
type signedNar struct {
	path nix.Path
	hash nix.Hash
}

// maxSignatures is the size of one generation: about 5 MiB.
const maxSignatures = 16 << 10

// NarInfo returns the narinfo of a path with every signature that the store
// holds and, before them, the builder's.
func (s *Server) NarInfo(info nix.PathInfo) []byte {
	of := signedNar{info.Path, info.NarHash}
	sig, ok := s.sigs.Get(of)
	if !ok {
		sig = info.Sign(s.cfg.Key)
		s.sigs.Put(of, sig)
	}
	if !slices.Contains(info.Sigs, sig) {
		info.Sigs = append([]string{sig}, info.Sigs...)
	}
	return info.MarshalNarInfo()
}
