//go:build unix

package pipe

import (
	"errors"
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
	r := &reader{quick: true}
	try := r.try // one allocation for all reads
	return func() (*[]byte, int, error) {
		err := rc.Read(try)
		buf, n := r.buf, r.n
		r.buf = nil
		switch {
		case err != nil: // closed, or past its deadline
			if buf != nil {
				PutBuffer(buf)
			}
			return nil, 0, err
		case r.err != nil:
			PutBuffer(buf)
			return nil, 0, os.NewSyscallError("read", r.err)
		case n == 0:
			PutBuffer(buf)
			return nil, 0, io.EOF
		}
		return buf, n, nil
	}
}

// reader is a read under way.
type reader struct {
	buf   *[]byte
	n     int
	err   error
	quick bool // the last read brought a message, not a part of something large
	file  bool // it is no socket
}

// try reads, and reports false when there is nothing to read.
func (r *reader) try(fd uintptr) bool {
	r.buf = getBuffer(r.quick)
	for {
		read := syscall.Read
		if r.quick && !r.file {
			read = receive
		}
		r.n, r.err = read(int(fd), *r.buf)
		switch {
		case r.err == nil:
			r.quick = r.n < messageSize
			return true
		case errors.Is(r.err, syscall.EINTR):
		case errors.Is(r.err, syscall.ENOTSOCK):
			r.file = true
		case errors.Is(r.err, syscall.EAGAIN):
			PutBuffer(r.buf)
			r.buf = nil
			return false
		default:
			return true
		}
	}
}

// readinessWriter writes to the descriptor of a connection.
func readinessWriter(c syscall.Conn) func([]byte) (int, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	w := &writer{}
	try := w.try
	return func(p []byte) (int, error) {
		if len(p) == 0 {
			return 0, nil
		}
		w.p, w.n, w.err = p, 0, nil
		err := rc.Write(try)
		w.p = nil
		if err == nil && w.err != nil {
			err = os.NewSyscallError("write", w.err)
		}
		return w.n, err
	}
}

// writer is a write under way.
type writer struct {
	p    []byte
	n    int // bytes that were written
	err  error
	file bool // it is no socket
}

// try writes what is left, and reports false when there is no room for all of it.
func (w *writer) try(fd uintptr) bool {
	for w.n < len(w.p) {
		write := syscall.Write
		if len(w.p)-w.n <= messageSize && !w.file {
			write = send
		}
		n, err := write(int(fd), w.p[w.n:])
		if n > 0 {
			w.n += n
		}
		switch {
		case err == nil && n > 0, errors.Is(err, syscall.EINTR):
		case err == nil:
			w.err = io.ErrUnexpectedEOF
			return true
		case errors.Is(err, syscall.ENOTSOCK):
			w.file = true
		case errors.Is(err, syscall.EAGAIN):
			return false
		default:
			w.err = err
			return true
		}
	}
	return true
}
