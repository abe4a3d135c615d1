//go:build amd64 || arm64

package intercept

import (
	"context"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/pipe"
)

// dial is the work on an attempt. It owns its socket.
type dial struct {
	*call
	socket  *socket
	attempt *attempt
	ctx     context.Context
	resolve bool
	near    netip.AddrPort // on the laptop, to be dialled instead

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
	switch {
	case d.resolve:
	case d.near.IsValid():
		d.conn, d.err = d.dialPlain(d.ctx, d.near)
	default:
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
	if outOfResources(err) {
		pipe.Reset(d.conn)
		d.failLimbo(unix.ENOBUFS)
		return
	}
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
		if why == ready && d.ctx.Err() != nil {
			why = gone // another thread has disconnected the socket, and that is the answer
		}
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
	case err != nil:
		d.fail(sysErrno(err)) // a caller whose socket another thread has disconnected still waits
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
func (d *dial) join() (near pipe.Conn, err error) {
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
func (d *dial) carry(near pipe.Conn) {
	// While we hold a duplicate, the child's close sends no FIN.
	d.socket.close()
	if d.resolve {
		d.serveDNS(d.ctx, near, d.attempt.dst)
	} else {
		pipe.Join(d.ctx, near, d.conn)
	}
	d.outgoing.remove(d.socket.cookie, d.attempt)
}
