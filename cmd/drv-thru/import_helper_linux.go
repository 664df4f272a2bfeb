package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/drv-thru/drv-thru/cmd/internal/notify"
	"github.com/drv-thru/drv-thru/fusecache/helper"
)

// serveImportHelper runs the import helper until ctx ends.
func (a *app) serveImportHelper(ctx context.Context, f *importHelperFlags) error {
	if os.Geteuid() != 0 {
		return &hintError{errors.New("the import helper has to run as root"), "start it as a service: drv-thru-import-helper.socket"}
	}
	log := a.logger(f.verbose)
	s, err := helper.NewServer(helper.Config{
		KeyFiles: f.keyFiles, Nix: f.nix,
		RequestTime: f.requestTime, ReadyTime: f.readyTime, StallTime: f.stallTime, TotalTime: f.importTime,
		MaxImports: f.maxImports, MaxImportsPerUser: f.maxImportsPerUser,
		Log: log,
	})
	if errors.Is(err, helper.ErrNoNix) {
		return &hintError{err, "install Nix, or name its program with --nix FILE"}
	}
	if err != nil {
		return err
	}
	defer s.Close()
	l, err := importHelperListener(f)
	if err != nil {
		return err
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	log.Info("ready", "socket", l.Addr().String(), "keys", f.keyFiles.String())
	notify.Ready()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		notify.Stopping()
		s.Close()
		return <-served
	}
}

// importHelperListener is the socket that systemd has handed over, or one of our own.
func importHelperListener(f *importHelperFlags) (net.Listener, error) {
	given, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take over the socket: %w", err)
	}
	switch len(given) {
	case 0:
	case 1:
		return given[0], nil
	default:
		return nil, fmt.Errorf("systemd has handed over %d sockets, want one", len(given))
	}
	gid := 0
	if f.group != "" {
		g, err := user.LookupGroup(f.group)
		if err != nil {
			return nil, usagef("--socket-group: %v", err)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return nil, usagef("--socket-group: group %s has ID %q", f.group, g.Gid)
		}
	}
	return helper.Listen(f.socket, gid)
}
