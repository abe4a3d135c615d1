package autoport

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Parts of sock_diag(7) that x/sys/unix lacks (linux/inet_diag.h, linux/sock_diag.h).
const (
	sockDiagByFamily = 20
	reqBytecode      = 1  // attribute: a filter that the kernel runs
	bytecodeAuto     = 6  // operation: the port was chosen by the kernel
	requestSize      = 56 // struct inet_diag_req_v2
	portOffset       = 4  // of the source port in struct inet_diag_msg
	sourceOffset     = 8  // of the source address
	listen           = 1 << 10
)

// Chosen reports whether the kernel chose the port of a TCP listener of the calling
// thread's network namespace: it was bound to port 0, or not bound at all. Where several
// listeners share the address, one of them is enough. It takes some ten microseconds.
func Chosen(listener netip.AddrPort) (bool, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return false, fmt.Errorf("asking for listeners: %w", os.NewSyscallError("socket", err))
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, request(listener.Addr()), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, fmt.Errorf("asking for listeners: %w", os.NewSyscallError("sendto", err))
	}
	b := make([]byte, 32<<10)
	for found := false; ; {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return false, fmt.Errorf("asking for listeners: %w", os.NewSyscallError("recvfrom", err))
		}
		hit, done, err := scan(b[:n], listener)
		found = found || hit
		if err != nil || done {
			return found, err
		}
	}
}

// request asks for the listeners of the address's family whose port the kernel chose.
func request(a netip.Addr) []byte {
	ne := binary.NativeEndian
	size := unix.SizeofNlMsghdr + requestSize + unix.SizeofNlAttr + 4
	b := make([]byte, 0, size)
	b = ne.AppendUint32(b, uint32(size))
	b = ne.AppendUint16(b, sockDiagByFamily)
	b = ne.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b = append(b, make([]byte, 8)...) // sequence, port
	family := byte(unix.AF_INET6)
	if a.Is4() {
		family = unix.AF_INET
	}
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = ne.AppendUint32(b, listen)
	b = append(b, make([]byte, requestSize-8)...) // any socket
	b = ne.AppendUint16(b, unix.SizeofNlAttr+4)
	b = ne.AppendUint16(b, reqBytecode)
	// One operation: when it holds go on behind it, which accepts, else further, which refuses.
	b = append(b, bytecodeAuto, 4)
	return ne.AppendUint16(b, 8)
}

// scan looks for the listener in a part of the answer. Done says that it was the last.
func scan(b []byte, listener netip.AddrPort) (found, done bool, err error) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return found, true, fmt.Errorf("asking for listeners: %w", unix.EBADMSG)
		}
		body := b[unix.SizeofNlMsghdr:size]
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.NLMSG_DONE:
			return found, true, nil
		case unix.NLMSG_ERROR:
			errno := unix.EBADMSG
			if len(body) >= 4 {
				errno = unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
			}
			return found, true, fmt.Errorf("asking for listeners: %w", errno)
		case sockDiagByFamily:
			found = found || is(body, listener)
		}
		b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return found, false, nil
}

// is compares a struct inet_diag_msg with a listener.
func is(m []byte, listener netip.AddrPort) bool {
	if len(m) < sourceOffset+16 || binary.BigEndian.Uint16(m[portOffset:]) != listener.Port() {
		return false
	}
	n := 16
	if m[0] == unix.AF_INET {
		n = 4
	}
	a, _ := netip.AddrFromSlice(m[sourceOffset : sourceOffset+n])
	return a.Unmap() == listener.Addr().Unmap().WithZone("")
}
