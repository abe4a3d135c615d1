package steal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/agent/sockmark"
)

// Flush ends the application's open connections on a port, as ss -K does, so that their
// clients connect again and, when the port is taken, come to [Stealer.Accept]. It returns
// how many it ended. Connections that were taken and those made by [Stealer.DialTarget] are
// spared. It needs CAP_NET_ADMIN and a kernel with CONFIG_INET_DIAG_DESTROY.
//
// A client sees a reset. What it had sent and the application had not answered is lost, as
// it is when a pod is replaced. Spare, unless it is nil, names clients whose connections stay.
func (s *Stealer) Flush(port uint16, spare func(client netip.Addr) bool) (int, error) {
	n, err := flush(port, spare)
	if err != nil {
		return n, fmt.Errorf("ending the connections of port %d: %w", port, err)
	}
	return n, nil
}

func flush(port uint16, spare func(netip.Addr) bool) (int, error) {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	targets, err := dumpSockets(c, func(id []byte) { binary.BigEndian.PutUint16(id[diagSrcPort:], port) },
		1<<unix.BPF_TCP_ESTABLISHED|1<<unix.BPF_TCP_SYN_RECV)
	if err != nil || len(targets) == 0 {
		return 0, err
	}
	// Our ends of connections to the application are looked up after the application's ends:
	// each of those seen above has its other end here, unless that has been closed.
	ours := map[pair]struct{}{}
	dialed, err := dumpSockets(c, func(id []byte) { binary.BigEndian.PutUint16(id[diagDstPort:], port) }, 0xffffffff)
	if err != nil {
		return 0, err
	}
	for _, d := range dialed {
		if d.mark == sockmark.Agent {
			ours[pair{d.pair.dst, d.pair.src}] = struct{}{}
		}
	}
	n := 0
	for _, t := range targets {
		if _, own := ours[t.pair]; own || t.mark == sockmark.Agent || spare != nil && spare(t.pair.dst.Addr()) {
			continue
		}
		switch err := destroy(c, t); {
		case errors.Is(err, unix.ENOENT): // It ended meanwhile.
		case errors.Is(err, unix.EOPNOTSUPP):
			return n, fmt.Errorf("the kernel lacks CONFIG_INET_DIAG_DESTROY: %w", err)
		case errors.Is(err, unix.EPERM):
			return n, fmt.Errorf("needs CAP_NET_ADMIN: %w", err)
		case err != nil:
			return n, err
		default:
			n++
		}
	}
	return n, nil
}

// The layout of struct inet_diag_req_v2, inet_diag_msg and inet_diag_sockid
// (linux/inet_diag.h). Addresses and ports are in network order, the rest in host order.
const (
	diagReqLen    = 56
	diagReqStates = 4
	diagReqID     = 8
	diagMsgLen    = 72
	diagMsgID     = 4
	diagIDLen     = 48
	diagSrcPort   = 0
	diagDstPort   = 2
	diagSrc       = 4
	diagDst       = 20
	diagAttrMark  = 15 // INET_DIAG_MARK
	diagDestroy   = 21 // SOCK_DESTROY
)

// pair is the two ends of a connection as one of its sockets has them: its own first.
type pair struct{ src, dst netip.AddrPort }

// socket is a TCP socket as the kernel lists it.
type socket struct {
	family byte
	id     [diagIDLen]byte // with the cookie, so that no later socket can be meant
	pair   pair
	mark   uint32
}

// dumpSockets lists the TCP sockets of both families that match the id and are in one of
// the states, a bit set. The kernel compares the id's ports only, and those only if set.
func dumpSockets(c *netlink.Conn, match func(id []byte), states uint32) ([]socket, error) {
	var out []socket
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		req := make([]byte, diagReqLen)
		req[0], req[1] = family, unix.IPPROTO_TCP
		binary.NativeEndian.PutUint32(req[diagReqStates:], states)
		match(req[diagReqID : diagReqID+diagIDLen])
		msgs, err := c.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump}, Data: req,
		})
		if errors.Is(err, unix.ENOENT) {
			continue // The kernel has no such family.
		}
		if err != nil {
			return nil, fmt.Errorf("listing TCP sockets: %w", err)
		}
		for _, m := range msgs {
			s, err := parseSocket(m.Data)
			if err != nil {
				return nil, fmt.Errorf("listing TCP sockets: %w", err)
			}
			out = append(out, s)
		}
	}
	return out, nil
}

func parseSocket(b []byte) (socket, error) {
	if len(b) < diagMsgLen {
		return socket{}, fmt.Errorf("message of %d bytes", len(b))
	}
	s := socket{family: b[0]}
	copy(s.id[:], b[diagMsgID:])
	s.pair.src = s.addr(diagSrc, diagSrcPort)
	s.pair.dst = s.addr(diagDst, diagDstPort)
	attrs, err := netlink.NewAttributeDecoder(b[diagMsgLen:])
	if err != nil {
		return socket{}, err
	}
	for attrs.Next() {
		if attrs.Type() == diagAttrMark {
			s.mark = attrs.Uint32()
		}
	}
	return s, attrs.Err()
}

func (s *socket) addr(off, port int) netip.AddrPort {
	a := netip.AddrFrom16([16]byte(s.id[off : off+16])).Unmap()
	if s.family == unix.AF_INET {
		a = netip.AddrFrom4([4]byte(s.id[off : off+4]))
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(s.id[port:]))
}

// destroy ends a connection: the peer gets a reset, the owner ECONNABORTED.
func destroy(c *netlink.Conn, s socket) error {
	req := make([]byte, diagReqLen)
	req[0], req[1] = s.family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(req[diagReqStates:], 0xffffffff)
	copy(req[diagReqID:], s.id[:])
	_, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: diagDestroy, Flags: netlink.Request | netlink.Acknowledge}, Data: req,
	})
	return err
}
