package steal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/agent/podtest"
)

// backends is what every test of conformance runs on.
var backends = []Backend{SKLookup, NFTables}

func each(t *testing.T, body func(t *testing.T, l *podtest.Pod, b Backend)) {
	t.Helper()
	podtest.Run(t, 0, func(t *testing.T, l *podtest.Pod) {
		for _, b := range backends {
			t.Run(string(b), func(t *testing.T) { body(t, l, b) })
		}
	})
}

func TestStealAndRelease(t *testing.T) {
	each(t, func(t *testing.T, l *podtest.Pod, b Backend) {
		app(t, "tcp", fmt.Sprintf("[::]:%d", podPort))
		app(t, "tcp", fmt.Sprintf("[::]:%d", otherPort))
		s := open(t, b)
		serve(t, acceptor{s}, "agent")
		c := httpClient(t, l, false)
		dsts := []netip.Addr{l.Pod.V4, l.Pod.V6, loop4, loop6}
		for _, ip := range dsts {
			wantFrom(t, c, netip.AddrPortFrom(ip, podPort), "app")
		}
		for range 2 { // Both calls do nothing the second time.
			steal(t, s, podPort)
			if s.Backend() != b {
				t.Fatalf("backend %q", s.Backend())
			}
		}
		for _, ip := range dsts {
			t.Run(ip.String(), func(t *testing.T) {
				dst := netip.AddrPortFrom(ip, podPort)
				f := strings.Fields(wantFrom(t, c, dst, "agent"))
				want := map[netip.Addr]netip.Addr{l.Pod.V4: l.Client.V4, l.Pod.V6: l.Client.V6, loop4: loop4, loop6: loop6}[ip]
				if got := netip.MustParseAddrPort(f[1]).Addr(); got != want {
					t.Errorf("peer %v, want %v", got, want)
				}
				if f[2] != dst.String() {
					t.Errorf("destination %v, want %v", f[2], dst)
				}
				wantFrom(t, c, netip.AddrPortFrom(ip, otherPort), "app")
			})
		}
		// A client in the pod that uses the pod's own address.
		direct, err := net.Dial("tcp", netip.AddrPortFrom(l.Pod.V4, podPort).String())
		if err != nil {
			t.Fatal(err)
		}
		defer direct.Close()
		io.WriteString(direct, "GET / HTTP/1.0\r\n\r\n")
		if got, _ := io.ReadAll(direct); !strings.Contains(string(got), "agent ") {
			t.Errorf("from the pod itself: %q", got)
		}
		for range 2 {
			if err := s.Release(podPort); err != nil {
				t.Fatal(err)
			}
		}
		for _, ip := range dsts {
			wantFrom(t, c, netip.AddrPortFrom(ip, podPort), "app")
		}
	})
}

// A port has one taker at a time: the second is refused, and gets it when the first is done.
func TestOneTakerOfAPort(t *testing.T) {
	each(t, func(t *testing.T, l *podtest.Pod, b Backend) {
		app(t, "tcp", fmt.Sprintf("[::]:%d", podPort))
		first, second := open(t, b), open(t, b)
		steal(t, first, podPort)
		serve(t, acceptor{second}, "agent")
		c, dst := httpClient(t, l, false), netip.AddrPortFrom(l.Pod.V4, podPort)
		var taken *TakenError
		if err := second.Steal(podPort); !errors.As(err, &taken) || taken.Port != podPort || !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("the second: %v", err)
		}
		steal(t, second, otherPort) // another port is nobody's
		if err := first.Release(podPort); err != nil {
			t.Fatal(err)
		}
		wantFrom(t, c, dst, "app")
		steal(t, second, podPort)
		wantFrom(t, c, dst, "agent")
		if err := second.Close(); err != nil {
			t.Fatal(err)
		}
		steal(t, first, podPort)
	})
}

// Connections that were taken live on after the port was given back, and after Close.
func TestTakenConnectionsOutlive(t *testing.T) {
	each(t, func(t *testing.T, l *podtest.Pod, b Backend) {
		app(t, "tcp", fmt.Sprintf("[::]:%d", podPort))
		s := open(t, b)
		steal(t, s, podPort)
		for _, ip := range []netip.Addr{l.Pod.V4, l.Pod.V6, loop4, loop6} {
			client, taken := takeOne(t, l, s, netip.AddrPortFrom(ip, podPort))
			defer client.Close()
			defer taken.Close()
			echoed(t, client, taken)
			if err := s.Release(podPort); err != nil {
				t.Fatal(err)
			}
			echoed(t, client, taken)
			steal(t, s, podPort)
			defer func() { echoed(t, client, taken) }()
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accepting after close: %v", err)
		}
		wantFrom(t, httpClient(t, l, false), netip.AddrPortFrom(l.Pod.V4, podPort), "app")
	})
}

func takeOne(t *testing.T, l *podtest.Pod, s *Stealer, dst netip.AddrPort) (client net.Conn, taken *Conn) {
	t.Helper()
	client, err := l.Dial(t.Context(), dst)
	if err != nil {
		t.Fatal(err)
	}
	taken, err = s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if taken.RemoteAddr().String() != client.LocalAddr().String() || taken.Dst != dst {
		t.Fatalf("took %v to %v, want %v to %v", taken.RemoteAddr(), taken.Dst, client.LocalAddr(), dst)
	}
	return client, taken
}

// echoed checks that bytes pass both ways.
func echoed(t *testing.T, a, b net.Conn) {
	t.Helper()
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		if _, err := way[0].Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		way[1].SetReadDeadline(time.Now().Add(time.Minute))
		got := make([]byte, 4)
		if _, err := io.ReadFull(way[1], got); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFlush(t *testing.T) {
	each(t, func(t *testing.T, l *podtest.Pod, b Backend) {
		ln, err := net.Listen("tcp", fmt.Sprintf("[::]:%d", podPort))
		if err != nil {
			t.Fatal(err)
		}
		serve(t, ln, "app")
		s := open(t, b)
		c := httpClient(t, l, true)
		dsts := []netip.AddrPort{netip.AddrPortFrom(l.Pod.V4, podPort), netip.AddrPortFrom(l.Pod.V6, podPort)}
		for _, d := range dsts {
			wantFrom(t, c, d, "app")
		}
		steal(t, s, podPort)
		for _, d := range dsts { // Kept alive, so still the application's.
			wantFrom(t, c, d, "app")
		}

		client, taken := takeOne(t, l, s, dsts[0])
		defer client.Close()
		defer taken.Close()
		var waiting []net.Conn // in our accept queues
		for range 5 {
			for _, d := range dsts {
				w, err := l.Dial(t.Context(), d)
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close()
				waiting = append(waiting, w)
			}
		}
		var own []*net.TCPConn
		for _, d := range append(dsts, netip.AddrPortFrom(loop4, podPort), netip.AddrPortFrom(loop6, podPort)) {
			o, err := s.DialTarget(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close()
			own = append(own, o)
		}

		if n, err := s.Flush(podPort, func(netip.Addr) bool { return true }); err != nil || n != 0 {
			t.Errorf("with everybody spared: %d, %v", n, err)
		}
		n, err := s.Flush(podPort, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n != len(dsts) {
			t.Errorf("ended %d connections, want %d", n, len(dsts))
		}
		for _, o := range own {
			ask(t, o, "app ")
		}
		echoed(t, client, taken)
		serve(t, acceptor{s}, "agent")
		for _, w := range waiting {
			ask(t, w, "agent ")
		}
		for _, d := range dsts {
			wantFrom(t, c, d, "agent")
		}
		if n, err := s.Flush(podPort, nil); err != nil || n != 0 {
			t.Errorf("a second time: %d, %v", n, err)
		}
	})
}

// ask sends one request on a connection and checks how the answer begins.
func ask(t *testing.T, c net.Conn, want string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "\r\n" {
			break
		}
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("answer begins %q (%v), want %q", got, err, want)
	}
}

func TestDialTarget(t *testing.T) {
	each(t, func(t *testing.T, l *podtest.Pod, b Backend) {
		tests := []struct {
			network, listen string
			dsts            []netip.Addr
		}{
			{"tcp4", "0.0.0.0", []netip.Addr{l.Pod.V4, loop4}},
			{"tcp4", l.Pod.V4.String(), []netip.Addr{l.Pod.V4}},
			{"tcp", "[::]", []netip.Addr{l.Pod.V4, l.Pod.V6, loop4, loop6, netip.AddrFrom16(l.Pod.V4.As16())}},
			{"tcp6", "[" + l.Pod.V6.String() + "]", []netip.Addr{l.Pod.V6}},
			{"tcp4", loop4.String(), []netip.Addr{loop4}},
		}
		s := open(t, b)
		steal(t, s, podPort)
		for _, tt := range tests {
			t.Run(tt.listen, func(t *testing.T) {
				app(t, tt.network, fmt.Sprintf("%s:%d", tt.listen, podPort))
				for _, ip := range tt.dsts {
					c, err := s.DialTarget(t.Context(), netip.AddrPortFrom(ip, podPort))
					if err != nil {
						t.Fatal(err)
					}
					ask(t, c, "app ")
					c.Close()
				}
			})
		}
		_, err := s.DialTarget(t.Context(), netip.AddrPortFrom(l.Pod.V4, podPort))
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("without an application: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err = s.DialTarget(ctx, netip.AddrPortFrom(l.Pod.V4, podPort)); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// Source ports that other connections keep in TIME_WAIT must not run out.
func TestDialTargetPortsExhausted(t *testing.T) {
	each(t, func(t *testing.T, l *podtest.Pod, b Backend) {
		const ports, rounds = 8, 100
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "40000 %d", 40000+ports-1), 0); err != nil {
			t.Fatal(err)
		}
		if b == NFTables {
			t.Skip("here the kernel chooses the port, as for every process of the pod")
		}
		app(t, "tcp", fmt.Sprintf("[::]:%d", podPort))
		s := open(t, b)
		steal(t, s, podPort)
		for range rounds {
			c, err := s.DialTarget(t.Context(), netip.AddrPortFrom(l.Pod.V4, podPort))
			if err != nil {
				t.Fatal(err)
			}
			ask(t, c, "app ")
			c.Close() // First, so the port stays in TIME_WAIT here.
		}
	})
}

// Our listener is of no use to anyone under its own address.
func TestListenerIsNotReachable(t *testing.T) {
	each(t, func(t *testing.T, l *podtest.Pod, b Backend) {
		s := open(t, b)
		for _, ln := range s.listeners {
			c, err := net.Dial("tcp", ln.Addr().String())
			if err == nil { // Else the reset was quicker.
				c.SetReadDeadline(time.Now().Add(time.Minute))
				_, err = c.Read(make([]byte, 1))
				c.Close()
			}
			if !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("on %v: %v", ln.Addr(), err)
			}
			for _, ip := range []netip.Addr{l.Pod.V4, l.Pod.V6} {
				if c, err := l.Dial(t.Context(), netip.AddrPortFrom(ip, addrPort(ln.Addr()).Port())); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("from outside to %v: %v, %v", ip, c, err)
				}
			}
		}
	})
}

func TestManyConnections(t *testing.T) {
	each(t, func(t *testing.T, l *podtest.Pod, b Backend) {
		const n = 1000
		s := open(t, b)
		steal(t, s, podPort)
		var accepted sync.WaitGroup
		accepted.Go(func() {
			for range n {
				c, err := s.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				accepted.Go(func() { io.Copy(c, c); c.Close() })
			}
		})
		clients := make([]net.Conn, n)
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				ip := []netip.Addr{l.Pod.V4, l.Pod.V6}[i%2]
				c, err := l.Dial(t.Context(), netip.AddrPortFrom(ip, podPort))
				if err != nil {
					t.Error(err)
					return
				}
				clients[i] = c
				c.SetDeadline(time.Now().Add(60 * time.Second))
				msg := fmt.Sprintf("connection %d", i)
				io.WriteString(c, msg)
				got := make([]byte, len(msg))
				if _, err := io.ReadFull(c, got); err != nil || string(got) != msg {
					t.Errorf("connection %d: %q, %v", i, got, err)
				}
			})
		}
		wg.Wait() // All are open at once.
		for _, c := range clients {
			if c != nil {
				c.Close()
			}
		}
		accepted.Wait()
	})
}

// Taking and giving back a port under load fails no request.
func TestLoopUnderLoad(t *testing.T) {
	each(t, func(t *testing.T, l *podtest.Pod, b Backend) {
		app(t, "tcp", fmt.Sprintf("[::]:%d", podPort))
		s := open(t, b)
		serve(t, acceptor{s}, "agent")
		c := httpClient(t, l, false)
		var stop atomic.Bool
		var fromApp, fromAgent atomic.Int64
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				dst := netip.AddrPortFrom([]netip.Addr{l.Pod.V4, l.Pod.V6}[i%2], podPort)
				for !stop.Load() {
					got, err := get(c, dst)
					switch {
					case err != nil:
						t.Errorf("a request failed: %v", err)
						return
					case strings.HasPrefix(got, "app "):
						fromApp.Add(1)
					case strings.HasPrefix(got, "agent "):
						fromAgent.Add(1)
					default:
						t.Errorf("answer %q", got)
					}
				}
			})
		}
		for i := range 300 {
			wait(t, &fromApp, int64(i))
			steal(t, s, podPort)
			wait(t, &fromAgent, int64(i))
			if err := s.Release(podPort); err != nil {
				t.Fatal(err)
			}
		}
		stop.Store(true)
		wg.Wait()
		t.Logf("%d requests to the application, %d to the agent", fromApp.Load(), fromAgent.Load())
	})
}

// wait waits until n has passed a number.
func wait(t *testing.T, n *atomic.Int64, past int64) {
	t.Helper()
	for start := time.Now(); n.Load() <= past; time.Sleep(time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatalf("still %d", past)
		}
	}
}

// In a user namespace of its own, where BPF is not allowed, nftables takes over by itself.
func TestUserNamespace(t *testing.T) {
	podtest.Run(t, unix.CLONE_NEWUSER, func(t *testing.T, l *podtest.Pod) {
		app(t, "tcp", fmt.Sprintf("[::]:%d", podPort))
		s := open(t, "")
		if s.Backend() != NFTables {
			t.Fatalf("backend %q", s.Backend())
		}
		serve(t, acceptor{s}, "agent")
		steal(t, s, podPort)
		if n, err := s.Flush(podPort, nil); err != nil || n != 0 {
			t.Fatalf("flush: %d, %v", n, err)
		}
		wantFrom(t, httpClient(t, l, false), netip.AddrPortFrom(l.Pod.V4, podPort), "agent")
	})
}

func TestOpenExplains(t *testing.T) {
	_, err := Open(slog.New(slog.DiscardHandler), Options{Backend: "iptables"})
	if err == nil || !strings.Contains(err.Error(), `use "sk_lookup" or "nftables"`) {
		t.Errorf("unknown backend: %v", err)
	}
}
