package outgoing

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/agent/testnet"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start makes a tunnel whose server side serves dial and datagrams streams. It returns the
// client side, and a function that waits until the streams are served.
func start(t *testing.T) tunnel.Session {
	t.Helper()
	cid, err := tunnel.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	sid, err := tunnel.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		s, err := tunnel.Server(t.Context(), c, sid, cid.Fingerprint())
		if err != nil {
			t.Error(err)
			return
		}
		serve(t, s)
	}()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := tunnel.Client(t.Context(), c, cid, sid.Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		<-served
	})
	return s
}

func serve(t *testing.T, s tunnel.Session) {
	ctx, cancel := context.WithCancel(context.Background())
	var streams sync.WaitGroup
	defer streams.Wait()
	defer cancel()
	for {
		st, err := s.Accept()
		if err != nil {
			return
		}
		streams.Go(func() {
			k, err := wire.ReadKind(st)
			if err != nil {
				_ = st.Reset()
				return
			}
			switch k {
			case wire.KindDial:
				var d wire.Dial
				if d, err = wire.ReadDial(st); err == nil {
					err = ServeDial(ctx, st, d)
				}
			case wire.KindDatagrams:
				err = ServeDatagrams(ctx, slog.New(slog.DiscardHandler), st, nil)
			}
			t.Logf("stream of kind %s ended: %v", k, err)
		})
	}
}

func dial(t *testing.T, s tunnel.Session, dst netip.AddrPort) (tunnel.Stream, wire.DialReply) {
	t.Helper()
	st, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := wire.WriteDial(st, wire.Dial{Addr: dst}); err != nil {
		t.Fatal(err)
	}
	r, err := wire.ReadDialReply(st)
	if err != nil {
		t.Fatal(err)
	}
	return st, r
}

func listen(t *testing.T, addr string) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRNOTAVAIL) && addr == "[::1]:0" {
		t.Skipf("this machine has no IPv6: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.(*net.TCPListener)
}

func addrOf(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }

func TestDial(t *testing.T) {
	s := start(t)
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		l := listen(t, host+":0")
		st, r := dial(t, s, addrOf(l.Addr()))
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if r.Errno != 0 || r.Local != addrOf(c.RemoteAddr()) {
			t.Errorf("reply %+v, the server sees %v", r, c.RemoteAddr())
		}
		// Each direction ends on its own.
		if _, err := io.WriteString(st, "question"); err != nil {
			t.Fatal(err)
		}
		if err := st.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); string(b) != "question" || err != nil {
			t.Errorf("the server read %q, %v", b, err)
		}
		if _, err := io.WriteString(c, "answer"); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if b, err := io.ReadAll(st); string(b) != "answer" || err != nil {
			t.Errorf("the client read %q, %v", b, err)
		}
		_ = st.Close()
	}
}

// TestDialEarlyData sends before the reply: what was sent must not be lost.
func TestDialEarlyData(t *testing.T) {
	s := start(t)
	l := listen(t, "127.0.0.1:0")
	st, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	sent := bytes.Repeat([]byte("0123456789"), 1000)
	_ = wire.WriteDial(st, wire.Dial{Addr: addrOf(l.Addr())})
	if _, err := st.Write(sent); err != nil {
		t.Fatal(err)
	}
	_ = st.CloseWrite()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); !bytes.Equal(b, sent) || err != nil {
		t.Errorf("the server read %d bytes, %v", len(b), err)
	}
}

func TestDialReset(t *testing.T) {
	s := start(t)
	l := listen(t, "127.0.0.1:0")
	accept := func() (tunnel.Stream, *net.TCPConn) {
		st, _ := dial(t, s, addrOf(l.Addr()))
		c, err := l.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		return st, c
	}
	st, c := accept()
	_ = c.SetLinger(0)
	_ = c.Close()
	var reset *tunnel.ResetError
	if _, err := io.ReadAll(st); !errors.As(err, &reset) {
		t.Errorf("after a reset by the server the client read %v", err)
	}
	st, c = accept()
	_ = st.Reset()
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset by the client the server read %v", err)
	}
	_ = c.Close()
}

func TestDialErrno(t *testing.T) {
	s := start(t)
	l := listen(t, "127.0.0.1:0")
	refusing := addrOf(l.Addr())
	_ = l.Close()
	for dst, want := range map[netip.AddrPort]syscall.Errno{
		refusing:                                syscall.ECONNREFUSED,
		netip.MustParseAddrPort("[fe80::1]:80"): syscall.EINVAL, // link-local without a zone
	} {
		_, r := dial(t, s, dst)
		if diff := cmp.Diff(wire.DialReply{Errno: wire.Errno(want)}, r, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", dst, diff)
		}
	}
}

func TestErrno(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}, syscall.EHOSTUNREACH},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), syscall.ETIMEDOUT},
		{context.Canceled, syscall.ETIMEDOUT},
		{os.ErrDeadlineExceeded, syscall.ETIMEDOUT},
		{errors.New("other"), syscall.EIO},
	} {
		if got := Errno(tt.err); got != wire.Errno(tt.want) {
			t.Errorf("Errno(%v) = %d, want %d", tt.err, got, tt.want)
		}
	}
}

// TestFromPod checks, in a pod's namespace, the addresses that others see, and the errors
// of a network.
func TestFromPod(t *testing.T) {
	pod, ok := testnet.Isolated(t)
	if !ok {
		return
	}
	node := testnet.New(t)
	prefixes := func(ss ...string) (out []netip.Prefix) {
		for _, s := range ss {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	testnet.Cable(t, pod, node, prefixes("10.77.0.2/24", "fd77::2/64"), prefixes("10.77.0.1/24", "fd77::1/64"))
	s := start(t)

	t.Run("source address", func(t *testing.T) {
		for _, host := range []string{"10.77.0.1:0", "[fd77::1]:0"} {
			var l *net.TCPListener
			node.Must(t, func() error { l = listen(t, host); return nil })
			st, r := dial(t, s, addrOf(l.Addr()))
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if got := addrOf(c.RemoteAddr()); got != r.Local || got.Addr().String() != map[bool]string{true: "10.77.0.2", false: "fd77::2"}[got.Addr().Is4()] {
				t.Errorf("the server sees %s, the reply says %s", got, r.Local)
			}
			_, _ = st.Close(), c.Close()
		}
	})
	t.Run("errors", func(t *testing.T) {
		// 10.77.0.99 is on the link, and nobody answers for it.
		for dst, want := range map[string]syscall.Errno{
			"10.77.0.1:1": syscall.ECONNREFUSED, "[fd77::1]:1": syscall.ECONNREFUSED, "10.77.0.99:80": syscall.EHOSTUNREACH,
		} {
			if _, r := dial(t, s, netip.MustParseAddrPort(dst)); r.Errno != wire.Errno(want) {
				t.Errorf("%s: %v, want %v", dst, syscall.Errno(r.Errno), want)
			}
		}
	})
	t.Run("a client that gives up", func(t *testing.T) {
		// Connecting to an address that never answers goes on for seconds; resetting the
		// stream ends it at once, which the end of the test (goleak, served) would show.
		st, err := s.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = wire.WriteDial(st, wire.Dial{Addr: netip.MustParseAddrPort("10.77.0.98:80")})
		_ = st.Reset()
	})
	t.Run("datagrams", func(t *testing.T) { podDatagrams(t, s, node) })
}

func podDatagrams(t *testing.T, s tunnel.Session, node *testnet.Namespace) {
	var servers []*net.UDPConn
	for _, host := range []string{"10.77.0.1:0", "[fd77::1]:0"} {
		node.Must(t, func() error {
			pc, err := net.ListenPacket("udp", host)
			if err == nil {
				servers = append(servers, pc.(*net.UDPConn))
				t.Cleanup(func() { _ = pc.Close() })
			}
			return err
		})
	}
	u := openUDP(t, s)
	for _, srv := range servers {
		u.send(t, addrOf(srv.LocalAddr()), []byte("ping"))
		b := make([]byte, 100)
		n, from, err := srv.ReadFromUDPAddrPort(b)
		if err != nil || string(b[:n]) != "ping" {
			t.Fatalf("the server got %q, %v", b[:n], err)
		}
		if a := from.Addr().String(); a != "10.77.0.2" && a != "fd77::2" {
			t.Errorf("the server sees %s", a)
		}
		if _, err := srv.WriteToUDPAddrPort([]byte("pong"), from); err != nil {
			t.Fatal(err)
		}
		if d := u.next(t); string(d.Payload) != "pong" || d.Addr != addrOf(srv.LocalAddr()) {
			t.Errorf("got %+v", d)
		}
	}
	// ICMP errors find their datagram, and disturb nobody else's.
	for _, srv := range servers {
		closed := netip.AddrPortFrom(addrOf(srv.LocalAddr()).Addr(), 1)
		for range 3 {
			u.send(t, closed, []byte("x"))
			u.send(t, addrOf(srv.LocalAddr()), []byte("ping"))
			want := wire.Datagram{Type: wire.DatagramError, Addr: closed, Errno: wire.Errno(syscall.ECONNREFUSED)}
			if diff := cmp.Diff(want, u.next(t), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if _, _, err := srv.ReadFromUDPAddrPort(make([]byte, 10)); err != nil {
				t.Error(err)
			}
		}
	}
	u.send(t, netip.MustParseAddrPort("10.77.0.97:9"), []byte("x"))
	if d := u.next(t); d.Type != wire.DatagramError || d.Errno != wire.Errno(syscall.EHOSTUNREACH) {
		t.Errorf("for an address without a host: %+v", d)
	}
}

type udp struct {
	st tunnel.Stream
	r  *bufio.Reader
}

func openUDP(t *testing.T, s tunnel.Session) *udp {
	t.Helper()
	st, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := wire.WriteDatagramsHeader(st); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return &udp{st: st, r: bufio.NewReader(st)}
}

func (u *udp) send(t *testing.T, dst netip.AddrPort, b []byte) {
	t.Helper()
	if err := wire.WriteDatagram(u.st, wire.Datagram{Type: wire.DatagramData, Addr: dst, Payload: b}); err != nil {
		t.Fatal(err)
	}
}

func (u *udp) next(t *testing.T) wire.Datagram {
	t.Helper()
	_ = u.st.SetReadDeadline(time.Now().Add(time.Minute))
	d, err := wire.ReadDatagram(u.r)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDatagrams(t *testing.T) {
	s := start(t)
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	_ = pc.SetReadBuffer(4 << 20)
	dst := addrOf(pc.LocalAddr())
	u := openUDP(t, s)
	var source netip.AddrPort
	for _, size := range []int{0, 1, 1472, 9000, 65507} {
		sent := bytes.Repeat([]byte{byte(size)}, size)
		u.send(t, dst, sent)
		b := make([]byte, 65536)
		n, from, err := pc.ReadFromUDPAddrPort(b)
		if err != nil || !bytes.Equal(b[:n], sent) {
			t.Fatalf("of %d bytes %d arrived: %v", size, n, err)
		}
		if source.IsValid() && from != source {
			t.Errorf("the source changed from %s to %s within a stream", source, from)
		}
		source = from
		if _, err := pc.WriteToUDPAddrPort(sent, from); err != nil {
			t.Fatal(err)
		}
		if d := u.next(t); d.Type != wire.DatagramData || !bytes.Equal(d.Payload, sent) || d.Addr != dst {
			t.Errorf("of %d bytes %d came back from %s", size, len(d.Payload), d.Addr)
		}
	}
	// More than UDP carries: an error, and the socket goes on.
	u.send(t, dst, make([]byte, 65508))
	if d := u.next(t); d.Type != wire.DatagramError || d.Errno != wire.Errno(syscall.EMSGSIZE) || d.Addr != dst {
		t.Errorf("for 65508 bytes: %+v", d)
	}
	u.send(t, dst, []byte("after"))
	b := make([]byte, 10)
	if n, _, err := pc.ReadFromUDPAddrPort(b); err != nil || string(b[:n]) != "after" {
		t.Errorf("after an error: %q, %v", b[:n], err)
	}
	// The end of the stream ends the socket: its port is free again.
	_ = u.st.CloseWrite()
	if _, err := wire.ReadDatagram(u.r); !errors.Is(err, io.EOF) {
		t.Errorf("after the client's end: %v, want EOF", err)
	}
	again, err := net.ListenPacket("udp4", fmt.Sprintf("0.0.0.0:%d", source.Port()))
	if err != nil {
		t.Errorf("the socket is still open: %v", err)
	} else {
		_ = again.Close()
	}
}

func TestDatagramsMalformed(t *testing.T) {
	s := start(t)
	u := openUDP(t, s)
	if _, err := u.st.Write([]byte{9, 9, 9}); err != nil {
		t.Fatal(err)
	}
	var reset *tunnel.ResetError
	if _, err := io.ReadAll(u.st); !errors.As(err, &reset) {
		t.Errorf("after nonsense: %v, want a reset", err)
	}
}
