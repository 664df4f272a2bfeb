package helper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultDir is where the helper makes what it mounts on.
const DefaultDir = "/run/drv-thru-import-helper"

// Config makes a Server. Fields without a stated default are required.
type Config struct {
	// KeyFiles are the lists of keys that users may name. They are read at each
	// request.
	KeyFiles []string
	// Dir is DefaultDir by default.
	Dir string
	// Nix is the program; by default that of DefaultPath.
	Nix string
	// RequestTime is how long a client may take to say what it wants, default
	// 10 s; ReadyTime, to serve what was mounted, default 15 s.
	RequestTime, ReadyTime time.Duration
	// StallTime is how long an import may go without progress, default 90 s, and
	// TotalTime how long it may take, default 24 h.
	StallTime, TotalTime time.Duration
	// MaxImports is how many imports may go on at once, default 16, and
	// MaxImportsPerUser how many of one user, default 4.
	MaxImports, MaxImportsPerUser int
	// Log gets every refusal and every import.
	Log *slog.Logger
}

// maxConns bounds the connections per import that is allowed: those that wait to
// say what they want.
const maxConns = 4

// endTime is how long nix may take to end once its mount is gone.
const endTime = 10 * time.Second

// Server is the helper. It must run as root.
type Server struct {
	cfg    Config
	dir    *os.File // Config.Dir, locked
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	conns   map[uint32]int // by user
	imports map[uint32]int
}

// NewServer makes the helper's directory, clears what a killed helper has left in
// it, and makes sure that the lists of keys and nix can be read.
func NewServer(cfg Config) (*Server, error) {
	setDefaults(&cfg)
	if _, err := readKeys(cfg.KeyFiles); err != nil {
		return nil, err
	}
	if cfg.Nix != "" && !filepath.IsAbs(cfg.Nix) {
		return nil, fmt.Errorf("the program nix has to be named with its whole path, not %q", cfg.Nix)
	}
	var err error
	if cfg.Nix, err = findNix(cfg.Nix, DefaultPath); err != nil {
		return nil, err
	}
	if err := makeDir(cfg.Dir); err != nil {
		return nil, err
	}
	dir, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := clearDir(cfg.Dir); err != nil {
		dir.Close()
		return nil, fmt.Errorf("clear what an earlier helper has left: %w", err)
	}
	s := &Server{cfg: cfg, dir: dir, conns: make(map[uint32]int), imports: make(map[uint32]int)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// lockDir takes the helper's directory until it is closed: what is in it may be what
// another helper works with.
func lockDir(name string) (*os.File, error) {
	dir, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		dir.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another helper uses it")
		}
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return dir, nil
}

// clearDir removes what a killed helper has left.
func clearDir(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, "import-*"))
	for _, name := range left {
		// The mount was in a namespace that is gone.
		err = errors.Join(err, os.RemoveAll(name))
	}
	return err
}

func setDefaults(cfg *Config) {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&cfg.RequestTime, 10*time.Second)
	def(&cfg.ReadyTime, 15*time.Second)
	def(&cfg.StallTime, 90*time.Second)
	def(&cfg.TotalTime, 24*time.Hour)
	if cfg.MaxImports <= 0 {
		cfg.MaxImports = 16
	}
	if cfg.MaxImportsPerUser <= 0 {
		cfg.MaxImportsPerUser = 4
	}
	if cfg.Dir == "" {
		cfg.Dir = DefaultDir
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
}

// Serve takes connections until Close or until the listener fails. The listener
// must be one of a Unix socket.
func (s *Server) Serve(l net.Listener) error {
	s.wg.Add(1)
	defer s.wg.Done()
	defer context.AfterFunc(s.ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		if err != nil {
			if s.ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
				s.cfg.Log.Warn("cannot take a connection", "err", err)
				select {
				case <-time.After(time.Second):
				case <-s.ctx.Done():
				}
				continue
			}
			return fmt.Errorf("accept: %w", err)
		}
		unixConn, ok := conn.(*net.UnixConn)
		if !ok {
			conn.Close()
			return errors.New("the import helper listens on Unix sockets only")
		}
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			defer unixConn.Close()
			s.handle(unixConn)
		}()
	}
}

// Close ends Serve and all imports, and waits for their ends.
func (s *Server) Close() {
	s.cancel()
	s.wg.Wait()
	s.dir.Close()
}

// peer is who is on the other end.
type peer struct {
	conn *net.UnixConn
	cred *unix.Ucred
	log  *slog.Logger
}

func (s *Server) handle(conn *net.UnixConn) {
	cred, err := credentials(conn)
	if err != nil {
		s.cfg.Log.Warn("refused", "reason", err)
		return
	}
	p := &peer{conn, cred, s.cfg.Log.With("uid", cred.Uid, "pid", cred.Pid)}
	release := s.take(s.conns, cred.Uid, maxConns*s.cfg.MaxImports, maxConns*s.cfg.MaxImportsPerUser)
	if release == nil {
		p.refuse(refusef(CodeBusy, "too many connections"))
		return
	}
	defer release()
	req, err := s.request(conn)
	if err != nil {
		p.refuse(refusef(CodeRequest, "%v", err))
		return
	}
	keys, err := readKeys(s.cfg.KeyFiles)
	if err != nil {
		p.log.Error("cannot read the list of keys", "err", err)
		p.refuse(refusef(CodeKey, "the helper cannot read its list of keys"))
		return
	}
	if refused := req.check(keys); refused != nil {
		p.refuse(refused)
		return
	}
	if req.Op == OpCheck {
		p.log.Debug("the key is on the list", "key", req.Key)
		_ = p.send(&Event{Type: TypeAccepted})
		return
	}
	done := s.take(s.imports, cred.Uid, s.cfg.MaxImports, s.cfg.MaxImportsPerUser)
	if done == nil {
		p.refuse(refusef(CodeBusy, "too many imports at once"))
		return
	}
	defer done()
	s.serveImport(p, req)
}

// request reads what the client wants.
func (s *Server) request(conn *net.UnixConn) (*Request, error) {
	if err := conn.SetReadDeadline(time.Now().Add(s.cfg.RequestTime)); err != nil {
		return nil, err
	}
	var req Request
	if err := readMessage(conn, MaxRequest, &req); err != nil {
		return nil, err
	}
	return &req, conn.SetReadDeadline(time.Time{})
}

// take counts one more of a user's; nil when there are too many.
func (s *Server) take(counts map[uint32]int, uid uint32, most, share int) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := 0
	for _, n := range counts {
		all += n
	}
	if all >= most || counts[uid] >= share {
		return nil
	}
	counts[uid]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if counts[uid]--; counts[uid] == 0 {
			delete(counts, uid)
		}
	}
}

// credentials asks the kernel who connected: unix(7), SO_PEERCRED.
func credentials(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, credErr
}

// sendTime bounds sending an event: a client that reads nothing gets nothing.
const sendTime = 5 * time.Second

// send sends an event, with descriptors beside it.
func (p *peer) send(e *Event, fds ...int) error {
	e.Text = clip(e.Text, MaxText)
	msg, err := encodeMessage(e)
	if err != nil {
		return err
	}
	if err := p.conn.SetWriteDeadline(time.Now().Add(sendTime)); err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	n, _, err := p.conn.WriteMsgUnix(msg, rights, nil)
	if err == nil && n < len(msg) {
		_, err = p.conn.Write(msg[n:])
	}
	return err
}

func (p *peer) refuse(r *RefusedError) {
	p.log.Warn("refused", "code", r.Code, "reason", r.Text)
	_ = p.send(&Event{Type: TypeRefused, Code: r.Code, Text: r.Text}) // it may be gone
}
