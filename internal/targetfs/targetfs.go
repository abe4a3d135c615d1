// Package targetfs is the file system of a target, as its processes see it: the contract ([FS], [File]), the protocol that carries it over one
// stream of the tunnel (SPEC.md of package tunnel, kind files), the client of that protocol and its server.
//
// The client's side compiles for every system; names, numbers and modes are those of Linux all the same.
package targetfs

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// FS is the file system of a target, by absolute paths as its processes see them. Symbolic links are resolved in the target, inside its root.
//
// All methods may be called from many goroutines; calls that overlap have no order. They block until the target has answered, the context has
// ended or the connection is lost. Every error can be asked for its number with [Errno]; it is that of Linux that the program is to see.
type FS interface {
	// Stat is stat(2), or lstat(2) without follow.
	Stat(ctx context.Context, path string, follow bool) (Attr, error)
	// Statfs is statfs(2).
	Statfs(ctx context.Context, path string) (Statfs, error)
	// Access is faccessat2(2) with AT_EACCESS: whether the session may do what mode says (F_OK 0, X_OK 1, W_OK 2, R_OK 4).
	Access(ctx context.Context, path string, mode uint32, follow bool) error
	// Readlink is readlink(2).
	Readlink(ctx context.Context, path string) (string, error)
	// Open is open(2); perm counts with [Create] only, and the target's umask does not apply: the caller takes away its own. Only regular files
	// and directories open: devices fail with EACCES, pipes and sockets with ENXIO. Directories open without [Write] only.
	Open(ctx context.Context, path string, flags OpenFlags, perm uint32) (File, error)
	// Mkdir is mkdir(2); perm as for Open.
	Mkdir(ctx context.Context, path string, perm uint32) error
	// Remove is unlink(2), or rmdir(2) with dir.
	Remove(ctx context.Context, path string, dir bool) error
	// Rename is renameat2(2), with its flags.
	Rename(ctx context.Context, from, to string, flags RenameFlags) error
	// Symlink is symlink(2): path becomes a link to content, which may be anything.
	Symlink(ctx context.Context, content, path string) error
	// Link is linkat(2): path becomes another name of from. A symbolic link itself is linked, as by link(2).
	Link(ctx context.Context, from, path string) error
	// SetAttr changes what is set in c: chmod, chown, truncate and utimensat, in the order chown, chmod, truncate, times. It stops at the first error.
	SetAttr(ctx context.Context, path string, follow bool, c Change) error
	// Getxattr is getxattr(2), or lgetxattr(2) without follow. The value is 64 KiB at most.
	Getxattr(ctx context.Context, path, name string, follow bool) ([]byte, error)
	// Listxattr is listxattr(2), or llistxattr(2) without follow: the names.
	Listxattr(ctx context.Context, path string, follow bool) ([]string, error)
}

// File is an open file or directory. All methods may be called from many goroutines, as those of [FS]. After the connection is lost, or the
// container has ended, they fail with ESTALE or EIO; opening the path again may work.
type File interface {
	// Attr is what Stat said when the file was opened.
	Attr() Attr
	// ReadAt reads at the offset. It returns less than len(b) without an error only at the end of the file; there is no io.EOF.
	// Any length will do; large ones travel in pieces, and reading on ahead makes sequential reads fast.
	ReadAt(ctx context.Context, b []byte, off int64) (int, error)
	// WriteAt writes all of b at the offset, or at the end of the file, as one piece up to [MaxData], when it was opened with [Append].
	// The count is what was written before an error.
	WriteAt(ctx context.Context, b []byte, off int64) (int, error)
	// Stat is fstat(2).
	Stat(ctx context.Context) (Attr, error)
	// SetAttr is FS.SetAttr of the open file.
	SetAttr(ctx context.Context, c Change) error
	// Sync is fsync(2), or fdatasync(2) with dataOnly. What was written is at the target before, in its page cache.
	Sync(ctx context.Context, dataOnly bool) error
	// ReadDir returns some entries behind the cursor, "." and ".." among them: 0 is the beginning, and each entry says what
	// cursor follows it. No entries mean the end.
	ReadDir(ctx context.Context, cursor int64) ([]Entry, error)
	// Close gives the handle back. It does not wait for the target, and is to be called once, when no other call runs.
	Close() error
}

// OpenFlags say how a file is opened. They are of our own, since those of open(2) differ between architectures; [FromLinux] translates.
type OpenFlags uint32

// The flags of [FS.Open], as those of open(2). Without Read and Write a file opens for nothing but its metadata, as with O_PATH, if the session may look it up.
const (
	Read OpenFlags = 1 << iota
	Write
	Append
	Create
	Exclusive
	Truncate
	Directory
	NoFollow
	// DataSync and Sync make each write wait for the target's disk.
	DataSync
	Sync

	allFlags = Sync<<1 - 1
)

// RenameFlags are those of renameat2(2).
type RenameFlags uint32

// The flags of [FS.Rename].
const (
	RenameNoReplace RenameFlags = 1
	RenameExchange  RenameFlags = 2
)

// Timespec is a time as in struct timespec.
type Timespec struct {
	Sec  int64
	Nsec uint32
}

// Now as Nsec in a [Change] means the target's present time (UTIME_NOW).
const Now = 1<<30 - 1

// Attr is what stat(2) says.
type Attr struct {
	// Mode has the type and the permissions, as st_mode.
	Mode     uint32
	Ino, Dev uint64
	Nlink    uint64
	UID, GID uint32
	Rdev     uint64
	Size     int64
	Blksize  uint32
	Blocks   uint64 // of 512 bytes
	Atime    Timespec
	Mtime    Timespec
	Ctime    Timespec
	Btime    Timespec // of creation; zero when the file system does not know
}

// Change is what SetAttr changes: what is not nil.
type Change struct {
	Mode     *uint32 // the permissions, 07777
	UID, GID *uint32
	Size     *int64
	Atime    *Timespec
	Mtime    *Timespec
}

// Statfs is what statfs(2) says.
type Statfs struct {
	Type          uint64 // f_type
	Bsize, Frsize uint64
	Blocks        uint64
	Bfree, Bavail uint64
	Files, Ffree  uint64
	Namelen       uint64
	Flags         uint64 // ST_RDONLY and others
}

// Entry is one name in a directory.
type Entry struct {
	Name string
	Ino  uint64
	// Type is DT_REG and its like of readdir(3), the bits 12 to 15 of the mode; 0 when unknown.
	Type uint8
	// Next is the cursor behind this entry.
	Next int64
}

// Limits.
const (
	// MaxData is the longest piece of a file in one message, in bytes.
	MaxData = 256 << 10
	// MaxPath is the longest path, in bytes (PATH_MAX with its zero byte is 4096).
	MaxPath = 4095
)

// Error says what failed in the target. It wraps the number.
type Error struct {
	Op, Path string
	// Errno is a number of Linux (the generic table, as on amd64 and arm64), on every system.
	Errno syscall.Errno
	// Reason says more, for the user: the policy that forbids it, for one. Mostly empty.
	Reason string
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s %s in the target: errno %d", e.Op, e.Path, uint(e.Errno))
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// Unwrap returns the number.
func (e *Error) Unwrap() error { return e.Errno }

// Errno is the number of Linux that a program is to see for err: 0 for nil, EINTR when a context ended, EIO for what has no number.
func Errno(err error) syscall.Errno {
	switch errno, ok := errors.AsType[syscall.Errno](err); {
	case err == nil:
		return 0
	case ok:
		return errno
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return errINTR
	}
	return errIO
}

// Numbers of Linux. Those of package syscall are the running system's.
const (
	errINTR        = syscall.Errno(4)
	errIO          = syscall.Errno(5)
	errBADF        = syscall.Errno(9)
	errINVAL       = syscall.Errno(22)
	errMFILE       = syscall.Errno(24)
	errNAMETOOLONG = syscall.Errno(36)
	errNOSYS       = syscall.Errno(38)
	errSTALE       = syscall.Errno(116)
)
