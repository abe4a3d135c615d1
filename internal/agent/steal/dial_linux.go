package steal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/agent/sockmark"
)

const (
	// dialAttempts bounds how often a dial is tried again with another source port.
	dialAttempts = 4
	// bindAttempts bounds the search for a source port that is free toward one destination.
	bindAttempts = 64
	// Source ports are searched here when the kernel finds none: the default of
	// net.ipv4.ip_local_port_range.
	firstPort, lastPort = 32768, 60999
)

// errSelf is the refusal of a source port with which a connection would meet itself.
var errSelf = errors.New("source and destination are the same")

// dialer is the part of a backend that lets our own connections pass.
type dialer interface {
	// pass prepares fd, a new socket, so that its connection to dst reaches the
	// application. done is called once it is connected or has failed.
	pass(fd int, dst netip.AddrPort) (done func(), err error)
}

// DialTarget connects to the application itself, at dst, an address of the pod: usually the
// Dst of a taken [Conn]. The connection is never taken. Its source is an address of the pod,
// as for any process in it, and with sk_lookup always dst's own, so that an application that
// trusts loopback does not come to trust what arrived from outside.
func (s *Stealer) DialTarget(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error) {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if !dst.Addr().IsValid() || dst.Port() == 0 {
		return nil, fmt.Errorf("connecting to the target: %v is no address to connect to", dst)
	}
	var err error
	for range dialAttempts {
		var c *net.TCPConn
		if c, err = s.dialOnce(ctx, dst); err == nil {
			return c, nil
		}
		// Another socket has the same four addresses and ports: take another port.
		if !errors.Is(err, errSelf) && !errors.Is(err, unix.EADDRNOTAVAIL) {
			break
		}
	}
	return nil, fmt.Errorf("connecting to the target at %v: %w", dst, err)
}

func (s *Stealer) dialOnce(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error) {
	done := func() {}
	d := net.Dialer{ControlContext: func(_ context.Context, _, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, sockmark.Agent); err != nil {
				return fmt.Errorf("marking a socket: %w", err)
			}
			// The dialer may try again with a new socket.
			done()
			end, err := s.backend.pass(fd, dst)
			if err != nil {
				done = func() {}
				return err
			}
			done = end
			return nil
		})
	}}
	d.SetMultipathTCP(false)
	network := "tcp4"
	if dst.Addr().Is6() {
		network = "tcp6"
	}
	c, err := d.DialContext(ctx, network, dst.String())
	done()
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// bindTo binds fd to a free port of addr and returns it. When the kernel has none left
// because of connections in TIME_WAIT, it takes one that is in use toward other destinations.
func bindTo(fd int, addr netip.Addr) (netip.AddrPort, error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return netip.AddrPort{}, err
	}
	err := bind(fd, netip.AddrPortFrom(addr, 0))
	for i := 0; errors.Is(err, unix.EADDRINUSE) && i < bindAttempts; i++ {
		port := uint16(firstPort + rand.IntN(lastPort-firstPort+1))
		err = bind(fd, netip.AddrPortFrom(addr, port))
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("binding to %v: %w", addr, err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(addr, uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(addr, uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("binding to %v: unexpected socket address %T", addr, sa)
}

func bind(fd int, a netip.AddrPort) error {
	if a.Addr().Is4() {
		return unix.Bind(fd, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())})
	}
	sa := &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	if zone := a.Addr().Zone(); zone != "" {
		ifi, err := net.InterfaceByName(zone)
		if err != nil {
			return err
		}
		sa.ZoneId = uint32(ifi.Index)
	}
	return unix.Bind(fd, sa)
}
