//go:build amd64 || arm64

package intercept

import (
	"context"
	"os"
	"regexp"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/filemode"
	"github.com/mirrord-go/mirrord/internal/targetfs"
)

func (c fileCall) newfstatat() {
	c.stat(c.n.Args[0], c.n.Args[1], c.n.Args[2], c.int(3)&unix.AT_SYMLINK_NOFOLLOW == 0)
}

// stat serves stat, lstat and newfstatat.
func (c fileCall) stat(dirfd, addr, buf uint64, follow bool) {
	n, ok := c.name(dirfd, addr, false)
	if !ok {
		return
	}
	c.at(n, func(ctx context.Context) error {
		a, err := c.files.Target.Stat(ctx, n.path, follow)
		if err != nil {
			return err
		}
		st := c.files.stat(a)
		return c.put(buf, unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st)))
	})
}

// stat is what fstat(2) of the file would say: programs compare device and number.
func (f *FileServer) stat(a targetfs.Attr) unix.Stat_t {
	var st unix.Stat_t
	st.Dev, st.Ino, st.Mode, st.Uid, st.Gid = f.mount.Dev(), f.mount.Ino(a), a.Mode, a.UID, a.GID
	st.Size, st.Blocks = a.Size, int64(a.Blocks)
	setWidths(&st, a.Nlink, a.Blksize)
	st.Rdev = a.Rdev
	st.Atim, st.Mtim, st.Ctim = timespec(a.Atime), timespec(a.Mtime), timespec(a.Ctime)
	return st
}

func timespec(t targetfs.Timespec) unix.Timespec {
	return unix.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)}
}

func (c fileCall) statx() {
	n, ok := c.name(c.n.Args[0], c.n.Args[1], false)
	if !ok {
		return
	}
	c.at(n, func(ctx context.Context) error {
		a, err := c.files.Target.Stat(ctx, n.path, c.int(2)&unix.AT_SYMLINK_NOFOLLOW == 0)
		if err != nil {
			return err
		}
		st := c.files.statx(a)
		return c.put(c.n.Args[4], unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st)))
	})
}

func (f *FileServer) statx(a targetfs.Attr) unix.Statx_t {
	at := func(t targetfs.Timespec) unix.StatxTimestamp {
		return unix.StatxTimestamp{Sec: t.Sec, Nsec: t.Nsec}
	}
	dev := f.mount.Dev()
	st := unix.Statx_t{
		Mask: unix.STATX_BASIC_STATS, Blksize: a.Blksize, Nlink: uint32(a.Nlink), Uid: a.UID, Gid: a.GID, Mode: uint16(a.Mode), Ino: f.mount.Ino(a),
		Size: uint64(max(a.Size, 0)), Blocks: a.Blocks, Atime: at(a.Atime), Btime: at(a.Btime), Ctime: at(a.Ctime), Mtime: at(a.Mtime),
		Rdev_major: unix.Major(a.Rdev), Rdev_minor: unix.Minor(a.Rdev), Dev_major: unix.Major(dev), Dev_minor: unix.Minor(dev),
	}
	if a.Btime != (targetfs.Timespec{}) {
		st.Mask |= unix.STATX_BTIME
	}
	return st
}

func (c fileCall) faccessat() { c.access(c.n.Args[0], c.n.Args[1], uint32(c.n.Args[2]), 0) }

func (c fileCall) faccessat2() {
	c.access(c.n.Args[0], c.n.Args[1], uint32(c.n.Args[2]), c.int(3))
}

// access serves access and its like. In the target the session has one user, so that the real and the effective are the same.
func (c fileCall) access(dirfd, addr uint64, mode uint32, flags int) {
	n, ok := c.name(dirfd, addr, false)
	if !ok {
		return
	}
	c.at(n, func(ctx context.Context) error {
		if n.place == filemode.ReadOnly && mode&unix.W_OK != 0 {
			if err := c.files.Target.Access(ctx, n.path, mode&^unix.W_OK, flags&unix.AT_SYMLINK_NOFOLLOW == 0); err != nil {
				return err
			}
			return unix.EROFS
		}
		return c.files.Target.Access(ctx, n.path, mode, flags&unix.AT_SYMLINK_NOFOLLOW == 0)
	})
}

func (c fileCall) readlinkat() { c.readlink(c.n.Args[0], c.n.Args[1], c.n.Args[2], c.int(3)) }

// procLink are the links of the kernel that can lead to files of our mount.
var procLink = regexp.MustCompile(`^/proc/(self|thread-self|[0-9]+)/(fd/[0-9]+|cwd)$`)

func (c fileCall) readlink(dirfd, addr, buf uint64, size int) {
	n, ok := c.name(dirfd, addr, false)
	if !ok {
		return
	}
	if n.place == filemode.Local {
		if target, ok := c.ownLink(n.path); ok && size > 0 {
			c.putLink(buf, size, target)
			return
		}
	}
	c.at(n, func(ctx context.Context) error {
		if size <= 0 {
			return unix.EINVAL
		}
		link, err := c.files.Target.Readlink(ctx, n.path)
		if err != nil {
			return err
		}
		c.putLink(buf, size, link)
		return errAnswered
	})
}

func (c fileCall) putLink(buf uint64, size int, link string) {
	link = link[:min(len(link), size)]
	if err := c.put(buf, []byte(link)); err != nil {
		c.answer(err)
		return
	}
	c.ret(len(link))
}

// ownLink is the target's path of a descriptor that came from our mount, where the kernel has a name that means nothing to programs.
func (c fileCall) ownLink(path string) (string, bool) {
	m := procLink.FindStringSubmatch(path)
	if m == nil {
		return "", false
	}
	if m[1] == "self" || m[1] == "thread-self" {
		m[1] = strconv.Itoa(c.tid())
	}
	link, err := os.Readlink("/proc/" + m[1] + "/" + m[2])
	if err != nil {
		return "", false
	}
	return c.files.mount.TargetPath(link)
}

func (c fileCall) statfs() {
	n, ok := c.name(cwd, c.n.Args[0], false)
	if !ok {
		return
	}
	c.at(n, func(ctx context.Context) error {
		s, err := c.files.Target.Statfs(ctx, n.path)
		if err != nil {
			return err
		}
		out := unix.Statfs_t{
			Type: int64(s.Type), Bsize: int64(s.Bsize), Frsize: int64(s.Frsize), Blocks: s.Blocks, Bfree: s.Bfree, Bavail: s.Bavail,
			Files: s.Files, Ffree: s.Ffree, Namelen: int64(s.Namelen), Flags: int64(s.Flags),
		}
		return c.put(c.n.Args[1], unsafe.Slice((*byte)(unsafe.Pointer(&out)), unsafe.Sizeof(out)))
	})
}

func (c fileCall) getxattr(follow bool) {
	n, ok := c.name(cwd, c.n.Args[0], false)
	if !ok {
		return
	}
	c.at(n, func(ctx context.Context) error {
		name, err := readPath(c.tid(), c.n.Args[1])
		if err != nil {
			return unix.EFAULT
		}
		v, err := c.files.Target.Getxattr(ctx, n.path, name, follow)
		if err != nil {
			return err
		}
		return c.sized(c.n.Args[2], c.n.Args[3], v)
	})
}

func (c fileCall) listxattr(follow bool) {
	n, ok := c.name(cwd, c.n.Args[0], false)
	if !ok {
		return
	}
	c.at(n, func(ctx context.Context) error {
		names, err := c.files.Target.Listxattr(ctx, n.path, follow)
		if err != nil {
			return err
		}
		var list []byte
		for _, name := range names {
			list = append(append(list, name...), 0)
		}
		return c.sized(c.n.Args[1], c.n.Args[2], list)
	})
}

// sized answers with a value, or its size when there is no room for any.
func (c fileCall) sized(buf, room uint64, v []byte) error {
	switch {
	case room == 0:
	case room < uint64(len(v)):
		return unix.ERANGE
	default:
		if err := c.put(buf, v); err != nil {
			return err
		}
	}
	c.ret(len(v))
	return errAnswered
}

// setxattr refuses extended attributes in the target.
func (c fileCall) setxattr() {
	if n, ok := c.name(cwd, c.n.Args[0], true); ok {
		c.at(n, func(context.Context) error { return unix.EOPNOTSUPP })
	}
}
