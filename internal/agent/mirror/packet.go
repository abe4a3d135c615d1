package mirror

import (
	"encoding/binary"
	"net/netip"
)

// TCP flags (RFC 9293, section 3.1).
const (
	flagFIN = 1 << 0
	flagSYN = 1 << 1
	flagRST = 1 << 2
	flagACK = 1 << 4
)

// segment is one TCP segment, or several that the kernel has joined. Payload is only valid
// until the next packet is read.
type segment struct {
	src, dst netip.AddrPort
	seq, ack uint32
	flags    uint8
	payload  []byte
	length   int // of the payload on the wire; payload is shorter if the packet was cut
}

const (
	protoTCP    = 6
	protoHopOpt = 0
)

// decode reads an IP packet with a TCP segment. It refuses fragments.
func decode(b []byte) (segment, bool) {
	if len(b) == 0 {
		return segment{}, false
	}
	switch b[0] >> 4 {
	case 4:
		return decode4(b)
	case 6:
		return decode6(b)
	}
	return segment{}, false
}

func decode4(b []byte) (segment, bool) {
	const minHeader, fragmentBits = 20, 0x3fff // more fragments, and the offset
	if len(b) < minHeader || b[9] != protoTCP || binary.BigEndian.Uint16(b[6:])&fragmentBits != 0 {
		return segment{}, false
	}
	header, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if total == 0 { // Longer than the field can say (BIG TCP, Linux 6.3).
		total = len(b)
	}
	if header < minHeader || header > len(b) || total < header {
		return segment{}, false
	}
	src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	return decodeTCP(src, dst, b[header:], total-header)
}

func decode6(b []byte) (segment, bool) {
	const header, hopOpt = 40, 8
	if len(b) < header {
		return segment{}, false
	}
	next, rest, total := b[6], b[header:], int(binary.BigEndian.Uint16(b[4:]))
	if total == 0 { // A jumbogram (RFC 2675), or BIG TCP.
		total = len(rest)
	}
	if next == protoHopOpt && len(rest) >= hopOpt && rest[1] == 0 && total >= hopOpt {
		next, rest, total = rest[0], rest[hopOpt:], total-hopOpt
	}
	if next != protoTCP {
		return segment{}, false
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	return decodeTCP(src, dst, rest, total)
}

// decodeTCP reads a segment of total bytes, of which b has the first; b may go on with the
// padding of a short frame.
func decodeTCP(src, dst netip.Addr, b []byte, total int) (segment, bool) {
	const minHeader = 20
	if len(b) < minHeader {
		return segment{}, false
	}
	header := int(b[12]>>4) * 4
	if header < minHeader || header > len(b) || total < header {
		return segment{}, false
	}
	return segment{
		src:     netip.AddrPortFrom(src, binary.BigEndian.Uint16(b)),
		dst:     netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:])),
		seq:     binary.BigEndian.Uint32(b[4:]),
		ack:     binary.BigEndian.Uint32(b[8:]),
		flags:   b[13],
		payload: b[header:min(len(b), total)],
		length:  total - header,
	}, true
}
