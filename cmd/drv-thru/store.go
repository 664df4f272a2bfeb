package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
)

// localStore is the machine's Nix, through its daemon. One connection answers
// everything; what it names as a temporary root stays while it is open.
type localStore struct {
	conn *daemon.Conn
	cfg  daemon.Config

	// known is what validity has told, for recall, until knownUntil.
	known      map[nix.Path]bool
	knownUntil time.Time
}

// knownFor bounds the age of what recall tells: what somebody else has brought in
// since is fetched for nothing.
const knownFor = 5 * time.Second

// needsNix is the hint where there is no Nix.
const needsNix = "this needs the Nix of this machine: install Nix, start its daemon, or put its programs into PATH"

// startDaemon is the hint where its daemon does not run.
const startDaemon = "is nix-daemon running? with systemd: systemctl start nix-daemon.socket"

// dialStore connects to the daemon the way Nix itself finds it.
func (a *app) dialStore(ctx context.Context) (*localStore, error) {
	cfg := daemon.Config{Dial: a.storeDialer()}
	conn, err := daemon.Dial(ctx, cfg)
	if err == nil {
		return &localStore{conn: conn, cfg: cfg}, nil
	}
	// One that is run because none listens does not say so.
	socket, listens := a.daemonSocket()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, &hintError{err, needsNix}
	case a.env("NIX_REMOTE") == "local":
		return nil, &hintError{err, "NIX_REMOTE is local, which does without the daemon: unset it where the store is another user's"}
	case !listens:
		return nil, &hintError{err, "no daemon listens at " + socket + ": " + startDaemon}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, daemon.ErrRefused):
		return nil, &hintError{err, "may this user talk to it? (allowed-users in nix.conf; on Debian, the group nix-users)"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, &hintError{err, startDaemon}
	}
	return nil, err
}

// reopen connects anew if the connection was lost: a build elsewhere may take
// hours, and the daemon may be restarted meanwhile.
func (s *localStore) reopen(ctx context.Context) error {
	if _, err := s.conn.QueryValidPaths(ctx, nil, false); err == nil || ctx.Err() != nil {
		return err
	}
	conn, err := daemon.Dial(ctx, s.cfg)
	if err != nil {
		return err
	}
	_ = s.conn.Close()
	// What was valid has lost its temporary roots.
	s.conn, s.known = conn, nil
	return nil
}

// validity tells of each path whether it is valid, and remembers it for recall.
func (s *localStore) validity(ctx context.Context, paths []nix.Path) (map[nix.Path]bool, error) {
	valid, err := s.ValidPaths(ctx, paths)
	if err != nil {
		return nil, err
	}
	known := make(map[nix.Path]bool, len(paths))
	for _, p := range paths {
		known[p] = false
	}
	for _, p := range valid {
		known[p] = true
	}
	s.known, s.knownUntil = known, time.Now().Add(knownFor)
	return known, nil
}

// recall returns what validity has told, if that was just now: what was valid then is
// held since. It returns it once, as whoever asks is about to change it.
func (s *localStore) recall() map[nix.Path]bool {
	known := s.known
	s.known = nil
	if time.Now().After(s.knownUntil) {
		return nil
	}
	return known
}

func (a *app) storeDialer() daemon.Dialer {
	return a.dialerWith(slices.DeleteFunc(slices.Clone(a.environ), func(v string) bool { return strings.HasPrefix(v, envPrefix) }))
}

// builderDialer is storeDialer for a daemon that builds for strangers. A fixed-output
// derivation has what it wants of the daemon's environment (impureEnvVars), so there is
// no more in it than Nix needs; NIX_CONFIG may have access-tokens.
func (a *app) builderDialer() daemon.Dialer {
	env := slices.DeleteFunc(a.nixEnv(), func(v string) bool { return strings.HasPrefix(v, "NIX_CONFIG=") })
	for _, v := range a.environ {
		name, _, _ := strings.Cut(v, "=")
		switch strings.ToLower(name) {
		case "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy", "curl_ca_bundle", "ssh_auth_sock":
			env = append(env, v)
		}
	}
	return a.dialerWith(env)
}

// daemonSocket is where the daemon should be, and whether it is to be asked there.
func (a *app) daemonSocket() (socket string, listens bool) {
	socket = a.env("NIX_DAEMON_SOCKET_PATH")
	remote, _, _ := strings.Cut(a.env("NIX_REMOTE"), "?") // what follows are settings of the store
	if path, ok := strings.CutPrefix(remote, "unix://"); ok && path != "" {
		socket = path
	}
	if socket == "" {
		socket = daemon.DefaultSocket
	}
	// A single-user installation has no daemon that listens, and root may
	// choose to do without.
	_, err := os.Stat(socket)
	return socket, !os.IsNotExist(err) && a.env("NIX_REMOTE") != "local"
}

// dialerWith connects to the daemon, or to one that it runs with that environment.
func (a *app) dialerWith(env []string) daemon.Dialer {
	socket, listens := a.daemonSocket()
	if !listens {
		return daemon.CommandDialer([]string{"nix-daemon", "--stdio"}, env)
	}
	return daemon.UnixDialer(socket)
}

// Close lets go of the temporary roots.
func (s *localStore) Close() { _ = s.conn.Close() }

// PathInfos implements [client.Store].
func (s *localStore) PathInfos(ctx context.Context, paths []nix.Path) (map[nix.Path]nix.PathInfo, error) {
	infos, err := s.conn.QueryPathInfos(ctx, paths)
	if err != nil {
		return nil, err
	}
	out := make(map[nix.Path]nix.PathInfo, len(infos))
	for _, info := range infos {
		if info != nil {
			out[info.Path] = *info
		}
	}
	return out, nil
}

// ValidPaths implements [client.Store].
func (s *localStore) ValidPaths(ctx context.Context, paths []nix.Path) ([]nix.Path, error) {
	return s.conn.KeepPaths(ctx, paths)
}

// Substitutable implements [client.Store].
func (s *localStore) Substitutable(ctx context.Context, paths []nix.Path) ([]nix.Path, error) {
	m, err := s.conn.QueryMissing(ctx, opaque(paths))
	return m.WillSubstitute, err
}

// Substitute implements [client.Store].
func (s *localStore) Substitute(ctx context.Context, paths []nix.Path) error {
	results, err := s.conn.BuildPathsWithResults(ctx, opaque(paths), daemon.BuildNormal)
	if err != nil {
		return err
	}
	for _, r := range results {
		if !r.Status.Success() {
			return fmt.Errorf("%s: %s", r.Path, daemon.StripANSI(r.ErrorMsg))
		}
	}
	return nil
}

func opaque(paths []nix.Path) []daemon.DerivedPath {
	out := make([]daemon.DerivedPath, len(paths))
	for i, p := range paths {
		out[i].Path = p
	}
	return out
}

var _ client.Store = (*localStore)(nil)
