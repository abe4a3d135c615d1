//go:build amd64 || arm64

package intercept

import (
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is our duplicate of an Internet socket of the child.
type socket struct {
	fd       int
	domain   int // AF_INET or AF_INET6
	kind     int // SOCK_STREAM, ...
	protocol int
	// cookie names the socket for as long as the machine runs.
	cookie uint64
	// foreign sockets live in another network namespace than ours.
	foreign bool
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// socket duplicates the descriptor in argument 0. It reports false when it has answered the
// call: other sockets than those of the Internet are left alone. A call whose socket can't
// be had is refused when it is strict, which calls are that choose a destination, and when we
// lack the means; else it is left alone.
func (c *call) socket(strict bool) (*socket, bool) {
	fd, err := c.tasks.descriptor(c.tid(), c.int(0))
	if err != nil {
		c.unreadable(strict, err)
		return nil, false
	}
	s := &socket{fd: fd}
	ok, err := s.inspect(c.netns)
	if err == nil && ok {
		return s, true
	}
	s.close()
	switch {
	case err != nil:
		c.unreadable(strict, err)
	case strict && (s.domain == unix.AF_SMC || s.domain == unix.AF_RDS):
		// They take Internet addresses too, and would leave from here.
		c.fail(unix.EAFNOSUPPORT)
	default:
		c.pass()
	}
	return nil, false
}

// unreadable answers a call that could not be looked at. Without the means to look, the kernel's answer might be
// about something else than the child thinks: SO_ERROR of a connection that failed at the target, for one.
func (c *call) unreadable(strict bool, err error) {
	if strict || outOfResources(err) {
		c.refuse(err)
		return
	}
	c.pass()
}

// inspect fills in what the socket is, and reports whether it is one of the Internet.
func (s *socket) inspect(netns uint64) (bool, error) {
	var err error
	if s.domain, err = unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
		return false, err
	}
	if s.domain != unix.AF_INET && s.domain != unix.AF_INET6 {
		return false, nil
	}
	if s.kind, err = unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return false, err
	}
	if s.protocol, err = unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil {
		return false, err
	}
	if s.cookie, err = unix.GetsockoptUint64(s.fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		return false, err
	}
	ns, err := unix.GetsockoptUint64(s.fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	s.foreign = ns != netns
	return true, err
}

func (s *socket) isTCP() bool {
	return s.kind == unix.SOCK_STREAM && (s.protocol == unix.IPPROTO_TCP || s.protocol == unix.IPPROTO_MPTCP)
}

func (s *socket) isMPTCP() bool { return s.protocol == unix.IPPROTO_MPTCP }

func (s *socket) isUDP() bool {
	return s.kind == unix.SOCK_DGRAM && s.protocol == unix.IPPROTO_UDP
}

// isRaw is true for sockets below the transports, which are never carried.
func (s *socket) isRaw() bool {
	return s.kind == unix.SOCK_RAW || s.kind == unix.SOCK_PACKET ||
		s.kind == unix.SOCK_DGRAM && (s.protocol == unix.IPPROTO_ICMP || s.protocol == unix.IPPROTO_ICMPV6)
}

// route decides about a destination. A socket that must not reach it, because we can't
// carry what it sends, gets Refuse.
func (c *call) route(s *socket, dst netip.AddrPort) (Verdict, unix.Errno) {
	if c.outside() {
		return Local, 0
	}
	p := UDP
	if s.kind == unix.SOCK_STREAM {
		p = TCP
	}
	v, err := c.network.Route(p, dst)
	switch {
	case v == Local || v == Remote && dst.Addr().IsLoopback() && c.isOwn(s, dst):
		return Local, 0
	case v == Refuse:
		return Refuse, errnoOf(err)
	case v != Remote && v != Resolve:
		c.log.Error("no decision about a destination", "destination", dst)
		return Refuse, unix.ENETUNREACH
	case s.foreign:
		c.log.Warn("a socket of another network namespace can't reach the target", "destination", dst)
		return Refuse, unix.ENETUNREACH
	case !s.isTCP() && !s.isUDP():
		c.log.Warn("only TCP and UDP reach the target", "destination", dst, "protocol", s.protocol)
		return Refuse, unix.EPROTONOSUPPORT
	}
	return v, 0
}

// isOwn says whether a loopback address is the child's own, or of a tool of the laptop.
func (c *call) isOwn(s *socket, dst netip.AddrPort) bool {
	switch {
	case s.isTCP():
		return c.bindings.isKept(dst.Port()) || c.isOwnPort(dst)
	case s.isUDP() && !s.foreign:
		c.udp.noteOwn(s)
		return c.udp.isOwn(dst)
	}
	return false
}

func (s *socket) nonblocking() bool {
	fl, err := unix.FcntlInt(uintptr(s.fd), unix.F_GETFL, 0)
	return err == nil && fl&unix.O_NONBLOCK != 0
}

// withoutBlocking runs f while the description is non-blocking. The child sees the flag too:
// only for calls during which a thread of it waits on this socket.
func (s *socket) withoutBlocking(f func() error) error {
	fl, err := unix.FcntlInt(uintptr(s.fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	if fl&unix.O_NONBLOCK != 0 {
		return f()
	}
	if _, err := unix.FcntlInt(uintptr(s.fd), unix.F_SETFL, fl|unix.O_NONBLOCK); err != nil {
		return err
	}
	err = f()
	_, _ = unix.FcntlInt(uintptr(s.fd), unix.F_SETFL, fl)
	return err
}

// timeout is SO_RCVTIMEO or SO_SNDTIMEO; 0 is none.
func (s *socket) timeout(option int) time.Duration {
	tv, err := unix.GetsockoptTimeval(s.fd, unix.SOL_SOCKET, option)
	if err != nil {
		return 0
	}
	return time.Duration(tv.Nano())
}

// state is the TCP state of the socket.
func (s *socket) state() uint8 {
	// tcpi_state is the first byte of struct tcp_info, and the kernel gives as much of it
	// as there is room for.
	info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return tcpClose
	}
	return info.State
}

// TCP states of include/net/tcp_states.h.
const (
	tcpClose  = 7
	tcpListen = 10
)

func (s *socket) localAddr() (netip.AddrPort, error) {
	sa, err := unix.Getsockname(s.fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return addrPort(sa), nil
}

func (s *socket) peerAddr() (netip.AddrPort, error) {
	sa, err := unix.Getpeername(s.fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return addrPort(sa), nil
}

// connectTo is connect(2) with an address in the socket's form.
func (s *socket) connectTo(dst netip.AddrPort) error {
	for {
		err := unix.Connect(s.fd, sockaddr(dst, s.domain))
		if err != unix.EINTR {
			return err
		}
	}
}

// disconnect makes the socket unconnected again: connect(2) with AF_UNSPEC. It does not
// block.
func (s *socket) disconnect() {
	sa := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, _ = unix.RawSyscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
}

// takeError clears the pending error.
func (s *socket) takeError() {
	_, _ = unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
}

// sysErrno is the errno of a failed system call, 0 for success.
func sysErrno(err error) unix.Errno {
	if err == nil {
		return 0
	}
	if e, ok := err.(unix.Errno); ok {
		return e
	}
	return unix.EIO
}
