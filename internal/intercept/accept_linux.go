//go:build amd64 || arm64

package intercept

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// accept serves accept and accept4 with an address, when clients are translated. We accept
// on our duplicate and give the child the connection together with the client's address.
func (c *call) accept() {
	s, ok := c.socket(false)
	if !ok {
		return
	}
	if !s.isTCP() || s.foreign || s.state() != tcpListen {
		s.close()
		c.pass()
		return
	}
	a := &accepting{call: c, on: s}
	if c.n.Nr == unix.SYS_ACCEPT4 {
		a.flags = c.int(3)
	}
	switch room, err := readUint32(c.tid(), c.n.Args[2]); {
	case err != nil:
		a.end(unix.EFAULT)
	case int32(room) < 0 || a.flags&^(unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK) != 0:
		a.end(unix.EINVAL)
	case !s.nonblocking():
		if !c.spawn(a.wait) {
			s.close()
		}
	case !a.try():
		a.end(unix.EAGAIN)
	}
}

// accepting is one accept. It owns the listener's duplicate.
type accepting struct {
	*call
	on    *socket
	flags int
}

func (a *accepting) end(e unix.Errno) {
	a.on.close()
	a.fail(e)
}

// wait blocks like the call.
func (a *accepting) wait() {
	defer a.watchDeath()()
	timeout := a.on.timeout(unix.SO_RCVTIMEO)
	for !a.try() {
		if a.on.state() != tcpListen {
			a.end(unix.EINVAL) // shutdown
			return
		}
		ch, stop := a.poller.readable(a.on.fd)
		why, errno := a.await(a.ctx, ch, timeout)
		stop()
		switch why {
		case ready:
		case interrupted:
			a.end(errno)
			return
		case expired:
			a.end(unix.EAGAIN)
			return
		case gone:
			a.on.close()
			return
		}
	}
}

// watchDeath lets await end with the caller, whose listener is only then free for the next process: while we
// hold a duplicate, the kernel keeps its port.
func (c *call) watchDeath() (stop func()) {
	fd, err := unix.PidfdOpen(c.tid(), pidfdThread)
	if err == unix.EINVAL {
		var leader int
		if leader, err = processOf(c.tid()); err == nil {
			fd, err = unix.PidfdOpen(leader, 0)
		}
	}
	if err != nil {
		return func() {} // await looks from time to time
	}
	died, unwatch := c.poller.readable(fd)
	c.died = died
	return func() {
		unwatch()
		_ = unix.Close(fd)
	}
}

// try answers the call if there is a connection. It reports false, with the call still
// open, when there is none.
func (a *accepting) try() bool {
	fd, kept := a.incoming.kept(a.on.cookie)
	if !kept {
		var err error
		switch fd, err = a.incoming.take(a.on); err {
		case nil:
		case unix.EAGAIN, unix.EINTR:
			return false
		default:
			a.end(sysErrno(err))
			return true
		}
	}
	defer a.on.close()
	a.deliver(fd)
	return true
}

// deliver gives the child the connection, or keeps it for the next caller.
func (a *accepting) deliver(fd int) {
	if !a.valid() {
		a.incoming.keep(a.on.cookie, fd)
		return
	}
	name, err := a.peerName(fd)
	if err == nil {
		err = putAddress(a.tid(), a.n.Args[1], a.n.Args[2], name)
	}
	if err == nil {
		err = unix.SetNonblock(fd, a.flags&unix.SOCK_NONBLOCK != 0)
	}
	if err != nil {
		_ = unix.Close(fd) // as the kernel does
		a.fail(sysErrno(err))
		return
	}
	if err := a.retFD(fd, a.flags&unix.SOCK_CLOEXEC != 0); err != nil {
		a.incoming.keep(a.on.cookie, fd)
		if err != unix.ENOENT {
			a.fail(sysErrno(err))
		}
		return
	}
	_ = unix.Close(fd)
}

// peerName is the client's address as the child is to see it.
func (a *accepting) peerName(fd int) ([]byte, error) {
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return nil, unix.ECONNABORTED
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return nil, err
	}
	shown := addrPort(peer)
	if client, ok := a.incoming.client(shown, addrPort(local)); ok {
		shown = client
	}
	name, ok := appendSockaddr(nil, shown, a.on.domain)
	if !ok {
		name, _ = appendSockaddr(nil, addrPort(peer), a.on.domain)
	}
	return name, nil
}

// getpeername serves getpeername(2) of sockets that are connected through us.
func (c *call) getpeername() {
	if c.outgoing.size() == 0 && c.udp.size() == 0 && !c.incoming.isUsed() {
		c.pass()
		return
	}
	s, ok := c.socket(false)
	if !ok {
		return
	}
	defer s.close()
	shown, ok := c.shownPeer(s)
	if !ok {
		c.pass()
		return
	}
	name, ok := appendSockaddr(nil, shown, s.domain)
	if !ok {
		c.pass()
		return
	}
	if err := putAddress(c.tid(), c.n.Args[1], c.n.Args[2], name); err != nil {
		c.refuse(err)
		return
	}
	c.ret(0)
}

// shownPeer is the peer that the child is to see, if it is another than the kernel's.
func (c *call) shownPeer(s *socket) (netip.AddrPort, bool) {
	peer, err := s.peerAddr()
	if err != nil {
		return netip.AddrPort{}, false
	}
	if s.isUDP() {
		return c.udp.behind(s.cookie, peer)
	}
	if dst, ok := c.outgoing.connected(s.cookie); ok {
		return dst, true
	}
	local, err := s.localAddr()
	if err != nil {
		return netip.AddrPort{}, false
	}
	return c.incoming.client(peer, local)
}
