package httpsplit

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// over says whether a connection that waits for its next request has ended. It does not block, or hardly: of
// TLS, what has come has to be read to be known.
func (u *upstream) over() bool {
	var below net.Conn = u.Conn
	for {
		t, ok := below.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		below = t.NetConn()
	}
	sc, ok := below.(syscall.Conn)
	if !ok {
		return u.staleStream()
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	ended, spoken := false, false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		spoken = err == nil && n > 0
		ended = err == nil && n == 0 || err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
		return true
	})
	if spoken {
		return u.staleWithin(time.Now().Add(recordTime))
	}
	return ended || err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// recordTime is how long the rest of a record of TLS may take, of which the beginning is there.
const recordTime = 10 * time.Millisecond
