package files

import (
	"context"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/targetfs"
)

// at runs f on a thread with the target's rights, with what was found under a name.
func (r *Root) at(ctx context.Context, name string, follow, write bool, f func(p *place) error) error {
	return r.threads.do(ctx, func() error {
		p, err := r.find(name, follow, write)
		if err != nil {
			return err
		}
		defer p.close()
		return f(p)
	})
}

// in runs f with the directory that a name is, or will be, in.
func (r *Root) in(ctx context.Context, name string, f func(dir *place, last string) error) error {
	return r.threads.do(ctx, func() error {
		dir, last, err := r.parent(name)
		if err != nil {
			return err
		}
		defer dir.close()
		return f(dir, last)
	})
}

// Stat implements [targetfs.FS].
func (r *Root) Stat(ctx context.Context, name string, follow bool) (a targetfs.Attr, err error) {
	err = r.at(ctx, name, follow, false, func(p *place) error {
		a, err = attr(p.fd)
		return err
	})
	return a, err
}

// attr is what the kernel says about a descriptor, also about one of O_PATH.
func attr(fd int) (targetfs.Attr, error) {
	var s unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &s); err != nil {
		return targetfs.Attr{}, err
	}
	when := func(t unix.StatxTimestamp) targetfs.Timespec { return targetfs.Timespec{Sec: t.Sec, Nsec: t.Nsec} }
	a := targetfs.Attr{
		Mode: uint32(s.Mode), Ino: s.Ino, Dev: unix.Mkdev(s.Dev_major, s.Dev_minor), Nlink: uint64(s.Nlink), UID: s.Uid, GID: s.Gid,
		Rdev: unix.Mkdev(s.Rdev_major, s.Rdev_minor), Size: int64(s.Size), Blksize: s.Blksize, Blocks: s.Blocks,
		Atime: when(s.Atime), Mtime: when(s.Mtime), Ctime: when(s.Ctime),
	}
	if s.Mask&unix.STATX_BTIME != 0 {
		a.Btime = when(s.Btime)
	}
	return a, nil
}

// Statfs implements [targetfs.FS].
func (r *Root) Statfs(ctx context.Context, name string) (s targetfs.Statfs, err error) {
	err = r.at(ctx, name, true, false, func(p *place) error {
		var st unix.Statfs_t
		if err := unix.Fstatfs(p.fd, &st); err != nil {
			return err
		}
		s = targetfs.Statfs{
			Type: uint64(uint32(st.Type)), Bsize: uint64(st.Bsize), Frsize: uint64(st.Frsize), Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail,
			Files: st.Files, Ffree: st.Ffree, Namelen: uint64(st.Namelen), Flags: uint64(st.Flags),
		}
		return nil
	})
	return s, err
}

// Access implements [targetfs.FS].
func (r *Root) Access(ctx context.Context, name string, mode uint32, follow bool) error {
	if mode&^uint32(unix.R_OK|unix.W_OK|unix.X_OK) != 0 {
		return unix.EINVAL
	}
	return r.at(ctx, name, follow, mode&unix.W_OK != 0, func(p *place) error {
		// Of this thread, which has the target's user for files only.
		return unix.Faccessat2(p.fd, "", mode, unix.AT_EMPTY_PATH|unix.AT_EACCESS)
	})
}

// Readlink implements [targetfs.FS].
func (r *Root) Readlink(ctx context.Context, name string) (content string, err error) {
	switch path.Clean(name) {
	// These mean whoever reads them, which is not the target here.
	case "/proc/self":
		return strconv.Itoa(r.id.pid), nil
	case "/proc/thread-self":
		self := strconv.Itoa(r.id.pid)
		return self + "/task/" + self, nil
	}
	err = r.at(ctx, name, false, false, func(p *place) error {
		if p.kind() != unix.S_IFLNK {
			return unix.EINVAL
		}
		b := make([]byte, targetfs.MaxPath+1)
		n, err := unix.Readlinkat(p.fd, "", b)
		if err != nil {
			return err
		}
		content = string(b[:n])
		return nil
	})
	return content, err
}

// Mkdir implements [targetfs.FS].
func (r *Root) Mkdir(ctx context.Context, name string, perm uint32) error {
	return r.in(ctx, name, func(dir *place, last string) error { return unix.Mkdirat(dir.fd, last, perm&0o7777) })
}

// Remove implements [targetfs.FS].
func (r *Root) Remove(ctx context.Context, name string, dir bool) error {
	flags := 0
	if dir {
		flags = unix.AT_REMOVEDIR
	} else if strings.HasSuffix(name, "/") {
		return unix.ENOTDIR
	}
	return r.in(ctx, name, func(dir *place, last string) error { return unix.Unlinkat(dir.fd, last, flags) })
}

// Symlink implements [targetfs.FS].
func (r *Root) Symlink(ctx context.Context, content, name string) error {
	if strings.ContainsRune(content, 0) {
		return unix.EINVAL
	}
	return r.in(ctx, name, func(dir *place, last string) error { return unix.Symlinkat(content, dir.fd, last) })
}

// two runs f with the directories of two names.
func (r *Root) two(ctx context.Context, from, to string, f func(fromDir *place, fromLast string, toDir *place, toLast string) error) error {
	return r.threads.do(ctx, func() error {
		fromDir, fromLast, err := r.parent(from)
		if err != nil {
			return err
		}
		defer fromDir.close()
		toDir, toLast, err := r.parent(to)
		if err != nil {
			return err
		}
		defer toDir.close()
		return f(fromDir, fromLast, toDir, toLast)
	})
}

// Rename implements [targetfs.FS]. Where files are judged by their names, a directory is not renamed, since that would give other names to all in it: EXDEV
// makes programs copy it instead.
func (r *Root) Rename(ctx context.Context, from, to string, flags targetfs.RenameFlags) error {
	if flags&^(targetfs.RenameNoReplace|targetfs.RenameExchange) != 0 {
		return unix.EINVAL
	}
	return r.two(ctx, from, to, func(fromDir *place, fromLast string, toDir *place, toLast string) error {
		for _, one := range []struct {
			dir  *place
			last string
		}{{fromDir, fromLast}, {toDir, toLast}} {
			if !r.rules.ByName() {
				break
			}
			var st unix.Stat_t
			if err := unix.Fstatat(one.dir.fd, one.last, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
				return unix.EXDEV
			}
		}
		// What a slash at the end means, the kernel knows.
		return unix.Renameat2(fromDir.fd, fromLast+slash(from), toDir.fd, toLast+slash(to), uint(flags))
	})
}

func slash(name string) string {
	if strings.HasSuffix(name, "/") {
		return "/"
	}
	return ""
}

// Link implements [targetfs.FS]. Who may not write to a file may not give it another name either, by which rules would not know it.
func (r *Root) Link(ctx context.Context, from, name string) error {
	return r.two(ctx, from, name, func(fromDir *place, fromLast string, toDir *place, toLast string) error {
		return unix.Linkat(fromDir.fd, fromLast, toDir.fd, toLast, 0)
	})
}

// SetAttr implements [targetfs.FS].
func (r *Root) SetAttr(ctx context.Context, name string, follow bool, c targetfs.Change) error {
	return r.at(ctx, name, follow, true, func(p *place) error {
		switch p.kind() {
		case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
			return change(p.fd, p.kind(), c)
		}
		return unix.EACCES
	})
}

// change changes what a descriptor is open to, also one of O_PATH.
func change(fd int, kind uint32, c targetfs.Change) error {
	self := descriptor(fd) // follows nothing but the descriptor
	if c.UID != nil || c.GID != nil {
		uid, gid := -1, -1
		if c.UID != nil {
			uid = int(*c.UID)
		}
		if c.GID != nil {
			gid = int(*c.GID)
		}
		if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	if c.Mode != nil {
		if kind == unix.S_IFLNK {
			return unix.EOPNOTSUPP
		}
		if err := unix.Fchmodat(unix.AT_FDCWD, self, *c.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	if c.Size != nil {
		switch kind {
		case unix.S_IFDIR:
			return unix.EISDIR
		case unix.S_IFLNK:
			return unix.EINVAL
		}
		if err := unix.Truncate(self, *c.Size); err != nil {
			return err
		}
	}
	if c.Atime == nil && c.Mtime == nil {
		return nil
	}
	times := []unix.Timespec{timespec(c.Atime), timespec(c.Mtime)}
	return unix.UtimesNanoAt(unix.AT_FDCWD, self, times, 0)
}

// timespec is the time for utimensat(2).
func timespec(t *targetfs.Timespec) unix.Timespec {
	switch {
	case t == nil:
		return omitted
	case t.Nsec == targetfs.Now:
		return now
	}
	return nanoseconds(*t)
}

// Getxattr implements [targetfs.FS].
func (r *Root) Getxattr(ctx context.Context, name, attribute string, follow bool) (value []byte, err error) {
	if strings.ContainsRune(attribute, 0) {
		return nil, unix.EINVAL
	}
	err = r.at(ctx, name, follow, false, func(p *place) error {
		b := make([]byte, maxXattr)
		n, err := unix.Getxattr(descriptor(p.fd), attribute, b)
		if err != nil {
			return err
		}
		value = b[:n]
		return nil
	})
	return value, err
}

// maxXattr is the longest value and the longest list of names, xattr(7).
const maxXattr = 64 << 10

// Listxattr implements [targetfs.FS].
func (r *Root) Listxattr(ctx context.Context, name string, follow bool) (names []string, err error) {
	err = r.at(ctx, name, follow, false, func(p *place) error {
		b := make([]byte, maxXattr)
		n, err := unix.Listxattr(descriptor(p.fd), b)
		if err != nil {
			return err
		}
		for attribute := range strings.SplitSeq(string(b[:n]), "\x00") {
			if attribute != "" {
				names = append(names, attribute)
			}
		}
		return nil
	})
	return names, err
}
