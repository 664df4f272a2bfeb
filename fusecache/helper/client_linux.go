package helper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/fusecache"
)

// Check asks whether the helper would import what the key has signed. The error is
// a *RefusedError when it would not, and wraps ErrNoHelper when there is none.
func (c *Client) Check(ctx context.Context, key string) error {
	s, err := c.open(ctx, &Request{Version: Version, Op: OpCheck, Key: key})
	if err != nil {
		return err
	}
	defer s.close()
	e, err := s.next(answerTime)
	if err != nil {
		return err
	}
	if e.Type != TypeAccepted {
		return s.unexpected(e)
	}
	return nil
}

// Import has the helper import paths from the View, references before referrers:
// from a mount that this process serves, or over loopback HTTP where it cannot.
func (c *Client) Import(ctx context.Context, view *cache.View, key string, paths []string, progress Progress) error {
	for batch := range slices.Chunk(paths, MaxPaths) {
		err := c.whenFree(ctx, func() error { return c.fromMount(ctx, view, key, batch, progress) })
		var refused *RefusedError
		if errors.As(err, &refused) && (refused.Code == CodeMount || refused.Code == CodeClient) && ctx.Err() == nil {
			c.logger().Info("the import helper cannot mount; importing over HTTP", "err", err)
			err = c.whenFree(ctx, func() error { return c.fromHTTP(ctx, view, key, batch, progress) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// whenFree repeats what a busy helper has refused.
func (c *Client) whenFree(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, busyTime)
	defer cancel()
	for {
		err := try()
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Code != CodeBusy {
			return err
		}
		timer := time.NewTimer(busyPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

func (c *Client) fromMount(ctx context.Context, view *cache.View, key string, paths []string, progress Progress) error {
	s, err := c.open(ctx, &Request{Version: Version, Op: OpImport, Key: key, Paths: paths})
	if err != nil {
		return err
	}
	defer s.close()
	e, err := s.next(answerTime)
	if err != nil {
		return err
	}
	if e.Type != TypeDevice || s.device < 0 {
		return s.unexpected(e)
	}
	fd := s.device
	s.device = -1
	device, err := fusecache.ServeDevice(view, fd, fusecache.Options{Logger: c.Log})
	if err != nil {
		_ = s.send(&Ready{Ready: false})
		return &RefusedError{CodeClient, err.Error()}
	}
	defer func() {
		device.Close()
		// The helper has unmounted, or does when it finds the connection closed.
		s.close()
		timer := time.NewTimer(endTime)
		defer timer.Stop()
		select {
		case <-device.Done():
		case <-timer.C:
			c.logger().Warn("the import helper does not unmount")
		}
	}()
	if err := s.send(&Ready{Ready: true}); err != nil {
		return err
	}
	return s.follow(progress)
}

func (c *Client) fromHTTP(ctx context.Context, view *cache.View, key string, paths []string, progress Progress) error {
	srv, err := fusecache.ServeHTTP(view)
	if err != nil {
		return err
	}
	defer srv.Close()
	s, err := c.open(ctx, &Request{Version: Version, Op: OpImport, Key: key, Paths: paths, URL: srv.URL()})
	if err != nil {
		return err
	}
	defer s.close()
	return s.follow(progress)
}

// session is a connection to the helper.
type session struct {
	ctx    context.Context
	conn   *net.UnixConn
	stop   func() bool
	device int // a descriptor that came, -1 without
}

// open connects and sends the request.
func (c *Client) open(ctx context.Context, req *Request) (*session, error) {
	dialer := net.Dialer{Timeout: answerTime}
	conn, err := dialer.DialContext(ctx, "unix", c.socket())
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOTSOCK):
		return nil, fmt.Errorf("%w at %s", ErrNoHelper, c.socket())
	case errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("%w for this user: %s is open to a group that the user is not in", ErrNoHelper, c.socket())
	case err != nil:
		return nil, fmt.Errorf("ask the import helper: %w", err)
	}
	s := &session{ctx: ctx, conn: conn.(*net.UnixConn), device: -1}
	s.stop = context.AfterFunc(ctx, func() { conn.Close() })
	// Nobody else is to be taken for the helper, or handed a view to serve.
	if cred, err := credentials(s.conn); err != nil || cred.Uid != 0 {
		s.close()
		return nil, fmt.Errorf("%w: who listens at %s is not root", ErrNoHelper, c.socket())
	}
	if err := s.send(req); err != nil {
		// It may have said why before it stopped listening.
		if e, eerr := s.next(answerTime); eerr == nil {
			err = s.unexpected(e)
		}
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *session) close() {
	s.stop()
	s.conn.Close()
	if s.device >= 0 {
		unix.Close(s.device)
		s.device = -1
	}
}

func (s *session) send(v any) error {
	msg, err := encodeMessage(v)
	if err != nil {
		return err
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(answerTime)); err != nil {
		return s.lost(err)
	}
	if _, err := s.conn.Write(msg); err != nil {
		return s.lost(err)
	}
	return nil
}

// next reads an event, waiting for at most within; 0 waits for as long as it takes.
func (s *session) next(within time.Duration) (*Event, error) {
	deadline := time.Time{}
	if within > 0 {
		deadline = time.Now().Add(within)
	}
	if err := s.conn.SetReadDeadline(deadline); err != nil {
		return nil, s.lost(err)
	}
	var e Event
	if err := readMessage(rightsReader{s}, MaxEvent, &e); err != nil {
		return nil, s.lost(err)
	}
	return &e, nil
}

// follow reads events until the import has ended.
func (s *session) follow(progress Progress) error {
	for {
		e, err := s.next(0)
		switch {
		case err != nil:
			return err
		case e.Type == TypeDone:
			return nil
		case e.Type == TypeProgress:
			if progress != nil {
				progress(e.Done, e.Expected)
			}
		default:
			return s.unexpected(e)
		}
	}
}

func (s *session) unexpected(e *Event) error {
	switch e.Type {
	case TypeRefused:
		return &RefusedError{e.Code, e.Text}
	case TypeFailed:
		return &FailedError{e.Text}
	}
	return fmt.Errorf("the import helper broke the protocol: %.40q", e.Type)
}

func (s *session) lost(err error) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("it closed the connection")
	}
	return fmt.Errorf("ask the import helper: %w", err)
}

// rightsReader reads a connection and keeps the descriptor that comes along.
type rightsReader struct{ s *session }

func (r rightsReader) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := r.s.conn.ReadMsgUnix(p, oob)
	if oobn > 0 {
		r.take(oob[:oobn])
	}
	if n == 0 && err == nil && len(p) > 0 {
		err = io.EOF
	}
	return n, err
}

func (r rightsReader) take(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if r.s.device >= 0 {
				unix.Close(fd)
				continue
			}
			r.s.device = fd
		}
	}
}
