package outgoing

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// socket is an unconnected UDP socket that tells which datagram an ICMP error is about
// (IP_RECVERR, ip(7); IPV6_RECVERR, ipv6(7)).
type socket struct {
	conn *net.UDPConn
	raw  syscall.RawConn
	v6   bool
	// mu is held while a call and the errors that it met are looked at together: the
	// kernel reports a pending ICMP error as the failure of the next call, whichever
	// destination that has, and the queue says whose it is.
	mu sync.Mutex
}

// report is an error that belongs to a destination.
type report struct {
	addr  netip.AddrPort
	errno wire.Errno
}

func openSocket(network string) (*socket, error) {
	s := &socket{v6: network == "udp6"}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var oerr error
		err := c.Control(func(fd uintptr) {
			if s.v6 {
				oerr = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
			} else {
				oerr = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, 1)
			}
		})
		return errors.Join(err, oerr)
	}}
	pc, err := lc.ListenPacket(context.Background(), network, ":0")
	if err != nil {
		return nil, fmt.Errorf("opening a UDP socket: %w", err)
	}
	s.conn = pc.(*net.UDPConn)
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		s.close()
		return nil, fmt.Errorf("opening a UDP socket: %w", err)
	}
	return s, nil
}

func (s *socket) close() { _ = s.conn.Close() }

// send sends one datagram, waiting while the socket's buffer is full. Beside the error of
// this datagram it returns the reports about others that came up.
func (s *socket) send(payload []byte, dst netip.AddrPort) (reports []report, err error) {
	sa := sockaddr(dst)
	werr := s.raw.Write(func(fd uintptr) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for again := true; ; {
			err = unix.Sendto(int(fd), payload, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, sa)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err == nil || errors.Is(err, unix.EAGAIN) {
				return err == nil
			}
			rs, pending := s.drain(int(fd))
			reports = append(reports, rs...)
			// A failure that nothing in the queue explains is this datagram's own if it
			// comes back: the kernel drops entries when the queue is full.
			if !pending && !again {
				return true
			}
			again = again && pending
		}
	})
	if werr != nil {
		err = werr
	}
	return reports, err
}

// datagramBuffers are for one datagram each; they are held only while one is at hand.
var datagramBuffers = sync.Pool{New: func() any { return new([wire.MaxMessage]byte) }}

// receive hands over what arrives until the socket is closed, which is no error.
func (s *socket) receive(deliver func([]byte, netip.AddrPort) error, reports func([]report) error) error {
	for failures := 0; ; {
		var (
			buf  *[wire.MaxMessage]byte
			n    int
			from netip.AddrPort
			rs   []report
			rerr error
		)
		err := s.raw.Read(func(fd uintptr) bool {
			buf = datagramBuffers.Get().(*[wire.MaxMessage]byte)
			n, from, rs, rerr = s.receiveOne(int(fd), buf[:])
			if errors.Is(rerr, unix.EAGAIN) && len(rs) == 0 {
				datagramBuffers.Put(buf)
				return false
			}
			return true
		})
		if err != nil {
			return nil //nolint:nilerr // closed, which is how it ends
		}
		err = reports(rs)
		switch {
		case err != nil:
		case rerr == nil:
			failures = 0
			err = deliver(buf[:n], from)
		case !errors.Is(rerr, unix.EAGAIN):
			// An error of some earlier datagram, of which the queue had no room to tell.
			if failures++; failures > maxFailures {
				err = fmt.Errorf("receiving: %w", rerr)
			}
		}
		datagramBuffers.Put(buf)
		if err != nil {
			return err
		}
	}
}

// maxFailures is how many calls in a row may fail before a socket is taken for broken.
const maxFailures = 1024

// receiveOne receives one datagram, or nothing (EAGAIN) with the reports that were queued.
func (s *socket) receiveOne(fd int, b []byte) (n int, from netip.AddrPort, reports []report, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		n, sa, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			return n, addrPort(sa), reports, nil
		case errors.Is(err, unix.EINTR):
			continue
		}
		// Without an error of its own too: send may have taken the socket's error and
		// left more in the queue.
		rs, pending := s.drain(fd)
		if reports = append(reports, rs...); !pending {
			return 0, netip.AddrPort{}, reports, err
		}
	}
}

// sizeofExtendedErr is the size of struct sock_extended_err in linux/errqueue.h.
const sizeofExtendedErr = 16

// drain empties the error queue and says whether there was anything in it that explains a
// call's failure. Errors of the kernel itself (a datagram that is too long) are in the
// queue as well, but those were returned by the call.
func (s *socket) drain(fd int) (reports []report, pending bool) {
	var oob [512]byte
	for {
		_, oobn, _, sa, err := unix.Recvmsg(fd, nil, oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return reports, pending
		}
		errno, ok := extendedErr(oob[:oobn])
		if dst := addrPort(sa); ok && dst.Port() != 0 {
			reports = append(reports, report{addr: dst, errno: errno})
		}
		pending = pending || ok
	}
}

// extendedErr returns the error number in the control messages of an error queue's entry,
// if it came by ICMP.
func extendedErr(oob []byte) (wire.Errno, bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, false
	}
	for _, m := range msgs {
		v4 := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR
		v6 := m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !v4 && !v6 || len(m.Data) < sizeofExtendedErr {
			continue
		}
		errno, origin := binary.NativeEndian.Uint32(m.Data), m.Data[4]
		if origin == unix.SO_EE_ORIGIN_ICMP || origin == unix.SO_EE_ORIGIN_ICMP6 {
			return wire.Errno(errno), true
		}
	}
	return 0, false
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
