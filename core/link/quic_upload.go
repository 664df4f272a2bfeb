//go:build !js && !wasip1

package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/drv-thru/drv-thru/core/link/wsconn"
)

// uploadPrefix is what an upload by QUIC has before its method.
//
// The client of package http3 writes a body in pieces of 8 KiB and waits after
// each until it is in packets, which halves the speed. It also lets its user write
// the body, but then only for methods for which it says nothing of the body's
// length: for POST and PUT it says that there is none.
const uploadPrefix = "UPLOAD-"

// uploader is an HTTP/3 connection that writes bodies in large pieces.
type uploader struct{ cc *http3.ClientConn }

func (u uploader) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return u.cc.RoundTrip(req)
	}
	resp, err := u.send(req)
	if err != nil && req.Context().Err() != nil {
		err = req.Context().Err()
	}
	return resp, err
}

func (u uploader) send(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	str, err := u.cc.OpenRequestStream(ctx)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	cancel := func() {
		str.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
		str.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	}
	stop := context.AfterFunc(ctx, cancel)
	head := *req
	head.Method = uploadPrefix + req.Method
	head.Body, head.GetBody, head.ContentLength = nil, nil, 0
	if err := str.SendRequestHeader(&head); err != nil {
		closeBody(req)
		stop()
		cancel()
		return nil, err
	}
	go func() {
		// The answer tells what became of the upload, or why there is none.
		if sendBody(str, req) != nil {
			str.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
		}
	}()
	resp, err := str.ReadResponse()
	if err == nil && resp.StatusCode < http.StatusOK {
		err = fmt.Errorf("answer with status %d", resp.StatusCode)
	}
	if err != nil {
		stop()
		cancel()
		return nil, err
	}
	resp.Request = req
	resp.Body = &stoppingBody{ReadCloser: resp.Body, stop: stop}
	return resp, nil
}

// sendBody sends all of a request's body, which has to have the length that the
// request says.
func sendBody(str *http3.RequestStream, req *http.Request) error {
	defer closeBody(req)
	buf := wsconn.GetBuffer()
	defer wsconn.PutBuffer(buf)
	var sent int64
	for {
		n, err := req.Body.Read(buf[:])
		if n > 0 {
			if _, err := str.Write(buf[:n]); err != nil {
				return err
			}
			sent += int64(n)
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			return err
		case req.ContentLength > 0 && sent != req.ContentLength:
			return io.ErrUnexpectedEOF
		default:
			return str.Close()
		}
	}
}

// stoppingBody is an answer that stops watching the request's context at its end.
type stoppingBody struct {
	io.ReadCloser
	stop func() bool
	once sync.Once
}

func (b *stoppingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.once.Do(func() { b.stop() })
	}
	return n, err
}

func (b *stoppingBody) Close() error {
	b.once.Do(func() { b.stop() })
	return b.ReadCloser.Close()
}

// uploads gives uploads by QUIC their methods back.
func uploads(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if method, ok := strings.CutPrefix(r.Method, uploadPrefix); ok {
			again := *r
			again.Method = method
			r = &again
		}
		next.ServeHTTP(w, r)
	})
}
