//go:build amd64 || arm64

package intercept

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/pipe"
)

// limbo is a loopback port at which a connection neither succeeds nor fails until we say
// so. Its listener's accept queue is full, so the kernel drops every SYN and the child's
// socket stays in SYN_SENT. To make it connected, a second socket of the same port
// (SO_REUSEPORT) connects to the child's port: TCP's simultaneous open (RFC 9293, section
// 3.5) completes at once.
type limbo struct {
	fd   int
	plug int // the connection that fills the queue
	addr netip.AddrPort
}

// plugTime is how long the connection of a limbo's plug may take.
const plugTime = 2 * time.Second

func openLimbo(loopback netip.Addr) (_ *limbo, err error) {
	domain := domainOf(loopback)
	l := &limbo{fd: -1, plug: -1}
	defer func() {
		if err != nil {
			l.close()
			err = fmt.Errorf("prepare a port for connections in progress: %w", err)
		}
	}()
	if l.fd, err = unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return nil, err
	}
	if err := unix.Bind(l.fd, sockaddr(netip.AddrPortFrom(loopback, 0), domain)); err != nil {
		return nil, err
	}
	if err := unix.Listen(l.fd, 0); err != nil {
		return nil, err
	}
	sa, err := unix.Getsockname(l.fd)
	if err != nil {
		return nil, err
	}
	l.addr = addrPort(sa)
	if l.plug, err = unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP); err != nil {
		return nil, err
	}
	if err := unix.Connect(l.plug, sa); err != nil && err != unix.EINPROGRESS {
		return nil, err
	}
	p := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(plugTime); ; {
		n, err := unix.Poll(p, int(time.Until(deadline).Milliseconds()))
		switch {
		case err == unix.EINTR && time.Now().Before(deadline):
		case n > 0:
			return l, nil
		default:
			return nil, errors.New("connections over loopback do not work")
		}
	}
}

func (l *limbo) close() {
	for _, fd := range []int{l.fd, l.plug} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// completeTime bounds a simultaneous open, which takes no time unless the child's socket
// has gone. completeLook is how often it is looked whether anybody still wants it.
const (
	completeTime = 10 * time.Second
	completeLook = 50 * time.Millisecond
)

// complete connects the child's socket, which waits in this limbo with the local address,
// and returns the other end. It fails when the socket does not wait there any more.
//
// The runtime's dialer would wait for the poller's word that the connection is there, which it is when
// connect(2) returns.
func (l *limbo) complete(ctx context.Context, child netip.AddrPort) (pipe.Conn, error) {
	domain := domainOf(l.addr.Addr())
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err == nil {
		err = l.open(ctx, fd, domain, child)
	}
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return nil, fmt.Errorf("complete the process's connection: %w", err)
	}
	return newNear(fd, l.addr, child)
}

// open connects fd.
func (l *limbo) open(ctx context.Context, fd, domain int, child netip.AddrPort) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, sockaddr(l.addr, domain)); err != nil {
		return err
	}
	err := unix.Connect(fd, sockaddr(child, domain))
	if err != unix.EINPROGRESS {
		return err
	}
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for deadline := time.Now().Add(completeTime); ; {
		n, err := unix.Poll(p, int(completeLook.Milliseconds()))
		switch {
		case n > 0:
			if errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || errno != 0 {
				return cmp.Or(err, error(unix.Errno(errno)))
			}
			return nil
		case err != nil && err != unix.EINTR:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(deadline):
			return unix.ETIMEDOUT
		}
	}
}

// maxLimbos bounds the ports for each family. One serves as many connections at a time as
// there are ephemeral ports, about 28,000; more are opened when it runs out.
const maxLimbos = 8

// limbos are the ports of both families, and for each an address that refuses.
type limbos struct {
	mu     sync.Mutex
	v4, v6 []*limbo
	next   int

	refuse4, refuse6 refuser
}

// open prepares one port of each family that the machine has; IPv4 is required.
func (l *limbos) open() error {
	l.refuse4.open(loopbackLike(netip.IPv4Unspecified()))
	l.refuse6.open(loopbackLike(netip.IPv6Unspecified()))
	first, err := openLimbo(loopbackLike(netip.IPv4Unspecified()))
	if err != nil {
		return err
	}
	l.v4 = append(l.v4, first)
	if first, err := openLimbo(netip.IPv6Loopback()); err == nil {
		l.v6 = append(l.v6, first)
	}
	return nil
}

func (l *limbos) close() {
	for _, p := range append(l.v4, l.v6...) {
		p.close()
	}
	l.refuse4.close()
	l.refuse6.close()
}

// enter connects the socket to a limbo, and returns that and the socket's address.
func (l *limbos) enter(s *socket, v4 bool) (*limbo, netip.AddrPort, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ports, loopback := &l.v4, loopbackLike(netip.IPv4Unspecified())
	if !v4 {
		ports, loopback = &l.v6, netip.IPv6Loopback()
	}
	if len(*ports) == 0 {
		return nil, netip.AddrPort{}, unix.ENETUNREACH
	}
	for tried := 0; ; tried++ {
		if tried >= len(*ports) {
			if len(*ports) == maxLimbos {
				return nil, netip.AddrPort{}, unix.EADDRNOTAVAIL
			}
			p, err := openLimbo(loopback)
			if err != nil {
				return nil, netip.AddrPort{}, unix.EADDRNOTAVAIL
			}
			*ports = append(*ports, p)
			l.next = len(*ports) - 1
		}
		p := (*ports)[l.next%len(*ports)]
		switch err := s.connectTo(p.addr); err {
		case unix.EINPROGRESS:
			child, err := s.localAddr()
			return p, child, err
		case unix.EADDRNOTAVAIL:
			l.next++
		case nil:
			return nil, netip.AddrPort{}, unix.EISCONN
		default:
			return nil, netip.AddrPort{}, err
		}
	}
}

// refuser holds one TCP and one UDP port of a loopback address at which the kernel refuses
// whatever comes: the first does not listen, the second is connected to itself.
type refuser struct {
	tcpFD, udpFD int
	tcp, udp     netip.AddrPort
}

// open leaves an address invalid when the machine does not have it.
func (r *refuser) open(loopback netip.Addr) {
	r.tcpFD, r.tcp = bound(loopback, unix.SOCK_STREAM)
	r.udpFD, r.udp = bound(loopback, unix.SOCK_DGRAM)
	if r.udpFD >= 0 {
		_ = unix.Connect(r.udpFD, sockaddr(r.udp, domainOf(loopback)))
	}
}

func bound(a netip.Addr, kind int) (int, netip.AddrPort) {
	domain := domainOf(a)
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, netip.AddrPort{}
	}
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(a, 0), domain)); err == nil {
		if sa, err := unix.Getsockname(fd); err == nil {
			return fd, addrPort(sa)
		}
	}
	_ = unix.Close(fd)
	return -1, netip.AddrPort{}
}

func (r *refuser) close() {
	for _, fd := range []int{r.tcpFD, r.udpFD} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// refuser of the family.
func (l *limbos) refuser(v4 bool) *refuser {
	if v4 {
		return &l.refuse4
	}
	return &l.refuse6
}
