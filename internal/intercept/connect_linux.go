//go:build amd64 || arm64

package intercept

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/pipe"
)

// maxConnections bounds the connections of all the tree. A child that closes its socket early
// leaves an attempt behind until the far side has answered.
const maxConnections = 1 << 16

// connect serves connect(2).
func (c *call) connect() {
	size := c.int(2)
	if size < 2 || size > sockaddrMaxSize {
		c.pass() // EINVAL, whatever the memory says
		return
	}
	var buf [sockaddrMaxSize]byte
	name := buf[:size]
	if err := readMemory(c.tid(), c.n.Args[1], name); err != nil {
		c.refuse(err)
		return
	}
	switch familyOf(name) {
	case unix.AF_INET, unix.AF_INET6:
	case unix.AF_UNSPEC:
		c.disconnect()
		return
	case unix.AF_UNIX:
		c.connectUnix(name)
		return
	default:
		c.pass()
		return
	}
	dst, ok := parseSockaddr(name)
	if !ok {
		c.pass() // too short: the size is in a register, so the kernel refuses it too
		return
	}
	s, ok := c.socket(true)
	if !ok {
		return
	}
	if s.isRaw() {
		s.close()
		c.pass()
		return
	}
	if s.domain == unix.AF_INET && !dst.Addr().Is4() || s.isTCP() && s.domain == unix.AF_INET6 && familyOf(name) != unix.AF_INET6 {
		s.close()
		c.fail(unix.EAFNOSUPPORT)
		return
	}
	switch v, errno := c.route(s, dst); {
	case v == Local:
		c.connectLocal(s)
	case v == Refuse:
		s.close()
		c.fail(errno)
	case !c.valid():
		s.close()
	case s.isUDP():
		c.connectUDP(s, dst, v)
	default:
		c.connectTCP(s, dst, v)
	}
}

// connectLocal lets a socket go where the laptop's kernel takes it.
func (c *call) connectLocal(s *socket) {
	if s.isUDP() && c.udp.disconnected(s.cookie) {
		// The kernel would keep loopback as the source.
		s.disconnect()
	}
	s.close()
	c.pass()
}

// disconnect serves connect(2) with AF_UNSPEC.
func (c *call) disconnect() {
	s, ok := c.socket(false)
	if !ok {
		return
	}
	if s.isUDP() {
		c.udp.disconnected(s.cookie)
	} else {
		c.outgoing.abandon(s.cookie)
	}
	s.close()
	c.pass()
}

// connectTCP takes over the socket.
func (c *call) connectTCP(s *socket, dst netip.AddrPort, v Verdict) {
	if a, ok := c.outgoing.get(s.cookie); ok {
		c.connectAgain(s, a)
		return
	}
	if s.state() != tcpClose {
		// Connected, connecting or listening without us. The kernel does not look at the
		// address then.
		s.close()
		c.pass()
		return
	}
	if c.outgoing.size() >= maxConnections {
		s.close()
		c.fail(unix.EAGAIN)
		return
	}
	// With a fast-open socket the connection would begin with the first write.
	_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 0)

	ctx, cancel := context.WithCancel(c.ctx)
	a := &attempt{dst: dst, cancel: cancel, settled: make(chan struct{})}
	d := &dial{call: c, socket: s, attempt: a, ctx: ctx, resolve: v == Resolve}
	c.outgoing.add(s.cookie, a)
	started := false
	if !s.isMPTCP() && s.nonblocking() {
		if err := d.enterLimbo(); err != nil {
			d.forget()
			c.fail(sysErrno(err))
			return
		}
		c.fail(unix.EINPROGRESS)
		started = c.spawn(d.finish)
	} else {
		started = c.spawn(d.hold)
	}
	if !started {
		d.forget()
	}
}

// dial is the work on an attempt. It owns its socket.
type dial struct {
	*call
	socket  *socket
	attempt *attempt
	ctx     context.Context
	resolve bool

	limbo *limbo
	child netip.AddrPort // the socket's address in the limbo

	// The far side's answer.
	conn Conn
	err  error
}

// enterLimbo makes the socket a connection in progress.
func (d *dial) enterLimbo() error {
	return d.socket.withoutBlocking(func() error {
		var err error
		d.limbo, d.child, err = d.limbos.enter(d.socket, d.attempt.dst.Addr().Is4())
		if err == nil {
			d.outgoing.entered(d.attempt)
		}
		return err
	})
}

// forget gives everything up without an outcome.
func (d *dial) forget() {
	d.attempt.cancel()
	d.outgoing.remove(d.socket.cookie, d.attempt)
	d.attempt.end()
	d.socket.close()
	if d.conn != nil {
		pipe.Reset(d.conn)
	}
}

// dialTarget blocks for the far side's answer. A name server is in this process.
func (d *dial) dialTarget() {
	if !d.resolve {
		d.conn, d.err = d.network.DialTCP(d.ctx, d.attempt.dst)
	}
}

// finish brings a connection in limbo to its end, and carries it if that is a good one.
func (d *dial) finish() {
	defer d.attempt.cancel()
	d.dialTarget()
	d.settleLimbo()
}

func (d *dial) settleLimbo() {
	if d.err != nil {
		d.failLimbo(errnoOf(d.err))
		return
	}
	// The child may learn of it, and ask for the peer, before complete returns.
	d.outgoing.answers(d.attempt)
	near, err := d.limbo.complete(d.ctx, d.child)
	if err != nil {
		// Closed, disconnected or timed out meanwhile.
		d.log.Debug("a connection was made too late", "destination", d.attempt.dst, "error", err)
		d.forget()
		return
	}
	d.outgoing.settle(d.attempt, 0)
	d.carry(near)
}

// failLimbo makes the waiting socket fail, in one step, so that whoever polls wakes to a
// socket that is through. The true errno is for SO_ERROR and a second connect; a program
// that asks neither and just reads or writes sees ECONNRESET.
func (d *dial) failLimbo(e unix.Errno) {
	defer d.socket.close()
	if d.socket.state() == tcpClose || !d.outgoing.fails(d.socket.cookie, d.attempt) {
		// The kernel gave up first, with its own errno, or the child did.
		d.outgoing.remove(d.socket.cookie, d.attempt)
		d.attempt.end()
		return
	}
	d.socket.disconnect()
	d.outgoing.settle(d.attempt, e)
}

// hold keeps a blocking connect waiting until the far side has answered.
func (d *dial) hold() {
	defer d.attempt.cancel()
	answered := make(chan struct{})
	if !d.spawn(func() { defer close(answered); d.dialTarget() }) {
		d.forget()
		return
	}
	timeout := d.socket.timeout(unix.SO_SNDTIMEO)
	nonblocking := d.socket.nonblocking() // MPTCP
	for {
		why, errno := d.await(d.ctx, answered, timeout)
		switch {
		case why == ready:
			d.place(nonblocking)
			return
		case d.isMPTCP() && why != gone:
			continue // no simultaneous open: the child waits
		case why == expired:
			errno = unix.EINPROGRESS
		}
		d.goOn(errno, answered, why == gone && (d.isMPTCP() || !d.alive()))
		return
	}
}

func (d *dial) isMPTCP() bool { return d.socket.isMPTCP() }

// alive is false when the caller has ended. One that still lives but does not wait any more
// was interrupted, on kernels before 5.19, and is about to call again.
func (d *dial) alive() bool {
	s, err := readStatus(d.tid())
	return d.ctx.Err() == nil && err == nil && !s.zombie
}

// goOn answers the caller while the connection goes on without it, as it would in the
// kernel.
func (d *dial) goOn(errno unix.Errno, answered <-chan struct{}, over bool) {
	err := error(unix.ECONNABORTED)
	if !over {
		err = d.enterLimbo()
	}
	switch {
	case err != nil && errno != 0:
		d.fail(sysErrno(err))
	case errno != 0:
		d.fail(errno)
	}
	if err != nil {
		d.attempt.cancel()
		<-answered
		d.forget()
		return
	}
	<-answered
	d.settleLimbo()
}

// place hands the far side's answer to the caller that waits.
func (d *dial) place(nonblocking bool) {
	if d.err != nil {
		// No trace remains in the kernel's socket, as after a blocking failure of its own.
		d.outgoing.remove(d.socket.cookie, d.attempt)
		d.attempt.failure = errnoOf(d.err)
		d.attempt.end()
		d.socket.close()
		d.fail(d.attempt.failure)
		return
	}
	if !d.valid() {
		d.forget()
		return
	}
	near, err := d.join()
	if err != nil {
		d.forget()
		d.fail(sysErrno(err))
		return
	}
	d.outgoing.answers(d.attempt)
	d.outgoing.settle(d.attempt, 0)
	if nonblocking {
		d.fail(unix.EINPROGRESS)
	} else {
		d.ret(0)
	}
	d.carry(near)
}

// join connects the unconnected socket to us.
func (d *dial) join() (near *net.TCPConn, err error) {
	if d.isMPTCP() {
		return d.rendezvous()
	}
	if err := d.enterLimbo(); err != nil {
		return nil, err
	}
	near, err = d.limbo.complete(d.ctx, d.child)
	if err != nil {
		d.log.Warn("connect the process to its connection", "destination", d.attempt.dst, "error", err)
		d.socket.disconnect()
		return nil, unix.ECONNABORTED
	}
	// The kernel still remembers a connect in progress: let it see the end of it, or the
	// next one returns 0 instead of EISCONN.
	_ = d.socket.connectTo(d.limbo.addr)
	return near, nil
}

// rendezvousTime bounds the connection to a listener on loopback.
const rendezvousTime = 10 * time.Second

// rendezvous connects a socket that knows no simultaneous open to a listener of its own.
func (d *dial) rendezvous() (*net.TCPConn, error) {
	loopback := loopbackLike(d.attempt.dst.Addr())
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		return nil, unix.EADDRNOTAVAIL
	}
	defer l.Close()
	_ = l.SetDeadline(time.Now().Add(rendezvousTime))
	err = d.socket.withoutBlocking(func() error {
		return d.socket.connectTo(l.Addr().(*net.TCPAddr).AddrPort())
	})
	if err != nil && err != unix.EINPROGRESS {
		return nil, err
	}
	child, err := d.socket.localAddr()
	if err != nil {
		return nil, err
	}
	for {
		near, err := l.AcceptTCP()
		if err != nil {
			return nil, unix.ETIMEDOUT
		}
		from := near.RemoteAddr().(*net.TCPAddr).AddrPort()
		if from.Port() == child.Port() && from.Addr().Unmap() == child.Addr() {
			return near, nil
		}
		_ = near.Close()
	}
}

// carry copies between the child and the far side until the connection has ended.
func (d *dial) carry(near *net.TCPConn) {
	// While we hold a duplicate, the child's close sends no FIN.
	d.socket.close()
	if d.resolve {
		d.serveDNS(d.ctx, near, d.attempt.dst)
	} else {
		pipe.Join(d.ctx, near, d.conn)
	}
	d.outgoing.remove(d.socket.cookie, d.attempt)
}

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
