package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"

	"github.com/drv-thru/drv-thru/core/wire"
)

// NarInfo asks for the narinfo of a path that the caller may read, by the path's
// hash part, unchecked. The error is fs.ErrNotExist when there is none.
func (a *API) NarInfo(ctx context.Context, hash string) (string, error) {
	req, err := a.request(ctx, http.MethodGet, "v1/cache/narinfo/"+url.PathEscape(hash), nil)
	if err != nil {
		return "", err
	}
	resp, err := a.do(a.Control, req)
	switch {
	case errors.Is(err, wire.CodeNotFound.Err()):
		return "", fs.ErrNotExist
	case err != nil:
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxNarInfo+1))
	switch {
	case err != nil:
		return "", transportError(ctx, err)
	case len(text) > wire.MaxNarInfo:
		return "", protocolErrorf("a narinfo of more than %d bytes", wire.MaxNarInfo)
	case resp.ContentLength >= 0 && int64(len(text)) != resp.ContentLength:
		return "", fmt.Errorf("%w: %w", ErrConnection, io.ErrUnexpectedEOF)
	}
	return string(text), nil
}
