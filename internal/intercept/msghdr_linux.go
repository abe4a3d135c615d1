//go:build amd64 || arm64

package intercept

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The layout of struct msghdr and struct mmsghdr on systems of 64 bits.
const (
	msghdrSize     = 56
	msghdrNameLen  = 8
	msghdrControl  = 40
	msghdrFlags    = 48
	mmsghdrSize    = 64
	mmsghdrLen     = 56
	iovecSize      = 16
	maxVector      = 1024 // UIO_MAXIOV
	maxMessages    = 1024
	maxControl     = 1 << 16
	cmsgHeaderSize = 16
)

// msghdr is a struct msghdr of the child, with its place.
type msghdr struct {
	at         uint64
	name       uint64
	nameLen    uint32
	iov        uint64
	iovLen     uint64
	control    uint64
	controlLen uint64
}

// parseMsghdr reads the structure from its bytes, which were at the address.
func parseMsghdr(b []byte, at uint64) (msghdr, bool) {
	if len(b) < msghdrSize {
		return msghdr{}, false
	}
	return msghdr{
		at:         at,
		name:       binary.NativeEndian.Uint64(b),
		nameLen:    binary.NativeEndian.Uint32(b[msghdrNameLen:]),
		iov:        binary.NativeEndian.Uint64(b[16:]),
		iovLen:     binary.NativeEndian.Uint64(b[24:]),
		control:    binary.NativeEndian.Uint64(b[32:]),
		controlLen: binary.NativeEndian.Uint64(b[msghdrControl:]),
	}, true
}

func readMsghdr(tid int, at uint64) (msghdr, error) {
	var b [msghdrSize]byte
	if err := readMemory(tid, at, b[:]); err != nil {
		return msghdr{}, err
	}
	h, _ := parseMsghdr(b[:], at)
	return h, nil
}

// readMmsghdrs reads a vector of struct mmsghdr. Like the kernel it looks at 1024 at most.
func readMmsghdrs(tid int, at uint64, count uint32) ([]msghdr, error) {
	b := make([]byte, min(count, maxMessages)*mmsghdrSize)
	if err := readMemory(tid, at, b); err != nil {
		return nil, err
	}
	out := make([]msghdr, 0, len(b)/mmsghdrSize)
	for off := 0; off < len(b); off += mmsghdrSize {
		h, _ := parseMsghdr(b[off:], at+uint64(off))
		out = append(out, h)
	}
	return out, nil
}

// buffers reads the message's vector, and the room in all of it, at most 64 KiB: no
// datagram is larger, and some callers offer far more.
func (h *msghdr) buffers(tid int) ([]unix.RemoteIovec, int, error) {
	if h.iovLen > maxVector {
		return nil, 0, unix.EMSGSIZE
	}
	b := make([]byte, h.iovLen*iovecSize)
	if err := readMemory(tid, h.iov, b); err != nil {
		return nil, 0, err
	}
	return parseVector(b)
}

func parseVector(b []byte) ([]unix.RemoteIovec, int, error) {
	var (
		out  []unix.RemoteIovec
		room int
	)
	for ; len(b) >= iovecSize; b = b[iovecSize:] {
		n := int(binary.NativeEndian.Uint64(b[8:]))
		if n < 0 {
			return nil, 0, unix.EINVAL
		}
		out = append(out, unix.RemoteIovec{Base: uintptr(binary.NativeEndian.Uint64(b)), Len: n})
		room = min(room+min(n, maxDatagram), maxDatagram)
	}
	return out, room, nil
}

// length is the sum of the vector, cut above what a datagram can be.
func length(v []unix.RemoteIovec) int {
	n := 0
	for _, r := range v {
		n = min(n+min(r.Len, maxDatagram+1), maxDatagram+1)
	}
	return n
}

// withoutSource removes from control data what chooses the source address or the interface
// (IP_PKTINFO, IPV6_PKTINFO): both would be wrong on the way to a relay. Data that is not
// well formed is left for the kernel to refuse.
func withoutSource(control []byte) []byte {
	var out []byte
	for rest := control; len(rest) >= cmsgHeaderSize; {
		size := binary.NativeEndian.Uint64(rest)
		if size < cmsgHeaderSize || size > uint64(len(rest)) {
			return control
		}
		level := int32(binary.NativeEndian.Uint32(rest[8:]))
		kind := int32(binary.NativeEndian.Uint32(rest[12:]))
		next := min((int(size)+7)&^7, len(rest))
		if !(level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO || level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO) {
			out = append(out, rest[:next]...)
		}
		rest = rest[next:]
	}
	return out
}
