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
	c.at(n, func(ctx context.Context) error { return c.openRemote(ctx, n, flags, perm) })
}

func (c fileCall) openRemote(ctx context.Context, n fileName, flags int, perm uint32) error {
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
}

// The flags of openat2(2) by which we resolve names ourselves, and all that there are.
const (
	resolveCached = 0x20 // RESOLVE_CACHED
	resolveHere   = unix.RESOLVE_BENEATH | unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS
	resolveAll    = resolveHere | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS | resolveCached
)

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
	if resolve&resolveHere == 0 && resolve&^resolveAll == 0 && resolve&resolveCached == 0 {
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
	judged := raw
	if resolve&unix.RESOLVE_IN_ROOT != 0 {
		judged = "." + path.Clean("/"+raw)
	}
	n, ok := c.judge(c.n.Args[0], judged, writes(flags))
	switch {
	case !ok:
	case !n.place.Remote():
		c.openAt(n, flags, perm)
	case resolve&^resolveAll != 0, resolve&unix.RESOLVE_BENEATH != 0 && resolve&unix.RESOLVE_IN_ROOT != 0:
		c.fail(unix.EINVAL)
	case resolve&resolveCached != 0:
		c.fail(unix.EAGAIN)
	default:
		c.openResolved(n, raw, resolve, flags, perm)
	}
}

// openResolved opens a file of the target by a name that may not lead everywhere.
func (c fileCall) openResolved(n fileName, raw string, resolve uint64, flags int, perm uint32) {
	r := resolution{
		root: "/", beneath: resolve&unix.RESOLVE_BENEATH != 0, noLinks: resolve&unix.RESOLVE_NO_SYMLINKS != 0,
		keepLast: flags&unix.O_NOFOLLOW != 0 || flags&(unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL,
	}
	name := n.path
	if resolve&(unix.RESOLVE_BENEATH|unix.RESOLVE_IN_ROOT) != 0 {
		if raw[0] == '/' && r.beneath {
			c.fail(unix.EXDEV)
			return
		}
		dir, ok := c.decide(c.n.Args[0], ".", false)
		if !ok {
			return
		}
		r.root, name = strings.TrimSuffix(dir.path, "/."), raw
	}
	if strings.HasSuffix(raw, "/") && flags&unix.O_CREAT == 0 {
		flags |= unix.O_DIRECTORY
	}
	c.at(n, func(ctx context.Context) (err error) {
		if n.path, err = c.files.resolve(ctx, name, r); err != nil {
			return err
		}
		return c.openRemote(ctx, n, flags|unix.O_NOFOLLOW, perm)
	})
}
