package worker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// maxHead is how much of a connection the client gets before it has said that it serves it: a
// usual request. It is kept until then.
const maxHead = 4 << 10

// head is the beginning of a connection that was taken from the target. The client gets it together
// with the offer, which saves a round trip: a request is usually there at once. If the
// local process refuses, the target gets it.
type head struct {
	conn *net.TCPConn
	// sent is what the client got. It starts with what was read to look for a probe.
	sent []byte
	// early is how much of it was there at once.
	early int
	// err is why reading failed, other than by the end of data.
	err error
}

// refusedError says that the local process does not take a connection.
type refusedError struct{ errno syscall.Errno }

func (e *refusedError) Error() string { return fmt.Sprintf("the local process: %v", e.errno) }

func (e *refusedError) Unwrap() error { return e.errno }

// ready reads what the peer has sent already, without waiting, and says whether there is anything
// to send. A nil head has nothing.
func (h *head) ready() bool {
	if h == nil {
		return false
	}
	raw, err := h.conn.SyscallConn()
	if err != nil {
		return len(h.sent) > 0
	}
	buf := make([]byte, maxHead)
	_ = raw.Read(func(fd uintptr) bool {
		n, err := unix.Read(int(fd), buf)
		switch {
		case err == nil: // an end of data is met again by who reads next
			h.sent = append(h.sent, buf[:n]...)
			h.early = n
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			h.err = os.NewSyscallError("read", err) // which the kernel tells once
		}
		return true
	})
	return len(h.sent) > 0
}

// send sends the head until the returned function is called, after which nobody reads the
// connection. A nil head has nothing to send.
func (h *head) send(st tunnel.Stream) (stop func()) {
	if h == nil {
		return func() {}
	}
	if len(h.sent) > 0 {
		_, _ = st.Write(h.sent) // who waits for the answer sees the stream's failures too
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.run(st)
	}()
	return func() {
		_ = h.conn.SetReadDeadline(time.Unix(1, 0))
		<-done
		_ = h.conn.SetReadDeadline(time.Time{})
	}
}

// run does not look at the stream's failures either.
func (h *head) run(st tunnel.Stream) {
	buf := make([]byte, maxHead-h.early)
	for len(buf) > 0 {
		n, err := h.conn.Read(buf)
		if n > 0 {
			h.sent = append(h.sent, buf[:n]...)
			if _, err := st.Write(buf[:n]); err != nil {
				return
			}
			buf = buf[n:]
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded):
			return
		default:
			h.err = err
			return
		}
	}
}

// lost says that a connection that the client did not take can't go on to the target: its peer has ended
// it, or the local process may have got its beginning and acted on it, as no answer came.
func (h *head) lost(err error) bool {
	var refused *refusedError
	return h.err != nil || len(h.sent) > 0 && !errors.As(err, &refused)
}
