package nix

import (
	"errors"

	"github.com/drv-thru/drv-thru/core/nix/nar"
)

// What a verification can find wrong: every error of a CAVerifier's Write and
// Close wraps exactly one of them.
var (
	// ErrNarSyntax: the bytes are not a NAR in its one canonical form.
	ErrNarSyntax = nar.ErrSyntax
	// ErrNarSize: more or fewer bytes than the path info declares.
	ErrNarSize = errors.New("NAR size differs")
	// ErrNarHash: the bytes hash to something else than the path info declares.
	ErrNarHash = errors.New("NAR hash differs")
	// ErrContentAddress: contents, name and references do not make the store
	// path. CheckCA, and so NewCAVerifier, can find that before any byte.
	ErrContentAddress = errors.New("content address differs")
)
