package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/agent/podtest"
	"github.com/mirrord-go/mirrord/internal/agent/sockmark"
	"github.com/mirrord-go/mirrord/internal/agent/steal"
)

const port = 8080

var (
	loop4 = netip.MustParseAddr("127.0.0.1")
	loop6 = netip.MustParseAddr("::1")
)

// roomy are limits that a busy machine does not reach by accident.
func roomy() limits {
	l := defaultLimits()
	l.conn, l.all = 256<<20, 512<<20
	l.patience = time.Minute
	return l
}

func openTest(t *testing.T, l limits, buffer int, ports ...uint16) *Mirror {
	t.Helper()
	m, err := openWith(slog.New(slog.DiscardHandler), l, buffer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, p := range ports {
		if err := m.Add(p, nil); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// accept is Accept with an end.
func accept(t *testing.T, m *Mirror) *Conn {
	t.Helper()
	timer := time.AfterFunc(time.Minute, func() { m.Close() })
	defer timer.Stop()
	c, err := m.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// sinks is an application that reads connections to their ends and keeps what it got of
// each client.
type sinks struct {
	mu  sync.Mutex
	got map[string][32]byte
	wg  sync.WaitGroup
}

func sink(t *testing.T, addr string) *sinks {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &sinks{got: map[string][32]byte{}}
	s.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() {
				defer c.Close()
				h := sha256.New()
				if _, err := io.Copy(h, c); err != nil {
					t.Errorf("the application: %v", err)
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				s.got[c.RemoteAddr().String()] = [32]byte(h.Sum(nil))
			})
		}
	})
	t.Cleanup(func() { ln.Close(); s.wg.Wait() })
	return s
}

// upload sends n random bytes in random pieces, and waits until the application has closed.
func upload(t *testing.T, p *podtest.Pod, dst netip.AddrPort, n int, seed uint64) {
	c, err := p.Dial(t.Context(), dst)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	r := rand.New(rand.NewPCG(seed, 7))
	block := make([]byte, 256<<10)
	for i := range block {
		block[i] = byte(r.Uint32())
	}
	for n > 0 {
		size := min(n, 1+r.IntN(len(block)))
		if r.IntN(3) == 0 {
			size = min(n, 1+r.IntN(100))
		}
		if _, err := c.Write(block[:size]); err != nil {
			t.Error(err)
			return
		}
		block[r.IntN(len(block))]++
		n -= size
	}
	c.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, c)
}

// copies reads n connections of m to their ends.
func copies(t *testing.T, m *Mirror, n int) (got map[string][32]byte, wait func()) {
	got = map[string][32]byte{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	wg.Go(func() {
		for range n {
			c, err := m.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			wg.Go(func() {
				defer c.Close()
				h := sha256.New()
				if _, err := io.Copy(h, c); err != nil {
					t.Errorf("the copy: %v", err)
				}
				mu.Lock()
				defer mu.Unlock()
				got[c.Peer().String()] = [32]byte(h.Sum(nil))
			})
		}
	})
	timer := time.AfterFunc(2*time.Minute, func() { m.Close() })
	return got, func() { wg.Wait(); timer.Stop() }
}

func compare(t *testing.T, app *sinks, got map[string][32]byte, n int) {
	t.Helper()
	app.mu.Lock()
	defer app.mu.Unlock()
	if len(app.got) != n || len(got) != n {
		t.Errorf("the application had %d connections, we %d, want %d", len(app.got), len(got), n)
	}
	for peer, want := range app.got {
		if got[peer] != want {
			t.Errorf("%s sent other bytes than were copied", peer)
		}
	}
}

func TestIdenticalBytes(t *testing.T) {
	podtest.Run(t, 0, func(t *testing.T, p *podtest.Pod) {
		const n = 40
		app := sink(t, fmt.Sprintf("[::]:%d", port))
		m := openTest(t, roomy(), 256<<20, port)
		dsts := []netip.Addr{p.Pod.V4, p.Pod.V6, loop4, loop6}
		got, wait := copies(t, m, n+len(dsts))
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { upload(t, p, netip.AddrPortFrom(dsts[i%len(dsts)], port), 1<<(i%20), uint64(i)) })
		}
		wg.Wait()
		for i, d := range dsts {
			upload(t, p, netip.AddrPortFrom(d, port), 64<<20, uint64(1000+i))
		}
		wait()
		compare(t, app, got, n+len(dsts))
		st := m.Stats()
		if st.Conns != n+uint64(len(dsts)) || st.KernelDrops+st.Gaps+st.Slow+st.Joined != 0 || st.Buffered != 0 {
			t.Errorf("%+v", st)
		}
		t.Logf("%+v", st)
	})
}

// Packets that the network loses are sent again, and the copy has them once and in order.
func TestLoss(t *testing.T) {
	podtest.Run(t, 0, func(t *testing.T, p *podtest.Pod) {
		const n = 10
		app := sink(t, fmt.Sprintf("[::]:%d", port))
		m := openTest(t, roomy(), 256<<20, port)
		lose(t, p, 5)
		got, wait := copies(t, m, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				upload(t, p, netip.AddrPortFrom([]netip.Addr{p.Pod.V4, p.Pod.V6}[i%2], port), 4<<20, uint64(i))
			})
		}
		wg.Wait()
		wait()
		compare(t, app, got, n)
	})
}

// lose drops a share of the packets that the client sends, in percent.
func lose(t *testing.T, p *podtest.Pod, percent uint32) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(p.ClientNS()))
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "loss"})
	chain := c.AddChain(&nftables.Chain{
		Name: "loss", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Numgen{Register: 1, Type: unix.NFT_NG_RANDOM, Modulus: 100},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: []byte{0, 0, 0, byte(percent)}},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		rules, err := c.GetRules(table, chain)
		if err != nil || len(rules) != 1 {
			t.Fatalf("%d rules, %v", len(rules), err)
		}
		for _, e := range rules[0].Exprs {
			if n, ok := e.(*expr.Counter); ok && n.Packets == 0 {
				t.Error("no packet was lost; the test shows nothing")
			}
		}
	})
}

// What the packet socket misses ends the copy, and only the copy.
func TestKernelDrops(t *testing.T) {
	podtest.Run(t, 0, func(t *testing.T, p *podtest.Pod) {
		app := sink(t, fmt.Sprintf("[::]:%d", port))
		l := roomy()
		l.patience = 50 * time.Millisecond
		m := openTest(t, l, 64<<10, port)
		client, err := p.Dial(t.Context(), netip.AddrPortFrom(p.Pod.V4, port))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		c := accept(t, m)
		m.mu.Lock() // We are too busy to read packets.
		_, err = client.Write(make([]byte, 4<<20))
		m.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		var gap *GapError
		var n int64
		done := make(chan struct{})
		go func() { defer close(done); n, err = io.Copy(io.Discard, c) }()
		// The next packets show that something is missing.
		for ended := false; !ended; {
			if _, err := client.Write([]byte("more")); err != nil {
				t.Fatal(err)
			}
			select {
			case <-done:
				ended = true
			case <-time.After(20 * time.Millisecond):
			}
		}
		if !errors.As(err, &gap) || gap.Offset != n || n >= 4<<20 {
			t.Errorf("%v after %d bytes", err, n)
		}
		if st := m.Stats(); st.KernelDrops == 0 || st.Gaps != 1 || st.Buffered != 0 {
			t.Errorf("%+v", st)
		}
		client.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, client); err != nil {
			t.Error(err)
		}
		app.mu.Lock()
		defer app.mu.Unlock()
		if len(app.got) != 1 {
			t.Error("the application did not get everything")
		}
	})
}

// A reader that does not read holds up nobody.
func TestSlowReader(t *testing.T) {
	podtest.Run(t, 0, func(t *testing.T, p *podtest.Pod) {
		sink(t, fmt.Sprintf("[::]:%d", port))
		m := openTest(t, defaultLimits(), 256<<20, port)
		dst := netip.AddrPortFrom(p.Pod.V4, port)
		upload(t, p, dst, 64<<20, 1)
		slow := accept(t, m)
		upload(t, p, dst, 1000, 2)
		if n, err := io.Copy(io.Discard, accept(t, m)); n != 1000 || err != nil {
			t.Errorf("the other connection: %d bytes, %v", n, err)
		}
		n, err := io.Copy(io.Discard, slow)
		var serr *SlowError
		if !errors.As(err, &serr) || serr.Offset != n || n == 0 || n > int64(m.tracker.limits.conn) {
			t.Errorf("%v after %d bytes", err, n)
		}
		if st := m.Stats(); st.Slow != 1 || st.Buffered != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// A client that keeps its connection is copied from the next request on; one that does not
// speak HTTP is not.
func TestJoin(t *testing.T) {
	podtest.Run(t, 0, func(t *testing.T, p *podtest.Pod) {
		ln, err := net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })}
		go srv.Serve(ln)
		defer srv.Close()
		var peers []string
		tr := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			c, err := p.Dial(ctx, netip.MustParseAddrPort(addr))
			if err == nil {
				peers = append(peers, c.LocalAddr().String())
			}
			return c, err
		}}
		defer tr.CloseIdleConnections()
		post := func(body string) {
			t.Helper()
			resp, err := (&http.Client{Transport: tr}).Post(fmt.Sprintf("http://%v/", netip.AddrPortFrom(p.Pod.V4, port)), "text/plain", bytes.NewBufferString(body))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got, err := io.ReadAll(resp.Body); string(got) != body || err != nil {
				t.Fatalf("answer %q, %v", got, err)
			}
		}
		post("one")
		raw, err := p.Dial(t.Context(), netip.AddrPortFrom(p.Pod.V4, port))
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		raw.Write([]byte("X"))

		m := openTest(t, defaultLimits(), receiveBuffer, port)
		raw.Write([]byte("X"))
		post("two")
		post("three")
		if len(peers) != 1 {
			t.Fatalf("the client made %d connections", len(peers))
		}
		c := accept(t, m)
		tr.CloseIdleConnections()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.HasPrefix(got, []byte("POST / HTTP/1.1\r\n")) || !bytes.HasSuffix(got, []byte("\r\n\r\nthree")) ||
			!bytes.Contains(got, []byte("\r\n\r\ntwoPOST ")) {
			t.Errorf("copied %q, %v", got, err)
		}
		if c.Peer().String() != peers[0] {
			t.Errorf("peer %v, want %v", c.Peer(), peers[0])
		}
		if st := m.Stats(); st.Joined != 1 || st.Conns != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// A connection is there before its client speaks, and ends when either side resets it.
func TestOpenAndReset(t *testing.T) {
	podtest.Run(t, 0, func(t *testing.T, p *podtest.Pod) {
		ln, err := net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		m := openTest(t, defaultLimits(), receiveBuffer, port, port+1)
		for _, ip := range []netip.Addr{p.Pod.V4, p.Pod.V6, loop4, loop6} {
			for _, by := range []string{"client", "target"} {
				if c, err := p.Dial(t.Context(), netip.AddrPortFrom(ip, port+1)); err == nil {
					c.Close()
					t.Fatal("connected to nobody")
				}
				dst := netip.AddrPortFrom(ip, port)
				client, err := p.Dial(t.Context(), dst)
				if err != nil {
					t.Fatal(err)
				}
				server, err := ln.Accept()
				if err != nil {
					t.Fatal(err)
				}
				c := accept(t, m)
				if c.Peer().String() != client.LocalAddr().String() || c.Local() != dst {
					t.Errorf("from %v to %v", c.Peer(), c.Local())
				}
				server.Write([]byte("220 ready"))
				client.Write([]byte("hello"))
				if _, err := io.ReadFull(server, make([]byte, 5)); err != nil {
					t.Fatal(err)
				}
				first, second := client, server
				if by == "target" {
					first, second = server, client
				}
				first.(*net.TCPConn).SetLinger(0)
				first.Close()
				if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
					t.Errorf("%v reset by the %s: %q, %v", ip, by, got, err)
				}
				second.Close()
			}
		}
	})
}

// What the agent itself sends to the application is no traffic of the target, and what it
// took from the application is.
func TestStolen(t *testing.T) {
	podtest.Run(t, 0, func(t *testing.T, p *podtest.Pod) {
		ln, err := net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		for _, b := range []steal.Backend{steal.SKLookup, steal.NFTables} {
			t.Run(string(b), func(t *testing.T) {
				s, err := steal.Open(slog.New(slog.DiscardHandler), steal.Options{Backend: b})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if err := s.Steal(port); err != nil {
					t.Fatal(err)
				}
				m := openTest(t, defaultLimits(), receiveBuffer, port)
				for _, ip := range []netip.Addr{p.Pod.V4, p.Pod.V6, loop4} {
					dst := netip.AddrPortFrom(ip, port)
					own, err := s.DialTarget(t.Context(), dst)
					if err != nil {
						t.Fatal(err)
					}
					own.Write([]byte("own"))
					own.Close()
					client, err := p.Dial(t.Context(), dst)
					if err != nil {
						t.Fatal(err)
					}
					taken, err := s.Accept()
					if err != nil {
						t.Fatal(err)
					}
					client.Write([]byte("client"))
					client.Close()
					if got, err := io.ReadAll(accept(t, m)); string(got) != "client" || err != nil {
						t.Errorf("%v: %q, %v", ip, got, err)
					}
					taken.Close()
				}
				if st := m.Stats(); st.Conns != 3 {
					t.Errorf("%+v", st)
				}
			})
		}
	})
}

func TestMarked(t *testing.T) {
	podtest.Run(t, 0, func(t *testing.T, p *podtest.Pod) {
		sink(t, fmt.Sprintf("[::]:%d", port))
		m := openTest(t, defaultLimits(), receiveBuffer, port)
		d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
			c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, sockmark.Agent) })
			return err
		}}
		for _, ip := range []netip.Addr{p.Pod.V4, loop6} {
			c, err := d.DialContext(t.Context(), "tcp", netip.AddrPortFrom(ip, port).String())
			if err != nil {
				t.Fatal(err)
			}
			c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
			c.Close()
		}
		upload(t, p, netip.AddrPortFrom(p.Pod.V4, port), 10, 1)
		accept(t, m)
		if st := m.Stats(); st.Conns != 1 {
			t.Errorf("%+v", st)
		}
	})
}

func TestPorts(t *testing.T) {
	podtest.Run(t, unix.CLONE_NEWUSER, func(t *testing.T, p *podtest.Pod) {
		m := openTest(t, defaultLimits(), receiveBuffer)
		for i := range uint16(MaxPorts) {
			if err := m.Add(port+i, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Add(port, nil); err != nil {
			t.Error(err)
		}
		if err := m.Add(port+MaxPorts, nil); err == nil {
			t.Error("no limit of the ports")
		}
		for _, at := range []uint16{port, port + MaxPorts/2, port + MaxPorts - 1} {
			for _, ip := range []netip.Addr{p.Pod.V4, p.Pod.V6} {
				dst := netip.AddrPortFrom(ip, at)
				app := sink(t, dst.String())
				upload(t, p, dst, 1000, uint64(at))
				c := accept(t, m)
				got, err := io.ReadAll(c)
				app.mu.Lock()
				if err != nil || c.Local() != dst || sha256.Sum256(got) != app.got[c.Peer().String()] {
					t.Errorf("%v: %d bytes, %v", c.Local(), len(got), err)
				}
				app.mu.Unlock()
			}
		}
		sink(t, fmt.Sprintf("%v:%d", loop4, port+1))
		client, err := p.Dial(t.Context(), netip.AddrPortFrom(loop4, port+1))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		client.Write([]byte("ab"))
		c := accept(t, m)
		if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
			t.Error(err)
		}
		m.Remove(port+1, nil)
		m.Remove(port+1, nil)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrRemoved) {
			t.Errorf("after its port was removed: %v", err)
		}
		if err := m.Add(port+MaxPorts, nil); err != nil {
			t.Errorf("in the place of the removed: %v", err)
		}
	})
}

func TestClose(t *testing.T) {
	podtest.Run(t, 0, func(t *testing.T, p *podtest.Pod) {
		sink(t, fmt.Sprintf("[::]:%d", port))
		m := openTest(t, defaultLimits(), receiveBuffer, port)
		client, err := p.Dial(t.Context(), netip.AddrPortFrom(p.Pod.V4, port))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		c := accept(t, m)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("read: %v", err)
			}
		})
		wg.Go(func() {
			if _, err := m.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("accept: %v", err)
			}
		})
		for range 2 {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
		wg.Wait()
		if err := m.Add(port, nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("add: %v", err)
		}
		m.Remove(port, nil)
		m.Stats()
	})
}
