package helper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

var errClientGone = errors.New("the client has gone")

// eventPause is the least time between two progress events.
const eventPause = 250 * time.Millisecond

// serveImport does one import.
func (s *Server) serveImport(p *peer, req *Request) {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(s.ctx, s.cfg.TotalTime, fmt.Errorf("the import took longer than %s", s.cfg.TotalTime))
	defer cancel()
	err := s.runImport(ctx, p, req)
	var refused *RefusedError
	switch {
	case err == nil:
		p.log.Info("imported", "key", req.Key, "paths", len(req.Paths), "took", time.Since(began).Round(time.Millisecond))
		_ = p.send(&Event{Type: TypeDone})
	case errors.As(err, &refused):
		p.refuse(refused)
	default:
		p.log.Warn("import failed", "key", req.Key, "paths", len(req.Paths), "reason", clip(err.Error(), 500))
		_ = p.send(&Event{Type: TypeFailed, Text: err.Error()})
	}
}

func (s *Server) runImport(ctx context.Context, p *peer, req *Request) (err error) {
	dir, err := os.MkdirTemp(s.cfg.Dir, "import-")
	if err != nil {
		p.log.Error("cannot make a directory", "err", err)
		return refusef(CodeMount, "the helper cannot make a directory")
	}
	defer os.RemoveAll(dir) // nothing is mounted on it where this thread is
	home, point, cache := filepath.Join(dir, "home"), filepath.Join(dir, "mount"), filepath.Join(dir, "cache")
	for _, d := range []string{home, point} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return refusef(CodeMount, "the helper cannot make a directory")
		}
	}
	if err := makeCache(cache, point); err != nil {
		p.log.Error("cannot make a cache", "err", err)
		return refusef(CodeMount, "the helper cannot make a directory")
	}
	space, err := newSpace(req.URL == "")
	if err != nil {
		p.log.Error("cannot make a mount namespace", "err", err)
		return refusef(CodeMount, "the helper cannot make a mount namespace")
	}
	defer space.close()

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	from, mount := req.URL, -1
	if from == "" {
		if mount, err = s.mountFor(ctx, p, space, point); err != nil {
			return err
		}
		from = "file://" + cache
	} else {
		if err := ownPort(from, p.cred.Uid); err != nil {
			return refusef(CodeURL, "%v", err)
		}
		proxy, err := startProxy(from, req.Paths)
		if err != nil {
			p.log.Error("cannot listen", "err", err)
			return refusef(CodeURL, "the helper cannot listen on the loopback interface")
		}
		defer proxy.close()
		from = proxy.url
	}
	watch(p, stop)
	last := time.Time{}
	c := &copier{
		space: space, nix: s.cfg.Nix, path: DefaultPath, home: home, from: from, key: req.Key, stall: s.cfg.StallTime,
		progress: func(done, expected uint64) {
			if now := time.Now(); now.Sub(last) >= eventPause {
				last = now
				if p.send(&Event{Type: TypeProgress, Done: done, Expected: expected}) != nil {
					stop(errClientGone)
				}
			}
		},
	}
	if req.URL == "" {
		err = takeNarInfos(ctx, mount, cache, req.Paths, s.cfg.StallTime)
	}
	if err == nil {
		err = c.copy(ctx, req.Paths)
	}
	if req.URL == "" {
		if uerr := unmount(space, point); uerr != nil {
			p.log.Error("cannot unmount", "err", uerr)
		}
	}
	var abandoned *abandonedError
	if errors.As(err, &abandoned) {
		// Now it can end.
		select {
		case <-abandoned.ended:
		case <-time.After(endTime):
			p.log.Error("what waits for the client does not end although its mount is gone")
		}
	}
	return err
}

// mountFor mounts for the client and waits until it serves. It returns a descriptor
// of the mount.
func (s *Server) mountFor(ctx context.Context, p *peer, space *space, point string) (mount int, err error) {
	device, mount, err := mountDevice(space, point)
	if err != nil {
		p.log.Error("cannot mount", "err", err)
		return -1, refusef(CodeMount, "the helper cannot mount with FUSE")
	}
	// From now on it is the client's alone: when that ends, so does the mount.
	err = p.send(&Event{Type: TypeDevice}, int(device.Fd()))
	device.Close()
	if err == nil {
		err = s.awaitReady(ctx, p)
	}
	if err != nil {
		if uerr := unmount(space, point); uerr != nil {
			p.log.Error("cannot unmount", "err", uerr)
		}
		unix.Close(mount)
		return -1, refusef(CodeClient, "the client does not serve what was mounted: %v", err)
	}
	return mount, nil
}

func (s *Server) awaitReady(ctx context.Context, p *peer) error {
	if err := p.conn.SetReadDeadline(time.Now().Add(s.cfg.ReadyTime)); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = p.conn.SetReadDeadline(time.Now()) })()
	var ready Ready
	if err := readMessage(p.conn, MaxEvent, &ready); err != nil {
		return err
	}
	if !ready.Ready {
		return errors.New("it says that it cannot")
	}
	return p.conn.SetReadDeadline(time.Time{})
}

// watch ends the import when the client closes the connection, or says something
// although it has nothing more to say. It ends with the connection.
func watch(p *peer, stop context.CancelCauseFunc) {
	_ = p.conn.SetReadDeadline(time.Time{})
	go func() {
		var b [1]byte
		_, err := io.ReadFull(p.conn, b[:])
		if err == nil {
			err = errors.New("the client spoke out of turn")
		} else {
			err = errClientGone
		}
		stop(err)
	}()
}
