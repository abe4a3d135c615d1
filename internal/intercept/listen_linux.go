//go:build amd64 || arm64

package intercept

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// listen serves listen(2) of TCP sockets, and notes the names of Unix ones. We make the call on our duplicate, so that the
// network learns of a listener that exists, with the port that the kernel chose, before the
// child goes on.
func (c *call) listen() {
	if fd, err := c.tasks.descriptor(c.tid(), c.int(0)); err == nil {
		c.noteUnixListener(fd)
		_ = unix.Close(fd)
	}
	s, ok := c.socket(false)
	if !ok {
		return
	}
	if !s.isTCP() || s.foreign {
		s.close()
		c.pass()
		return
	}
	defer s.close()
	again := s.state() == tcpListen // only the backlog changes
	if err := unix.Listen(s.fd, c.int(1)); err != nil {
		c.fail(sysErrno(err))
		return
	}
	addr, err := s.localAddr()
	if again || err != nil {
		c.ret(0)
		return
	}
	only6, _ := unix.GetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	c.incoming.listens(addr, only6 != 0)
	asked, _ := c.bindings.requested(addr.Port())
	addr = netip.AddrPortFrom(addr.Addr(), asked)
	if c.outside() || c.isOwnPort(addr) {
		c.bindings.keep(asked)
		c.ret(0)
		return
	}
	if !c.spawn(func() { c.announce(addr) }) {
		c.ret(0)
	}
}

// announce tells the network, and lets the child go on when that is done or has taken too
// long.
func (c *call) announce(addr netip.AddrPort) {
	t := time.AfterFunc(c.times.announce, func() { c.ret(0) })
	c.network.Listening(addr)
	if t.Stop() {
		c.ret(0)
	}
}
