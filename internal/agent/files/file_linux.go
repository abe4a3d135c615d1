package files

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/targetfs"
)

// omitted and now have meanings of their own in utimensat(2).
var (
	omitted = unix.Timespec{Nsec: unix.UTIME_OMIT}
	now     = unix.Timespec{Nsec: unix.UTIME_NOW}
)

func nanoseconds(t targetfs.Timespec) unix.Timespec {
	ts := unix.Timespec{Nsec: int64(t.Nsec)}
	ts.Sec = t.Sec
	return ts
}

// maxLinks is how many links are followed to make a file, as path_resolution(7).
const maxLinks = 40

// Open implements [targetfs.FS].
func (r *Root) Open(ctx context.Context, name string, flags targetfs.OpenFlags, perm uint32) (targetfs.File, error) {
	var f *file
	err := r.threads.do(ctx, func() (err error) {
		if flags&targetfs.Create != 0 {
			f, err = r.create(name, flags, perm)
		} else {
			f, err = r.existing(name, flags)
		}
		if err != nil {
			return err
		}
		if f.attr, err = attr(f.fd()); err != nil {
			_ = f.f.Close()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// existing opens what is there.
func (r *Root) existing(name string, flags targetfs.OpenFlags) (*file, error) {
	write := flags&(targetfs.Write|targetfs.Truncate) != 0
	p, err := r.find(name, flags&targetfs.NoFollow == 0, write)
	if err != nil {
		return nil, err
	}
	defer p.close()
	if flags&targetfs.Directory != 0 && p.kind() != unix.S_IFDIR {
		return nil, unix.ENOTDIR
	}
	if flags&(targetfs.Read|targetfs.Write) == 0 {
		fd, err := unix.FcntlInt(uintptr(p.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		return r.file(fd, p.real, p.kind(), flags), nil
	}
	if err := openable(p); err != nil {
		return nil, err
	}
	if p.kind() == unix.S_IFDIR && (write || flags&targetfs.Create != 0) {
		return nil, unix.EISDIR
	}
	fd, err := unix.Open(descriptor(p.fd), linuxFlags(flags), 0)
	if err != nil {
		return nil, err
	}
	return r.file(fd, p.real, p.kind(), flags), nil
}

// linuxFlags never block and never make anything.
func linuxFlags(flags targetfs.OpenFlags) int {
	f := unix.O_CLOEXEC | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_LARGEFILE
	switch flags & (targetfs.Read | targetfs.Write) {
	case targetfs.Write:
		f |= unix.O_WRONLY
	case targetfs.Read | targetfs.Write:
		f |= unix.O_RDWR
	}
	for flag, linux := range map[targetfs.OpenFlags]int{
		targetfs.Append: unix.O_APPEND, targetfs.Truncate: unix.O_TRUNC, targetfs.DataSync: unix.O_DSYNC, targetfs.Sync: unix.O_SYNC,
	} {
		if flags&flag != 0 {
			f |= linux
		}
	}
	return f
}

// create opens a file that may have to be made.
func (r *Root) create(name string, flags targetfs.OpenFlags, perm uint32) (*file, error) {
	if flags&targetfs.Directory != 0 {
		return nil, unix.EINVAL
	}
	if flags&(targetfs.Read|targetfs.Write) == 0 {
		return nil, unix.EINVAL
	}
	for range maxLinks {
		if flags&targetfs.Exclusive == 0 {
			f, err := r.existing(name, flags)
			if !errors.Is(err, fs.ErrNotExist) {
				return f, err
			}
		}
		if strings.HasSuffix(name, "/") {
			return nil, unix.EISDIR
		}
		f, next, err := r.make(name, flags, perm)
		if next == "" {
			return f, err
		}
		name = next
	}
	return nil, unix.ELOOP
}

// make makes a file that is not there. When there is something after all, and the flags allow it, it returns under which name to look again: the same, or that behind a link which leads
// nowhere.
func (r *Root) make(name string, flags targetfs.OpenFlags, perm uint32) (f *file, next string, err error) {
	dir, last, err := r.parent(name)
	if err != nil {
		return nil, "", err
	}
	defer dir.close()
	how := &unix.OpenHow{
		Flags: uint64(linuxFlags(flags)&^unix.O_TRUNC) | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW, Mode: uint64(perm & 0o7777),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := openat2(dir.fd, last, how)
	switch {
	case err == nil:
		return r.file(fd, path.Join(dir.real, last), unix.S_IFREG, flags), "", nil
	case !errors.Is(err, fs.ErrExist) || flags&targetfs.Exclusive != 0:
		return nil, "", err
	}
	b := make([]byte, targetfs.MaxPath+1)
	n, err := unix.Readlinkat(dir.fd, last, b)
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		return nil, name, nil // Somebody else made a file, or removed a link, just now.
	case err != nil:
		return nil, "", err
	case flags&targetfs.NoFollow != 0:
		return nil, "", unix.ELOOP
	}
	if content := string(b[:n]); strings.HasPrefix(content, "/") {
		return nil, content, nil
	} else if dir.real == "/" {
		return nil, "/" + content, nil
	} else {
		return nil, dir.real + "/" + content, nil
	}
}

// file is an open file of a [Root].
type file struct {
	root  *Root
	f     *os.File
	real  string
	kind  uint32
	flags targetfs.OpenFlags
	attr  targetfs.Attr

	listing sync.Mutex // the offset in a directory is the descriptor's
}

func (r *Root) file(fd int, real string, kind uint32, flags targetfs.OpenFlags) *file {
	return &file{root: r, f: os.NewFile(uintptr(fd), real), real: real, kind: kind, flags: flags}
}

// fd is valid until Close, before which no call runs.
func (f *file) fd() int {
	c, err := f.f.SyscallConn()
	fd := -1
	if err == nil {
		_ = c.Control(func(d uintptr) { fd = int(d) })
	}
	return fd
}

// do runs on a thread with the target's rights: some files ask for them again at each call.
func (f *file) do(ctx context.Context, call func(fd int) error) error {
	return f.root.threads.do(ctx, func() error { return call(f.fd()) })
}

// Attr implements [targetfs.File].
func (f *file) Attr() targetfs.Attr { return f.attr }

// ReadAt implements [targetfs.File].
func (f *file) ReadAt(ctx context.Context, b []byte, off int64) (n int, err error) {
	if f.kind == unix.S_IFDIR {
		return 0, unix.EISDIR
	}
	if err := f.root.judge(f.real, false); err != nil {
		return 0, err // The rules have changed.
	}
	err = f.do(ctx, func(fd int) error {
		for n < len(b) {
			k, err := unix.Pread(fd, b[n:], off+int64(n))
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || k == 0 {
				return err
			}
			n += k
		}
		return nil
	})
	return n, err
}

// WriteAt implements [targetfs.File].
func (f *file) WriteAt(ctx context.Context, b []byte, off int64) (n int, err error) {
	if err := f.root.judge(f.real, true); err != nil {
		return 0, err
	}
	err = f.do(ctx, func(fd int) error {
		for n < len(b) {
			// With O_APPEND, the offset does not count, pwrite(2).
			k, err := unix.Pwrite(fd, b[n:], off+int64(n))
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return err
			}
			n += k
		}
		return nil
	})
	return n, err
}

// Stat implements [targetfs.File].
func (f *file) Stat(ctx context.Context) (a targetfs.Attr, err error) {
	err = f.do(ctx, func(fd int) error {
		a, err = attr(fd)
		return err
	})
	return a, err
}

// SetAttr implements [targetfs.File].
func (f *file) SetAttr(ctx context.Context, c targetfs.Change) error {
	if f.flags&(targetfs.Read|targetfs.Write) == 0 {
		return unix.EBADF
	}
	if c.Size != nil && f.flags&targetfs.Write == 0 {
		return unix.EINVAL
	}
	if err := f.root.judge(f.real, true); err != nil {
		return err
	}
	return f.do(ctx, func(fd int) error {
		if c.Size != nil {
			// The right to write was asked for at the opening, and may be gone.
			if err := unix.Ftruncate(fd, *c.Size); err != nil {
				return err
			}
			c.Size = nil
		}
		return change(fd, f.kind, c)
	})
}

// Sync implements [targetfs.File].
func (f *file) Sync(ctx context.Context, dataOnly bool) error {
	return f.do(ctx, func(fd int) error {
		if dataOnly {
			return unix.Fdatasync(fd)
		}
		return unix.Fsync(fd)
	})
}

// direntSize is how much of a directory is read at once, in bytes.
const direntSize = 64 << 10

// ReadDir implements [targetfs.File]. It leaves out what the rules hide.
func (f *file) ReadDir(ctx context.Context, cursor int64) (entries []targetfs.Entry, err error) {
	if err := f.root.judge(f.real, false); err != nil {
		return nil, err // The rules have changed.
	}
	err = f.do(ctx, func(fd int) error {
		b := make([]byte, direntSize)
		for len(entries) == 0 {
			n, err := f.getdents(fd, cursor, b)
			if err != nil || n == 0 {
				return err
			}
			all, err := parseDirents(b[:n])
			if err != nil {
				return err
			}
			if len(all) == 0 {
				return nil
			}
			cursor = all[len(all)-1].Next
			for _, e := range all {
				if f.shown(e.Name) {
					entries = append(entries, e)
				}
			}
		}
		return nil
	})
	return entries, err
}

func (f *file) getdents(fd int, cursor int64, b []byte) (int, error) {
	f.listing.Lock()
	defer f.listing.Unlock()
	if _, err := unix.Seek(fd, cursor, unix.SEEK_SET); err != nil {
		return 0, err
	}
	return unix.Getdents(fd, b)
}

func (f *file) shown(name string) bool {
	if name == "." || name == ".." || !f.root.rules.ByName() {
		return true
	}
	err := f.root.judge(path.Join(f.real, name), false)
	return !errors.Is(err, fs.ErrNotExist)
}

// Close implements [targetfs.File].
func (f *file) Close() error { return f.f.Close() }

// parseDirents reads what getdents64(2) returns.
func parseDirents(b []byte) ([]targetfs.Entry, error) {
	const head = 19 // d_ino, d_off, d_reclen, d_type
	var entries []targetfs.Entry
	for len(b) > 0 {
		if len(b) < head {
			return nil, unix.EIO
		}
		size := int(binary.NativeEndian.Uint16(b[16:]))
		if size < head || size > len(b) {
			return nil, unix.EIO
		}
		name, _, _ := strings.Cut(string(b[head:size]), "\x00")
		entries = append(entries, targetfs.Entry{
			Name: name, Ino: binary.NativeEndian.Uint64(b), Next: int64(binary.NativeEndian.Uint64(b[8:])), Type: b[18],
		})
		b = b[size:]
	}
	return entries, nil
}
