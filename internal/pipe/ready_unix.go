//go:build unix

package pipe

import (
	"io"
	"os"
	"syscall"
)

// readinessReader waits in the runtime's poller and takes a buffer only once there is
// something to read.
func readinessReader(c syscall.Conn) ReadFunc {
	rc, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return func() (*[]byte, int, error) {
		var (
			buf  *[]byte
			n    int
			rerr error
		)
		err := rc.Read(func(fd uintptr) bool {
			buf = buffers.Get().(*[]byte)
			for {
				n, rerr = syscall.Read(int(fd), *buf)
				if rerr != syscall.EINTR {
					break
				}
			}
			if rerr == syscall.EAGAIN {
				buffers.Put(buf)
				buf = nil
				return false
			}
			return true
		})
		switch {
		case err != nil: // closed, or past its deadline
			if buf != nil {
				buffers.Put(buf)
			}
			return nil, 0, err
		case rerr != nil:
			buffers.Put(buf)
			return nil, 0, os.NewSyscallError("read", rerr)
		case n == 0:
			buffers.Put(buf)
			return nil, 0, io.EOF
		}
		return buf, n, nil
	}
}
