package intercept

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/targetfs"
)

// oldFileCalls are those without a directory.
var oldFileCalls = map[int32]func(fileCall){
	unix.SYS_OPEN: func(c fileCall) { c.open(cwd, c.n.Args[0], c.int(1), uint32(c.n.Args[2])) },
	unix.SYS_CREAT: func(c fileCall) {
		c.open(cwd, c.n.Args[0], unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, uint32(c.n.Args[1]))
	},
	unix.SYS_STAT:      func(c fileCall) { c.stat(cwd, c.n.Args[0], c.n.Args[1], true) },
	unix.SYS_LSTAT:     func(c fileCall) { c.stat(cwd, c.n.Args[0], c.n.Args[1], false) },
	unix.SYS_ACCESS:    func(c fileCall) { c.access(cwd, c.n.Args[0], uint32(c.n.Args[1]), 0) },
	unix.SYS_READLINK:  func(c fileCall) { c.readlink(cwd, c.n.Args[0], c.n.Args[1], c.int(2)) },
	unix.SYS_MKDIR:     func(c fileCall) { c.mkdir(cwd, c.n.Args[0], uint32(c.n.Args[1])) },
	unix.SYS_MKNOD:     func(c fileCall) { c.mknod(cwd, c.n.Args[0], uint32(c.n.Args[1])) },
	unix.SYS_RMDIR:     func(c fileCall) { c.remove(cwd, c.n.Args[0], true) },
	unix.SYS_UNLINK:    func(c fileCall) { c.remove(cwd, c.n.Args[0], false) },
	unix.SYS_RENAME:    func(c fileCall) { c.rename(cwd, c.n.Args[0], cwd, c.n.Args[1], 0) },
	unix.SYS_LINK:      func(c fileCall) { c.link(cwd, c.n.Args[0], cwd, c.n.Args[1]) },
	unix.SYS_SYMLINK:   func(c fileCall) { c.symlink(c.n.Args[0], cwd, c.n.Args[1]) },
	unix.SYS_CHMOD:     func(c fileCall) { c.chmod(cwd, c.n.Args[0], uint32(c.n.Args[1]), 0) },
	unix.SYS_CHOWN:     func(c fileCall) { c.chown(cwd, c.n.Args[0], c.n.Args[1], c.n.Args[2], 0) },
	unix.SYS_LCHOWN:    func(c fileCall) { c.chown(cwd, c.n.Args[0], c.n.Args[1], c.n.Args[2], unix.AT_SYMLINK_NOFOLLOW) },
	unix.SYS_UTIMES:    func(c fileCall) { c.utimes(cwd, c.n.Args[0], c.n.Args[1], microseconds, 0) },
	unix.SYS_FUTIMESAT: func(c fileCall) { c.utimes(c.n.Args[0], c.n.Args[1], c.n.Args[2], microseconds, 0) },
	unix.SYS_UTIME:     fileCall.utime,
}

// utime reads struct utimbuf: two times in seconds.
func (c fileCall) utime() {
	now := targetfs.Timespec{Nsec: targetfs.Now}
	ch := targetfs.Change{Atime: &now, Mtime: &now}
	if c.n.Args[1] != 0 {
		var b [16]byte
		if err := readMemory(c.tid(), c.n.Args[1], b[:]); err != nil {
			c.refuse(err)
			return
		}
		ch.Atime = &targetfs.Timespec{Sec: int64(binary.NativeEndian.Uint64(b[:]))}
		ch.Mtime = &targetfs.Timespec{Sec: int64(binary.NativeEndian.Uint64(b[8:]))}
	}
	c.set(cwd, c.n.Args[0], 0, ch)
}

func setWidths(st *unix.Stat_t, nlink uint64, blksize uint32) {
	st.Nlink, st.Blksize = nlink, int64(blksize)
}
