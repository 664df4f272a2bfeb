package direct

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Watch returns a channel that gets a value after addresses or routes of this
// host have changed (rtnetlink(7)); several changes may give one value. It ends
// with ctx.
func Watch(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	groups := uint32(unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_LINK)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	file := os.NewFile(uintptr(fd), "netlink")
	context.AfterFunc(ctx, func() { file.Close() })
	changed := make(chan struct{}, 1)
	go func() {
		defer file.Close()
		// What changed does not matter: a message that does not fit is as
		// good as one that does.
		buf := make([]byte, 8<<10)
		for {
			// ENOBUFS: there were more messages than the kernel kept.
			if _, err := file.Read(buf); err != nil && (ctx.Err() != nil || !errors.Is(err, unix.ENOBUFS)) {
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	return changed, nil
}
