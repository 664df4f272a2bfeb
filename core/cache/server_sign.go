package cache

import (
	"slices"
	"sync"

	"github.com/drv-thru/drv-thru/core/nix"
)

// signatures remembers what was signed. Two generations bound it.
type signatures struct {
	mu       sync.Mutex
	now, old map[nix.Path]knownSig
}

type knownSig struct {
	of   nix.Hash
	text string
}

// maxSignatures is the size of one generation: about 5 MiB.
const maxSignatures = 16 << 10

// NarInfo returns the narinfo of a path with every signature that the store
// holds and, before them, the builder's.
func (s *Server) NarInfo(info nix.PathInfo) []byte {
	sig := s.sigs.get(info, s.cfg.Key)
	if !slices.Contains(info.Sigs, sig) {
		info.Sigs = append([]string{sig}, info.Sigs...)
	}
	return info.MarshalNarInfo()
}

func (c *signatures) get(info nix.PathInfo, key nix.SecretKey) string {
	c.mu.Lock()
	sig, ok := c.now[info.Path]
	if !ok {
		sig, ok = c.old[info.Path]
	}
	c.mu.Unlock()
	// A path that was collected and built again may have other contents.
	if ok && sig.of == info.NarHash {
		return sig.text
	}
	sig = knownSig{of: info.NarHash, text: info.Sign(key)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil || len(c.now) >= maxSignatures {
		c.old, c.now = c.now, make(map[nix.Path]knownSig)
	}
	c.now[info.Path] = sig
	return sig.text
}
