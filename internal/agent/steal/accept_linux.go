package steal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/agent/sockmark"
)

// acceptPause is how long accepting rests after an error such as "too many open files".
const acceptPause = 20 * time.Millisecond

// Conn is a connection that was taken from the application. Its RemoteAddr is the client's
// real address.
type Conn struct {
	*net.TCPConn
	// Dst is the address and port that the client connected to.
	Dst netip.AddrPort
}

// Accept waits for the next connection that was taken. After [Stealer.Close] it returns
// [net.ErrClosed].
func (s *Stealer) Accept() (*Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *Stealer) acceptLoop(l *net.TCPListener) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			select {
			case <-s.done:
				return
			case <-time.After(acceptPause):
				s.log.Warn("accepting a taken connection failed, trying again", "err", err)
				continue
			}
		}
		conn := &Conn{TCPConn: c, Dst: addrPort(c.LocalAddr())}
		if s.ours(l, conn.Dst) {
			reset(c)
			continue
		}
		select {
		case s.conns <- conn:
		case <-s.done:
			reset(c)
			return
		}
	}
}

// reset closes a connection so that its peer sees a reset, not an orderly end.
func reset(c *net.TCPConn) {
	// Failing only makes the end an orderly one.
	_ = c.SetLinger(0)
	_ = c.Close()
}

// listen opens one listener on the loopback address of each family that the namespace has.
// Taken connections are accepted there; nothing outside can reach the addresses themselves.
func listen(transparent bool) ([]*net.TCPListener, error) {
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error { return listenerOptions(fd, network, transparent) })
	}}
	// A BPF socket map holds plain TCP sockets only, and Go listens with MPTCP by default.
	lc.SetMultipathTCP(false)
	var out []*net.TCPListener
	for _, at := range []struct{ network, addr string }{{"tcp4", "127.0.0.1:0"}, {"tcp6", "[::1]:0"}} {
		l, err := lc.Listen(context.Background(), at.network, at.addr)
		if err != nil {
			if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) {
				continue // The namespace does not have this family.
			}
			closeAll(out)
			return nil, fmt.Errorf("listening for taken connections: %w", err)
		}
		out = append(out, l.(*net.TCPListener))
	}
	if len(out) == 0 {
		return nil, errors.New("the network namespace has neither IPv4 nor IPv6")
	}
	return out, nil
}

func listenerOptions(fd int, network string, transparent bool) error {
	// Accepted connections inherit the mark, also while they wait in the accept queue.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, sockmark.Agent); err != nil {
		return fmt.Errorf("marking a socket (needs CAP_NET_ADMIN): %w", err)
	}
	level, opt, name := unix.SOL_IP, unix.IP_FREEBIND, "IP_FREEBIND"
	switch {
	case network == "tcp6" && transparent:
		level, opt, name = unix.SOL_IPV6, unix.IPV6_TRANSPARENT, "IPV6_TRANSPARENT"
	case network == "tcp6":
		level, opt, name = unix.SOL_IPV6, unix.IPV6_FREEBIND, "IPV6_FREEBIND"
	case transparent:
		opt, name = unix.IP_TRANSPARENT, "IP_TRANSPARENT"
	}
	if err := unix.SetsockoptInt(fd, level, opt, 1); err != nil {
		return fmt.Errorf("setting %s (needs CAP_NET_ADMIN): %w", name, err)
	}
	return nil
}

// control runs f with the descriptor of c and returns its error.
func control(c syscall.RawConn, f func(fd int) error) error {
	var inner error
	if err := c.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

func closeAll(ls []*net.TCPListener) {
	for _, l := range ls {
		_ = l.Close()
	}
}

// addrPort is the address in the form that compares: IPv4 is IPv4.
func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
