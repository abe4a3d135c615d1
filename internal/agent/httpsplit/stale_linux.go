package httpsplit

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// stale says whether a connection that waits for its next request has ended. It does not block.
func (u *upstream) stale() bool {
	if u.in.Buffered() > 0 {
		return false
	}
	sc, ok := u.Conn.(syscall.Conn)
	if !ok {
		return u.staleStream()
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	ended := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		ended = err == nil && n == 0 || err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
		return true
	})
	return ended || err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}
