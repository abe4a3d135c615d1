//go:build amd64 || arm64

package seccomp

import "golang.org/x/sys/unix"

// FileCalls are the calls by path that [Filter].Files intercepts, and getcwd, which returns one. Calls about descriptors are not among them, but
// for those that can be either (newfstatat with AT_EMPTY_PATH).
func FileCalls() []uint32 {
	return append([]uint32{
		unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_NEWFSTATAT, unix.SYS_STATX, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_READLINKAT,
		unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT, unix.SYS_SYMLINKAT,
		unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCHOWNAT, unix.SYS_UTIMENSAT, unix.SYS_TRUNCATE, unix.SYS_STATFS,
		unix.SYS_CHDIR, unix.SYS_GETCWD, unix.SYS_INOTIFY_ADD_WATCH,
		unix.SYS_GETXATTR, unix.SYS_LGETXATTR, unix.SYS_LISTXATTR, unix.SYS_LLISTXATTR,
		unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_REMOVEXATTR, unix.SYS_LREMOVEXATTR,
	}, oldFileCalls...)
}
