package names

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

const (
	maxUDPMessage = 64 << 10
	typeA         = 1
)

// Forward sends one query from the laptop to the name server that the process asked, and
// returns its answer, over the transport that the process used. Asking again after a loss is
// the process's business, as without a session. It blocks for at most 15 seconds.
func Forward(ctx context.Context, stream bool, server netip.AddrPort, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	transport := "udp"
	if stream {
		transport = "tcp"
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, transport, server.String())
	if err != nil {
		return nil, fmt.Errorf("asking the laptop's name server: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	ask := askDatagram
	if stream {
		ask = askStream
	}
	m, err := ask(c, query)
	if err != nil {
		return nil, fmt.Errorf("asking the laptop's name server: %w", err)
	}
	return m, nil
}

// askDatagram returns the first answer that belongs to the query; others may be late or forged.
func askDatagram(c net.Conn, query []byte) ([]byte, error) {
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	b := make([]byte, maxUDPMessage)
	for {
		n, err := c.Read(b)
		if err != nil {
			return nil, err
		}
		if n >= headerSize && len(query) >= 2 && [2]byte(b[:2]) == [2]byte(query[:2]) {
			return append([]byte(nil), b[:n]...), nil
		}
	}
}

// askStream frames the message as RFC 1035, section 4.2.2 says.
func askStream(c net.Conn, query []byte) ([]byte, error) {
	b := make([]byte, 0, 2+len(query))
	b = binary.BigEndian.AppendUint16(b, uint16(len(query)))
	if _, err := c.Write(append(b, query...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	m := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(c, m)
	return m, err
}

// Name returns the name that a query is about, in the usual form without the final dot, and
// whether there is one.
func Name(query []byte) (string, bool) {
	if _, err := parseQuery(query); err != nil {
		return "", false
	}
	var name []byte
	for off := headerSize; query[off] != 0; off += 1 + int(query[off]) {
		if query[off] >= 0x40 {
			return "", false // a pointer has nothing to point to in a question
		}
		if len(name) > 0 {
			name = append(name, '.')
		}
		name = append(name, query[off+1:off+1+int(query[off])]...)
	}
	return string(name), true
}

// Addresses returns those in the answers of a response; none of a malformed one.
func Addresses(m []byte) []netip.Addr {
	if len(m) < headerSize || binary.BigEndian.Uint16(m[4:]) != 1 {
		return nil
	}
	off, err := skipName(m, headerSize)
	if err != nil {
		return nil
	}
	off += 4
	var out []netip.Addr
	for range binary.BigEndian.Uint16(m[6:]) {
		if off > len(m) {
			return nil
		}
		end, err := skipName(m, off)
		if err != nil || end+10 > len(m) {
			return nil
		}
		off = end + 10 + int(binary.BigEndian.Uint16(m[end+8:]))
		if off > len(m) {
			return nil
		}
		data := m[end+10 : off]
		switch t := binary.BigEndian.Uint16(m[end:]); {
		case t == typeA && len(data) == 4, t == typeAAAA && len(data) == 16:
			a, _ := netip.AddrFromSlice(data)
			out = append(out, a)
		}
	}
	return out
}
