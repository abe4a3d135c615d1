package integration

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/agent/testnet"
)

// The sizes of datagrams: empty, around the Ethernet's fragments, and the largest of IPv4 (RFC 768: 65535 with both headers).
var sizes = []int{0, 1, 1472, 1473, 9000, 65507}

// largeDatagrams is a local program: each size there and back, over a connected socket and over another.
func largeDatagrams(to string) error {
	dst, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		return err
	}
	connected, err := net.DialUDP("udp", nil, dst)
	if err != nil {
		return err
	}
	defer connected.Close()
	free, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	defer free.Close()
	for name, c := range map[string]struct {
		conn *net.UDPConn
		send func([]byte) error
	}{
		"connected":   {connected, func(b []byte) error { _, err := connected.Write(b); return err }},
		"unconnected": {free, func(b []byte) error { _, err := free.WriteTo(b, dst); return err }},
	} {
		for _, size := range sizes {
			if err := echoes(c.conn, c.send, size, dst); err != nil {
				return fmt.Errorf("%s, %d bytes: %w", name, size, err)
			}
		}
		if err := c.send(make([]byte, 65536)); !errors.Is(err, unix.EMSGSIZE) {
			return fmt.Errorf("%s: more than fits: %w", name, err)
		}
	}
	fmt.Println("same")
	return nil
}

func echoes(c *net.UDPConn, send func([]byte) error, size int, dst *net.UDPAddr) error {
	out, in := make([]byte, size), make([]byte, 1<<16)
	for i := range out {
		out[i] = byte(i*7 + size)
	}
	n, from, err := repeated(c, func() error { return send(out) }, in, func(n int) bool { return n == size })
	switch {
	case err != nil:
		return err
	case !bytes.Equal(in[:n], out):
		return fmt.Errorf("%d other bytes came back", n)
	case !net.UDPAddrFromAddrPort(from).IP.Equal(dst.IP) || int(from.Port()) != dst.Port:
		return fmt.Errorf("they came from %v", from)
	}
	return nil
}

// repeated sends until an answer of the wanted size comes: datagrams may be lost, and answers be late.
func repeated(c *net.UDPConn, send func() error, in []byte, wanted func(n int) bool) (n int, from netip.AddrPort, err error) {
	for end := time.Now().Add(patience); ; {
		if err := send(); err != nil {
			return 0, from, err
		}
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		for {
			if n, from, err = c.ReadFromUDPAddrPort(in); err != nil || wanted(n) {
				break
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().After(end) {
			return n, from, err
		}
	}
}

// controlData is a local program that sends and receives with control data: the source's address, which is the laptop's, the
// size of segments, as QUIC does; and asks for the destination's address, the type of service and the time of arrival.
func controlData(to string) error {
	dst, err := netip.ParseAddrPort(to)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	seconds := unix.NsecToTimeval(int64(patience))
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVTOS, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &seconds),
	); err != nil {
		return err
	}
	peer := &unix.SockaddrInet4{Port: int(dst.Port()), Addr: dst.Addr().As4()}
	source := unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte{198, 51, 100, 7}})
	segments := cmsg(unix.SOL_UDP, unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, 1200))
	out := bytes.Repeat([]byte("0123456789"), 260) // 1200 + 1200 + 200
	for _, how := range []string{"unconnected", "connected"} {
		to := unix.Sockaddr(peer)
		if how == "connected" {
			if err := unix.Connect(fd, peer); err != nil {
				return err
			}
			to, source = nil, nil
		}
		if n, err := unix.SendmsgN(fd, out, append(source, segments...), to, 0); err != nil || n != len(out) {
			return fmt.Errorf("%s: sent %d: %w", how, n, err)
		}
		var in []byte
		var lengths []int
		for len(in) < len(out) {
			n, err := received(fd, peer)
			if err != nil {
				return fmt.Errorf("%s: %w", how, err)
			}
			lengths, in = append(lengths, len(n)), append(in, n...)
		}
		slices.Sort(lengths) // on their way, datagrams may overtake each other
		fmt.Println(how, lengths, bytes.Equal(in, out))
	}
	return nil
}

// received is one datagram, which must have all control data, and the true sender.
func received(fd int, peer *unix.SockaddrInet4) ([]byte, error) {
	b, oob := make([]byte, 4096), make([]byte, 512)
	n, oobn, flags, from, err := unix.Recvmsg(fd, b, oob, 0)
	if err != nil {
		return nil, err
	}
	if a, ok := from.(*unix.SockaddrInet4); !ok || a.Port != peer.Port || a.Addr != peer.Addr || flags != 0 {
		return nil, fmt.Errorf("from %v, flags %#x", from, flags)
	}
	all, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	seen := make(map[[2]int32]bool)
	for _, m := range all {
		seen[[2]int32{m.Header.Level, m.Header.Type}] = true
	}
	for _, want := range [][2]int32{{unix.IPPROTO_IP, unix.IP_PKTINFO}, {unix.IPPROTO_IP, unix.IP_TOS}, {unix.SOL_SOCKET, unix.SCM_TIMESTAMPNS}} {
		if !seen[want] {
			return nil, fmt.Errorf("no control data %v among %v", want, seen)
		}
	}
	return b[:n], nil
}

// cmsg is one piece of control data: cmsg(3).
func cmsg(level, kind int32, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(len(data))))
	binary.NativeEndian.PutUint32(b[8:], uint32(level))
	binary.NativeEndian.PutUint32(b[12:], uint32(kind))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

// toEverybody is a local program that sends to a group and to a network.
func toEverybody(port string) error {
	c, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		return err
	}
	defer c.Close()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	if err := ipv4.NewPacketConn(c).SetMulticastInterface(lo); err != nil {
		return err
	}
	for _, to := range []string{group.String(), "127.255.255.255"} {
		dst, err := net.ResolveUDPAddr("udp4", net.JoinHostPort(to, port))
		if err != nil {
			return err
		}
		if _, err := c.WriteTo([]byte("to "+to), dst); err != nil {
			return fmt.Errorf("to %s: %w", to, err)
		}
	}
	return nil
}

// group is a multicast group of one's own (RFC 2365).
var group = netip.MustParseAddr("239.255.77.1")

// TestDatagrams is a test of its own: the sessions of TestSession take long enough.
func TestDatagrams(t *testing.T) {
	if _, inside := testnet.Isolated(t); !inside {
		return
	}
	w := newWorld(t)
	t.Run("large", func(t *testing.T) { large(t, w) })
	t.Run("with control data", func(t *testing.T) { control(t, w) })
	t.Run("to everybody", func(t *testing.T) { everybody(t, w) })
	t.Run("signed names", func(t *testing.T) { signatures(t, w) })
}

func large(t *testing.T, w *world) {
	w.prints(t, nil, "same", "large-datagrams", echo.String())
	w.prints(t, nil, "same", "large-datagrams", echo6.String())
}

func control(t *testing.T, w *world) {
	w.prints(t, nil, "unconnected [200 1200 1200] true\nconnected [200 1200 1200] true", "control-data", echo.String())
}

// everybody: what the process sends to a group, and to a network of the laptop, arrives on the laptop.
func everybody(t *testing.T, w *world) {
	c, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := ipv4.NewPacketConn(c).JoinGroup(lo, net.UDPAddrFromAddrPort(netip.AddrPortFrom(group, 0))); err != nil {
		t.Fatal(err)
	}
	w.prints(t, nil, "", "to-everybody", strconv.Itoa(c.LocalAddr().(*net.UDPAddr).Port))
	_ = c.SetReadDeadline(time.Now().Add(patience))
	want := []string{"to 127.255.255.255", "to " + group.String()}
	var got []string
	for range want {
		b := make([]byte, 100)
		n, _, err := c.ReadFrom(b)
		if err != nil {
			t.Fatalf("only %q arrived on the laptop: %v", got, err)
		}
		got = append(got, strings.TrimSpace(string(b[:n])))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
