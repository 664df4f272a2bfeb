package helper

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mountFlags: nothing in the mount can be written, run, be a device or lead out of
// it by a symbolic link.
const mountFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOSYMFOLLOW

// mountDevice opens /dev/fuse and mounts it on dir, in the space. Only root can
// look into it (user_id=0, without allow_other), whoever serves it. The descriptor of
// the mount's root reaches it from outside of the space; to open it asks the server
// nothing.
func mountDevice(s *space, dir string) (device *os.File, root int, err error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, -1, fmt.Errorf("open /dev/fuse: %w", err)
	}
	device = os.NewFile(uintptr(fd), "/dev/fuse")
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,max_read=%d", fd, 512<<10)
	err = s.do(func() error {
		if err := unix.Mount("drv-thru-import", dir, "fuse.drv-thru-import", mountFlags, options); err != nil {
			return err
		}
		var err error
		root, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		device.Close() // which ends a mount that nobody has
		return nil, -1, fmt.Errorf("mount on %s: %w", dir, err)
	}
	return device, root, nil
}

// unmount takes it away from whoever still waits for an answer of it
// (fs/fuse/inode.c, fuse_umount_begin).
func unmount(s *space, dir string) error {
	return s.do(func() error {
		if err := unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		return nil
	})
}

// ownedByRoot fails when others than root can change the file.
func ownedByRoot(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("not a regular file")
	case int(st.Uid) != os.Geteuid() && st.Uid != 0:
		return fmt.Errorf("it belongs to user %d", st.Uid)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("others can write to it (mode %o)", st.Mode&0o777)
	}
	return nil
}

// makeDir makes the helper's directory, or makes sure that the one that is there
// is a directory of root's and nobody else's.
func makeDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is no directory", dir)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d", dir, st.Uid)
	case st.Mode&0o077 != 0:
		return fmt.Errorf("%s is open to others (mode %o): chmod 700", dir, st.Mode&0o777)
	}
	return nil
}
