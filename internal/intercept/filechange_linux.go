//go:build amd64 || arm64

package intercept

import (
	"context"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/filemode"
	"github.com/mirrord-go/mirrord/internal/targetfs"
)

// change serves a call that changes one name or file.
func (c fileCall) change(dirfd, addr uint64, remote func(ctx context.Context, path string) error) {
	n, ok := c.name(dirfd, addr, true)
	if !ok {
		return
	}
	c.at(n, func(ctx context.Context) error {
		if n.place != filemode.ReadWrite {
			return unix.EROFS
		}
		return remote(ctx, n.path)
	})
}

func (c fileCall) mkdir(dirfd, addr uint64, perm uint32) {
	c.change(dirfd, addr, func(ctx context.Context, path string) error {
		return c.files.Target.Mkdir(ctx, path, perm&0o7777&^c.umask())
	})
}

// mknod makes regular files only: nothing else can be opened in the target.
func (c fileCall) mknod(dirfd, addr uint64, mode uint32) {
	c.change(dirfd, addr, func(ctx context.Context, path string) error {
		if t := mode & unix.S_IFMT; t != 0 && t != unix.S_IFREG {
			return unix.EPERM
		}
		f, err := c.files.Target.Open(ctx, path, targetfs.Write|targetfs.Create|targetfs.Exclusive, mode&0o7777&^c.umask())
		if err != nil {
			return err
		}
		return f.Close()
	})
}

func (c fileCall) unlinkat() {
	c.remove(c.n.Args[0], c.n.Args[1], c.int(2)&unix.AT_REMOVEDIR != 0)
}

func (c fileCall) remove(dirfd, addr uint64, dir bool) {
	c.change(dirfd, addr, func(ctx context.Context, path string) error { return c.files.Target.Remove(ctx, path, dir) })
}

// rename serves calls with two names. Between the laptop and the target there is a border of file systems, which mv and its like know to cross.
func (c fileCall) rename(fromDir, from, toDir, to uint64, flags uint32) {
	c.both(fromDir, from, toDir, to, func(ctx context.Context, old, new string) error {
		if flags&^uint32(targetfs.RenameNoReplace|targetfs.RenameExchange) != 0 {
			return unix.EINVAL
		}
		return c.files.Target.Rename(ctx, old, new, targetfs.RenameFlags(flags))
	})
}

func (c fileCall) link(fromDir, from, toDir, to uint64) {
	c.both(fromDir, from, toDir, to, func(ctx context.Context, old, new string) error { return c.files.Target.Link(ctx, old, new) })
}

func (c fileCall) both(fromDir, from, toDir, to uint64, remote func(ctx context.Context, old, new string) error) {
	a, ok := c.name(fromDir, from, true)
	if !ok {
		return
	}
	b, ok := c.name(toDir, to, true)
	if !ok {
		return
	}
	switch {
	case a.place == filemode.NotFound || b.place == filemode.NotFound:
		c.fail(unix.ENOENT)
	case a.place == filemode.Local && b.place == filemode.Local:
		c.pass()
	case a.place == filemode.Local || b.place == filemode.Local:
		c.fail(unix.EXDEV)
	case a.place != filemode.ReadWrite || b.place != filemode.ReadWrite:
		c.fail(unix.EROFS)
	default:
		c.at(a, func(ctx context.Context) error { return remote(ctx, a.path, b.path) })
	}
}

func (c fileCall) symlink(content, dirfd, addr uint64) {
	c.change(dirfd, addr, func(ctx context.Context, path string) error {
		text, err := readPath(c.tid(), content)
		if err != nil {
			return unix.EFAULT
		}
		return c.files.Target.Symlink(ctx, text, path)
	})
}

func (c fileCall) chmod(dirfd, addr uint64, mode uint32, flags int) {
	mode &= 0o7777
	c.set(dirfd, addr, flags, targetfs.Change{Mode: &mode})
}

func (c fileCall) chown(dirfd, addr, uid, gid uint64, flags int) {
	var ch targetfs.Change
	if id := uint32(uid); id != ^uint32(0) {
		ch.UID = &id
	}
	if id := uint32(gid); id != ^uint32(0) {
		ch.GID = &id
	}
	c.set(dirfd, addr, flags, ch)
}

func (c fileCall) truncate() {
	size := int64(c.n.Args[1])
	if size < 0 {
		c.pass() // EINVAL
		return
	}
	c.set(cwd, c.n.Args[0], 0, targetfs.Change{Size: &size})
}

func (c fileCall) set(dirfd, addr uint64, flags int, ch targetfs.Change) {
	c.change(dirfd, addr, func(ctx context.Context, path string) error {
		return c.files.Target.SetAttr(ctx, path, flags&unix.AT_SYMLINK_NOFOLLOW == 0, ch)
	})
}

// The units of the times in calls that set them, in nanoseconds.
const (
	nanoseconds  = 1
	microseconds = 1000
)

func (c fileCall) utimensat() {
	if c.n.Args[1] == 0 {
		c.pass() // of a descriptor
		return
	}
	c.utimes(c.n.Args[0], c.n.Args[1], c.n.Args[2], nanoseconds, c.int(3))
}

// utimes reads two pairs of seconds and a smaller unit; none stand for the present.
func (c fileCall) utimes(dirfd, addr, times uint64, unit int64, flags int) {
	now := targetfs.Timespec{Nsec: targetfs.Now}
	ch := targetfs.Change{Atime: &now, Mtime: &now}
	if times != 0 {
		var b [32]byte
		if err := readMemory(c.tid(), times, b[:]); err != nil {
			c.refuse(err)
			return
		}
		var err error
		if ch.Atime, err = timeOf(b[:16], unit); err == nil {
			ch.Mtime, err = timeOf(b[16:], unit)
		}
		if err != nil {
			c.pass() // EINVAL
			return
		}
	}
	c.set(dirfd, addr, flags, ch)
}

func timeOf(b []byte, unit int64) (*targetfs.Timespec, error) {
	sec, part := int64(binary.NativeEndian.Uint64(b)), int64(binary.NativeEndian.Uint64(b[8:]))
	switch {
	case unit == nanoseconds && part == unix.UTIME_OMIT:
		return nil, nil
	case unit == nanoseconds && part == unix.UTIME_NOW:
		return &targetfs.Timespec{Nsec: targetfs.Now}, nil
	case part < 0 || part*unit >= 1e9:
		return nil, unix.EINVAL
	}
	return &targetfs.Timespec{Sec: sec, Nsec: uint32(part * unit)}, nil
}
