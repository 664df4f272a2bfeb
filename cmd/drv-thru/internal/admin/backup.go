package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/drv-thru/drv-thru/core/wire"
)

// backup sends a copy of the state. It has the secrets of tickets, which whoever
// has the socket may ask for one by one too.
func (s *server) backup(w http.ResponseWriter, r *http.Request) {
	f, err := s.cfg.State.Snapshot(r.Context())
	if err != nil {
		wire.WriteError(w, ownersError(err))
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		wire.WriteError(w, ownersError(err))
		return
	}
	w.Header().Set("Content-Type", wire.TypeFrames)
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	if _, err := io.Copy(w, f); err != nil {
		panic(http.ErrAbortHandler) // the reader has to see that it is not whole
	}
}

// Backup writes a copy of the builder's state to w and returns its size.
func (c *Client) Backup(ctx context.Context, w io.Writer) (int64, error) {
	body, err := c.stream(ctx, "/v1/state")
	if err != nil {
		return 0, err
	}
	defer body.Close()
	n, err := io.Copy(w, body)
	if err == nil && n == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return n, fmt.Errorf("copy the builder's state: %w", err)
	}
	return n, nil
}
