package wsconn

import (
	"context"
	"net/http"

	"github.com/coder/websocket"
)

// Dial opens a WebSocket with the browser's API, which says nothing about why
// a handshake failed: the response is nil then.
func Dial(ctx context.Context, rawURL string, o DialOptions) (*Socket, *http.Response, error) {
	ws, resp, err := websocket.Dial(ctx, rawURL, &websocket.DialOptions{Subprotocols: o.Protocols})
	if err != nil {
		return nil, nil, err
	}
	return &Socket{Conn: ws, frames: &framer{}}, resp, nil
}
