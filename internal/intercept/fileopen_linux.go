//go:build amd64 || arm64

package intercept

import (
	"context"
	"encoding/binary"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/filemode"
)

func (c fileCall) openat() { c.open(c.n.Args[0], c.n.Args[1], c.int(2), uint32(c.n.Args[3])) }

// open serves open and its like.
func (c fileCall) open(dirfd, addr uint64, flags int, perm uint32) {
	n, ok := c.name(dirfd, addr, writes(flags))
	if ok {
		c.openAt(n, flags, perm)
	}
}

// writes says whether flags of open(2) ask for more than to read.
func writes(flags int) bool {
	if flags&unix.O_PATH != 0 {
		return false
	}
	return flags&unix.O_ACCMODE != unix.O_RDONLY || flags&(unix.O_CREAT|unix.O_TRUNC) != 0 || flags&unix.O_TMPFILE == unix.O_TMPFILE
}

func (c fileCall) openAt(n fileName, flags int, perm uint32) {
	c.at(n, func(ctx context.Context) error {
		if n.place == filemode.ReadOnly && writes(flags) {
			return unix.EROFS
		}
		if flags&unix.O_CREAT != 0 {
			perm = perm & 0o7777 &^ c.umask()
		}
		fd, err := c.files.mount.Open(ctx, n.path, flags, perm)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := c.retFD(fd, flags&unix.O_CLOEXEC != 0); err != nil {
			return err
		}
		return errAnswered
	})
}

// openat2 reads struct open_how: flags, mode and resolve, of eight bytes each, and more in kernels to come.
func (c fileCall) openat2() {
	const size = 24
	if c.n.Args[3] < size {
		c.fail(unix.EINVAL)
		return
	}
	var how [size]byte
	if err := readMemory(c.tid(), c.n.Args[2], how[:]); err != nil {
		c.refuse(err)
		return
	}
	flags, perm := int(binary.NativeEndian.Uint64(how[:])), uint32(binary.NativeEndian.Uint64(how[8:]))
	resolve := binary.NativeEndian.Uint64(how[16:])
	if resolve&(unix.RESOLVE_BENEATH|unix.RESOLVE_IN_ROOT) == 0 {
		if resolve&unix.RESOLVE_NO_SYMLINKS != 0 {
			flags |= unix.O_NOFOLLOW
		}
		c.open(c.n.Args[0], c.n.Args[1], flags, perm)
		return
	}
	raw, err := readPath(c.tid(), c.n.Args[1])
	switch {
	case err != nil:
		c.refuse(err)
		return
	case raw == "":
		c.pass()
		return
	}
	if resolve&unix.RESOLVE_IN_ROOT != 0 {
		raw = "./" + strings.TrimPrefix(path.Clean("/"+raw), "/")
	}
	n, ok := c.judge(c.n.Args[0], raw, writes(flags))
	switch clean := path.Clean(raw); {
	case !ok:
	case n.place.Remote() && (raw[0] == '/' || clean == ".." || strings.HasPrefix(clean, "../")):
		c.fail(unix.EXDEV)
	default:
		c.openAt(n, flags, perm)
	}
}
