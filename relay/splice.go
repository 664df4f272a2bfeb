package relay

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/drv-thru/drv-thru/core/link/wsconn"
)

var errText = errors.New("text message on a circuit")

// splice joins two ends until both are closed.
func (s *Server) splice(client, builder *wsconn.Socket) {
	cut := func() {
		_ = client.CloseNow()
		_ = builder.CloseNow()
	}
	stop := context.AfterFunc(s.aborted, cut)
	defer stop()

	var moved atomic.Bool
	var idle *time.Timer
	ready := make(chan struct{})
	idle = time.AfterFunc(s.limits.Idle, func() {
		<-ready
		if !moved.Swap(false) {
			cut()
			return
		}
		idle.Reset(s.limits.Idle)
	})
	close(ready)
	defer idle.Stop()

	back := make(chan struct{})
	go func() {
		defer close(back)
		pump(client, builder, &moved)
	}()
	pump(builder, client, &moved)
	<-back
}

// pump moves messages from src to dst until one of them ends, then ends the
// other. It holds a buffer only between the head of a message and the end of
// writing it.
func pump(src, dst *wsconn.Socket, moved *atomic.Bool) {
	for {
		typ, r, err := src.Reader(context.Background())
		if err == nil && typ != websocket.MessageBinary {
			_ = src.Close(websocket.StatusUnsupportedData, "")
			err = errText
		}
		if err != nil {
			_ = dst.Close(closeCode(err), "")
			_ = src.CloseNow()
			return
		}
		for {
			readErr, writeErr := move(r, dst)
			if writeErr != nil {
				_ = src.Close(closeCode(writeErr), "")
				_ = dst.CloseNow()
				return
			}
			moved.Store(true)
			if readErr == io.EOF {
				break
			}
			if readErr != nil {
				_ = dst.Close(closeCode(readErr), "")
				_ = src.CloseNow()
				return
			}
		}
	}
}

// move passes on at most a buffer of one message.
func move(r io.Reader, dst *wsconn.Socket) (readErr, writeErr error) {
	buf := wsconn.GetBuffer()
	defer wsconn.PutBuffer(buf)
	n, readErr := r.Read(buf[:wsconn.MessageSize])
	if n > 0 {
		writeErr = dst.WriteMessage(context.Background(), websocket.MessageBinary, buf[:n])
	}
	return readErr, writeErr
}
