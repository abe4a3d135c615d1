//go:build amd64 || arm64

package intercept

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The sizes of socket addresses that the kernel accepts and gives.
const (
	sockaddrInSize     = unix.SizeofSockaddrInet4
	sockaddrIn6Size    = unix.SizeofSockaddrInet6
	sockaddrIn6MinSize = 24  // SIN6_LEN_RFC2133: without the scope
	sockaddrMaxSize    = 128 // struct sockaddr_storage
)

// familyOf is the address family, or AF_UNSPEC when b is too short to have one.
func familyOf(b []byte) uint16 {
	if len(b) < 2 {
		return unix.AF_UNSPEC
	}
	return binary.NativeEndian.Uint16(b)
}

// parseSockaddr reads an Internet address. IPv4-mapped addresses come out as IPv4, scopes
// are dropped. It reports false for other families and for what the kernel would refuse as
// too short.
func parseSockaddr(b []byte) (netip.AddrPort, bool) {
	switch familyOf(b) {
	case unix.AF_INET:
		return parseInet4(b)
	case unix.AF_INET6:
		if len(b) < sockaddrIn6MinSize {
			return netip.AddrPort{}, false
		}
		a := netip.AddrFrom16([16]byte(b[8:24])).Unmap()
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[2:])), true
	}
	return netip.AddrPort{}, false
}

// parseInet4 reads a struct sockaddr_in whatever its family says.
func parseInet4(b []byte) (netip.AddrPort, bool) {
	if len(b) < sockaddrInSize {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:])), true
}

// appendSockaddr is the address as a socket of the domain shows it: IPv4 is mapped in
// AF_INET6. It reports false for an IPv6 address in AF_INET.
func appendSockaddr(b []byte, ap netip.AddrPort, domain int) ([]byte, bool) {
	addr := ap.Addr().Unmap()
	if domain == unix.AF_INET6 {
		b = binary.NativeEndian.AppendUint16(b, unix.AF_INET6)
		b = binary.BigEndian.AppendUint16(b, ap.Port())
		b = append(b, 0, 0, 0, 0)
		a := addr.As16()
		b = append(b, a[:]...)
		return append(b, 0, 0, 0, 0), true
	}
	if !addr.Is4() {
		return nil, false
	}
	b = binary.NativeEndian.AppendUint16(b, unix.AF_INET)
	b = binary.BigEndian.AppendUint16(b, ap.Port())
	a := addr.As4()
	b = append(b, a[:]...)
	return append(b, make([]byte, 8)...), true
}

// sockaddr is the address in the form that a socket of the domain takes. An IPv6 address in
// AF_INET is the unspecified one.
func sockaddr(ap netip.AddrPort, domain int) unix.Sockaddr {
	if domain == unix.AF_INET6 {
		return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
	}
	var v4 [4]byte
	if a := ap.Addr().Unmap(); a.Is4() {
		v4 = a.As4()
	}
	return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: v4}
}

// addrPort is the Internet address in sa, unmapped; the zero value for other families.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// loopbackLike is the loopback address of a's family.
func loopbackLike(a netip.Addr) netip.Addr {
	if a.Unmap().Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// domainOf is the socket domain of an unmapped address.
func domainOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
