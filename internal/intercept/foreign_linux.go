//go:build amd64 || arm64

package intercept

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/intercept/seccomp"
)

// foreign serves the calls of the 32-bit table that choose a destination. A 32-bit program can't open an Internet
// socket, but it may have been given one, over exec or a Unix socket: it may use that one's connection, and no
// other.
func (c *call) foreign(nr seccomp.Foreign) {
	addressed, err := c.foreignAddressed(nr)
	if err != nil {
		c.refuse(err)
		return
	}
	if !addressed {
		c.pass()
		return
	}
	s, ok := c.socket(true)
	if !ok {
		return
	}
	defer s.close()
	if s.isRaw() || c.outside() {
		c.pass()
		return
	}
	c.fail(unix.EAFNOSUPPORT)
}

// foreignAddressed says whether the call names a destination; of several messages one may.
func (c *call) foreignAddressed(nr seccomp.Foreign) (bool, error) {
	switch nr {
	case seccomp.ForeignSendto:
		return uint32(c.n.Args[4]) != 0, nil
	case seccomp.ForeignSendmsg:
		var name [4]byte // struct compat_msghdr starts with it
		err := readMemory(c.tid(), uint64(uint32(c.n.Args[1])), name[:])
		return binary.NativeEndian.Uint32(name[:]) != 0, err
	}
	return true, nil
}
