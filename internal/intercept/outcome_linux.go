//go:build amd64 || arm64

package intercept

import (
	"context"
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// connectAgain serves a connect on a socket that we already connect, have connected or
// failed to connect. It takes over the socket.
func (c *call) connectAgain(s *socket, a *attempt) {
	switch {
	case c.outgoing.isFailing(a):
		if !c.spawn(func() { c.awaitOther(s, a) }) {
			s.close()
		}
	case c.outgoing.waits(a) && s.state() == tcpClose:
		// The kernel's own timeout came first.
		c.outgoing.abandon(s.cookie)
		c.tellKernels(s, a)
	case a.isSettled():
		c.tellOutcome(s, a)
	case s.nonblocking() && c.outgoing.waits(a):
		c.tellKernels(s, a)
	case s.nonblocking():
		s.close()
		c.fail(unix.EALREADY)
	default:
		if !c.spawn(func() { c.awaitOther(s, a) }) {
			s.close()
		}
	}
}

// awaitOther waits for the outcome of an attempt that another call has begun.
func (c *call) awaitOther(s *socket, a *attempt) {
	switch why, errno := c.await(c.ctx, a.settled, s.timeout(unix.SO_SNDTIMEO)); why {
	case ready:
		c.tellOutcome(s, a)
	case interrupted:
		s.close()
		c.fail(errno)
	case expired:
		s.close()
		c.fail(unix.EALREADY)
	default:
		s.close()
	}
}

// tellOutcome answers a connect after the attempt has settled.
func (c *call) tellOutcome(s *socket, a *attempt) {
	if a.failure == 0 {
		c.tellKernels(s, a)
		return
	}
	errno := c.outgoing.endFailure(s.cookie, a)
	s.disconnect()
	s.takeError()
	s.close()
	c.fail(errno)
}

// tellKernels gives the kernel's own answer to a connect on a socket that is no longer
// unconnected: the address does not matter then, and in doubt it is one that refuses.
func (c *call) tellKernels(s *socket, a *attempt) {
	err := s.withoutBlocking(func() error {
		return s.connectTo(c.limbos.refuser(a.dst.Addr().Is4()).tcp)
	})
	s.close()
	c.fail(sysErrno(err))
}

// socketError serves getsockopt(SO_ERROR).
func (c *call) socketError() {
	if !c.outgoing.hasFailures() {
		c.pass()
		return
	}
	s, ok := c.socket(false)
	if !ok {
		return
	}
	a, ok := c.outgoing.get(s.cookie)
	switch {
	case !ok:
		s.close()
		c.pass()
	case !c.outgoing.isFailing(a):
		c.tellError(s)
	case !c.spawn(func() { c.awaitError(s, a) }):
		s.close()
	}
}

// awaitError answers as soon as the failure is complete, which takes no time.
func (c *call) awaitError(s *socket, a *attempt) {
	<-a.settled
	c.tellError(s)
}

// tellError answers getsockopt(SO_ERROR). It takes over the socket.
func (c *call) tellError(s *socket) {
	defer s.close()
	room, err := readUint32(c.tid(), c.n.Args[4])
	if err != nil || int32(room) < 0 {
		c.pass() // EFAULT or EINVAL
		return
	}
	e, ok := c.outgoing.takeFailure(s.cookie)
	if !ok {
		c.pass()
		return
	}
	s.takeError()
	value := binary.NativeEndian.AppendUint32(nil, uint32(e))
	value = value[:min(int(room), len(value))]
	if err := writeMemory(c.tid(), c.n.Args[3], value); err != nil {
		c.fail(unix.EFAULT)
		return
	}
	if err := writeUint32(c.tid(), c.n.Args[4], uint32(len(value))); err != nil {
		c.fail(unix.EFAULT)
		return
	}
	c.ret(0)
}

// errnoOf is what the child is told of a failure at the target.
func errnoOf(err error) unix.Errno {
	var e unix.Errno
	switch {
	case errors.As(err, &e) && e != 0:
		return e
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return unix.ETIMEDOUT
	}
	return unix.EHOSTUNREACH
}
