//go:build amd64 || arm64

package intercept

import (
	"context"
	"net/netip"

	"golang.org/x/sys/unix"
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
	if f := familyOf(name); s.domain == unix.AF_INET && f != unix.AF_INET || s.isTCP() && s.domain == unix.AF_INET6 && f != unix.AF_INET6 {
		s.close()
		c.fail(unix.EAFNOSUPPORT)
		return
	}
	switch v, errno := c.route(s, dst); {
	case v == Local:
		c.connectLocal(s, dst)
	case v == Refuse:
		s.close()
		c.fail(errno)
	case !c.valid():
		s.close()
	case s.isUDP():
		c.connectUDP(s, dst, v)
	default:
		c.connectTCP(s, dst, v, netip.AddrPort{})
	}
}

// connectLocal lets a socket go where the laptop's kernel takes it; to a port that the child has elsewhere,
// we take it.
func (c *call) connectLocal(s *socket, dst netip.AddrPort) {
	if a := dst.Addr(); s.isTCP() && !s.foreign && (a.IsLoopback() || a.IsUnspecified()) {
		if port, moved := c.bindings.port(dst.Port()); moved && !c.outside() {
			if a.IsUnspecified() {
				a = loopbackLike(a)
			}
			c.connectTCP(s, dst, Remote, netip.AddrPortFrom(a, port))
			return
		}
	}
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

// connectTCP takes over the socket. A valid near address is dialled on the laptop instead of the destination.
func (c *call) connectTCP(s *socket, dst netip.AddrPort, v Verdict, near netip.AddrPort) {
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
	d := &dial{call: c, socket: s, attempt: a, ctx: ctx, resolve: v == Resolve, near: near}
	c.outgoing.add(s.cookie, a)
	var started bool
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
