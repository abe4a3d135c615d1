//go:build amd64 || arm64

package intercept

import (
	"maps"

	"golang.org/x/sys/unix"
)

// fileCalls are what serves the calls of seccomp.FileCalls.
var fileCalls = func() map[int32]func(fileCall) {
	calls := map[int32]func(fileCall){
		unix.SYS_OPENAT:            fileCall.openat,
		unix.SYS_OPENAT2:           fileCall.openat2,
		unix.SYS_NEWFSTATAT:        fileCall.newfstatat,
		unix.SYS_STATX:             fileCall.statx,
		unix.SYS_FACCESSAT:         fileCall.faccessat,
		unix.SYS_FACCESSAT2:        fileCall.faccessat2,
		unix.SYS_READLINKAT:        fileCall.readlinkat,
		unix.SYS_MKDIRAT:           func(c fileCall) { c.mkdir(c.n.Args[0], c.n.Args[1], uint32(c.n.Args[2])) },
		unix.SYS_MKNODAT:           func(c fileCall) { c.mknod(c.n.Args[0], c.n.Args[1], uint32(c.n.Args[2])) },
		unix.SYS_UNLINKAT:          fileCall.unlinkat,
		unix.SYS_RENAMEAT:          func(c fileCall) { c.rename(c.n.Args[0], c.n.Args[1], c.n.Args[2], c.n.Args[3], 0) },
		unix.SYS_RENAMEAT2:         func(c fileCall) { c.rename(c.n.Args[0], c.n.Args[1], c.n.Args[2], c.n.Args[3], uint32(c.n.Args[4])) },
		unix.SYS_LINKAT:            func(c fileCall) { c.link(c.n.Args[0], c.n.Args[1], c.n.Args[2], c.n.Args[3]) },
		unix.SYS_SYMLINKAT:         func(c fileCall) { c.symlink(c.n.Args[0], c.n.Args[1], c.n.Args[2]) },
		unix.SYS_FCHMODAT:          func(c fileCall) { c.chmod(c.n.Args[0], c.n.Args[1], uint32(c.n.Args[2]), 0) },
		unix.SYS_FCHMODAT2:         func(c fileCall) { c.chmod(c.n.Args[0], c.n.Args[1], uint32(c.n.Args[2]), c.int(3)) },
		unix.SYS_FCHOWNAT:          func(c fileCall) { c.chown(c.n.Args[0], c.n.Args[1], c.n.Args[2], c.n.Args[3], c.int(4)) },
		unix.SYS_UTIMENSAT:         fileCall.utimensat,
		unix.SYS_TRUNCATE:          fileCall.truncate,
		unix.SYS_STATFS:            fileCall.statfs,
		unix.SYS_CHDIR:             fileCall.chdir,
		unix.SYS_GETCWD:            fileCall.getcwd,
		unix.SYS_INOTIFY_ADD_WATCH: fileCall.inotifyAddWatch,
		unix.SYS_GETXATTR:          func(c fileCall) { c.getxattr(true) },
		unix.SYS_LGETXATTR:         func(c fileCall) { c.getxattr(false) },
		unix.SYS_LISTXATTR:         func(c fileCall) { c.listxattr(true) },
		unix.SYS_LLISTXATTR:        func(c fileCall) { c.listxattr(false) },
		unix.SYS_SETXATTR:          fileCall.setxattr,
		unix.SYS_LSETXATTR:         fileCall.setxattr,
		unix.SYS_REMOVEXATTR:       fileCall.setxattr,
		unix.SYS_LREMOVEXATTR:      fileCall.setxattr,
	}
	maps.Copy(calls, oldFileCalls)
	return calls
}()
