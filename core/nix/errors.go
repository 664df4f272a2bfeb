package nix

import "errors"

// What a verification can find wrong. Every error of CAVerifier wraps exactly
// one of them.
var (
	// ErrNarSyntax: the bytes are not a NAR in its one canonical form.
	ErrNarSyntax = errors.New("malformed NAR")
	// ErrNarSize: more or fewer bytes than the path info declares.
	ErrNarSize = errors.New("NAR size differs")
	// ErrNarHash: the bytes hash to something else than the path info declares.
	ErrNarHash = errors.New("NAR hash differs")
	// ErrContentAddress: the contents, name and references do not make the store path.
	ErrContentAddress = errors.New("content address differs")
)
