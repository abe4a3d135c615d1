// Package dirfs is a folder as a target's file system, for tests of the client's side: no connection, no policies, and links that leave the
// folder are followed out of it.
package dirfs

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/targetfs"
)

// FS is the folder Root. Its files are counted.
type FS struct {
	Root string
	// Opens and Reads count calls, Left the files that are open.
	Opens, Reads, Left atomic.Int64
}

var _ targetfs.FS = (*FS)(nil)

func (f *FS) at(path string) string { return filepath.Join(f.Root, path) }

func fail(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &targetfs.Error{Op: op, Path: path, Errno: targetfs.Errno(err)}
}

func follow(yes bool) int {
	if yes {
		return 0
	}
	return unix.AT_SYMLINK_NOFOLLOW
}

// Stat implements [targetfs.FS].
func (f *FS) Stat(_ context.Context, path string, yes bool) (targetfs.Attr, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(unix.AT_FDCWD, f.at(path), &st, follow(yes)); err != nil {
		return targetfs.Attr{}, fail("stat", path, err)
	}
	return attr(&st), nil
}

func attr(st *unix.Stat_t) targetfs.Attr {
	ts := func(t unix.Timespec) targetfs.Timespec { return targetfs.Timespec{Sec: t.Sec, Nsec: uint32(t.Nsec)} }
	return targetfs.Attr{
		Mode: st.Mode, Ino: st.Ino, Dev: st.Dev, UID: st.Uid, GID: st.Gid, Rdev: st.Rdev, Size: st.Size,
		Nlink:   uint64(st.Nlink), //nolint:unconvert // uint32 on arm64
		Blksize: uint32(st.Blksize), Blocks: uint64(st.Blocks), Atime: ts(st.Atim), Mtime: ts(st.Mtim), Ctime: ts(st.Ctim),
	}
}

// Statfs implements [targetfs.FS].
func (f *FS) Statfs(_ context.Context, path string) (targetfs.Statfs, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(f.at(path), &s); err != nil {
		return targetfs.Statfs{}, fail("statfs", path, err)
	}
	return targetfs.Statfs{
		Type: uint64(s.Type), Bsize: uint64(s.Bsize), Frsize: uint64(s.Frsize), Blocks: s.Blocks, Bfree: s.Bfree, Bavail: s.Bavail,
		Files: s.Files, Ffree: s.Ffree, Namelen: uint64(s.Namelen), Flags: uint64(s.Flags),
	}, nil
}

// Access implements [targetfs.FS].
func (f *FS) Access(_ context.Context, path string, mode uint32, yes bool) error {
	return fail("access", path, unix.Faccessat2(unix.AT_FDCWD, f.at(path), mode, unix.AT_EACCESS|follow(yes)))
}

// Readlink implements [targetfs.FS].
func (f *FS) Readlink(_ context.Context, path string) (string, error) {
	buf := make([]byte, 4096)
	n, err := unix.Readlink(f.at(path), buf)
	return string(buf[:max(n, 0)]), fail("readlink", path, err)
}

// Open implements [targetfs.FS].
func (f *FS) Open(_ context.Context, path string, flags targetfs.OpenFlags, perm uint32) (targetfs.File, error) {
	f.Opens.Add(1)
	how := unix.O_CLOEXEC
	switch {
	case flags&targetfs.Read != 0 && flags&targetfs.Write != 0:
		how |= unix.O_RDWR
	case flags&targetfs.Write != 0:
		how |= unix.O_WRONLY
	case flags&targetfs.Read == 0:
		how |= unix.O_PATH
	}
	for _, b := range []struct {
		flag  targetfs.OpenFlags
		linux int
	}{
		{targetfs.Append, unix.O_APPEND},
		{targetfs.Create, unix.O_CREAT},
		{targetfs.Exclusive, unix.O_EXCL},
		{targetfs.Truncate, unix.O_TRUNC},
		{targetfs.Directory, unix.O_DIRECTORY},
		{targetfs.NoFollow, unix.O_NOFOLLOW},
		{targetfs.Sync, unix.O_SYNC},
	} {
		if flags&b.flag != 0 {
			how |= b.linux
		}
	}
	fd, err := unix.Open(f.at(path), how, perm)
	if err != nil {
		return nil, fail("open", path, err)
	}
	f.Left.Add(1)
	opened := &file{fs: f, path: path, fd: fd}
	if opened.attr, err = opened.Stat(context.Background()); err != nil {
		_ = opened.Close()
		return nil, err
	}
	return opened, nil
}

// Mkdir implements [targetfs.FS].
func (f *FS) Mkdir(_ context.Context, path string, perm uint32) error {
	return fail("mkdir", path, unix.Mkdir(f.at(path), perm))
}

// Remove implements [targetfs.FS].
func (f *FS) Remove(_ context.Context, path string, dir bool) error {
	if dir {
		return fail("rmdir", path, unix.Rmdir(f.at(path)))
	}
	return fail("unlink", path, unix.Unlink(f.at(path)))
}

// Rename implements [targetfs.FS].
func (f *FS) Rename(_ context.Context, from, to string, flags targetfs.RenameFlags) error {
	return fail("rename", from, unix.Renameat2(unix.AT_FDCWD, f.at(from), unix.AT_FDCWD, f.at(to), uint(flags)))
}

// Symlink implements [targetfs.FS].
func (f *FS) Symlink(_ context.Context, content, path string) error {
	return fail("symlink", path, unix.Symlink(content, f.at(path)))
}

// Link implements [targetfs.FS].
func (f *FS) Link(_ context.Context, from, path string) error {
	return fail("link", path, unix.Link(f.at(from), f.at(path)))
}

// SetAttr implements [targetfs.FS].
func (f *FS) SetAttr(_ context.Context, path string, yes bool, c targetfs.Change) error {
	return fail("setattr", path, set(f.at(path), yes, c))
}

func set(name string, yes bool, c targetfs.Change) error {
	id := func(p *uint32) int {
		if p == nil {
			return -1
		}
		return int(*p)
	}
	if c.UID != nil || c.GID != nil {
		if err := unix.Fchownat(unix.AT_FDCWD, name, id(c.UID), id(c.GID), follow(yes)); err != nil {
			return err
		}
	}
	if c.Mode != nil {
		if err := unix.Chmod(name, *c.Mode); err != nil {
			return err
		}
	}
	if c.Size != nil {
		if err := unix.Truncate(name, *c.Size); err != nil {
			return err
		}
	}
	if c.Atime == nil && c.Mtime == nil {
		return nil
	}
	ts := func(t *targetfs.Timespec) unix.Timespec {
		if t == nil {
			return unix.Timespec{Nsec: unix.UTIME_OMIT}
		}
		if t.Nsec == targetfs.Now {
			return unix.Timespec{Nsec: unix.UTIME_NOW}
		}
		return unix.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{ts(c.Atime), ts(c.Mtime)}, follow(yes))
}

// Getxattr implements [targetfs.FS].
func (f *FS) Getxattr(_ context.Context, path, name string, _ bool) ([]byte, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Getxattr(f.at(path), name, buf)
	return buf[:max(n, 0)], fail("getxattr", path, err)
}

// Listxattr implements [targetfs.FS].
func (f *FS) Listxattr(_ context.Context, path string, _ bool) ([]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Listxattr(f.at(path), buf)
	if n <= 0 {
		return nil, fail("listxattr", path, err)
	}
	return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00"), nil
}

type file struct {
	fs   *FS
	path string
	fd   int
	attr targetfs.Attr
}

func (f *file) Attr() targetfs.Attr { return f.attr }

func (f *file) ReadAt(_ context.Context, b []byte, off int64) (int, error) {
	f.fs.Reads.Add(1)
	done := 0
	for done < len(b) {
		n, err := unix.Pread(f.fd, b[done:], off+int64(done))
		if err != nil {
			return done, fail("read", f.path, err)
		}
		if n == 0 {
			break
		}
		done += n
	}
	return done, nil
}

func (f *file) WriteAt(_ context.Context, b []byte, off int64) (int, error) {
	n, err := unix.Pwrite(f.fd, b, off)
	return max(n, 0), fail("write", f.path, err)
}

func (f *file) Stat(context.Context) (targetfs.Attr, error) {
	var st unix.Stat_t
	err := unix.Fstat(f.fd, &st)
	return attr(&st), fail("fstat", f.path, err)
}

func (f *file) SetAttr(_ context.Context, c targetfs.Change) error {
	return fail("setattr", f.path, set(f.fs.at(f.path), true, c))
}

func (f *file) Sync(context.Context, bool) error { return fail("fsync", f.path, unix.Fsync(f.fd)) }

// ReadDir gives all that is left at once; a cursor is a number of entries.
func (f *file) ReadDir(_ context.Context, cursor int64) ([]targetfs.Entry, error) {
	list, err := os.ReadDir(f.fs.at(f.path))
	if err != nil {
		return nil, fail("readdir", f.path, err)
	}
	entries := []targetfs.Entry{{Name: ".", Ino: 1, Type: unix.DT_DIR}, {Name: "..", Ino: 1, Type: unix.DT_DIR}}
	for _, e := range list {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(f.fs.at(f.path), e.Name()), &st); err == nil {
			entries = append(entries, targetfs.Entry{Name: e.Name(), Ino: st.Ino, Type: uint8(st.Mode >> 12)})
		}
	}
	for i := range entries {
		entries[i].Next = int64(i + 1)
	}
	return entries[min(int(cursor), len(entries)):], nil
}

func (f *file) Close() error {
	f.fs.Left.Add(-1)
	return unix.Close(f.fd)
}
