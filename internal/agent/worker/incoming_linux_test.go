package worker

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/testnet"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// pod is a target with an application on port 8080 that answers "target", and a client of
// it on the node, which is the pod's gateway.
type pod struct {
	node *testnet.Namespace
	app  *server
}

var (
	podAddr  = netip.MustParseAddrPort("10.78.0.2:8080")
	podAddr6 = netip.MustParseAddrPort("[fd78::2]:8080")
	nodeAddr = netip.MustParseAddr("10.78.0.1")
)

func prefixes(ss ...string) (out []netip.Prefix) {
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func newPod(t *testing.T, self *testnet.Namespace) *pod {
	t.Helper()
	p := &pod{node: testnet.New(t)}
	testnet.Cable(t, self, p.node, prefixes("10.78.0.2/24", "fd78::2/64"), prefixes("10.78.0.1/24", "10.78.0.3/24", "fd78::1/64"))
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	p.app = serve(t, l, "target")
	return p
}

// dial connects to the pod from the node, from a source address if there is one.
func (p *pod) dial(t *testing.T, dst netip.AddrPort, source netip.Addr) net.Conn {
	t.Helper()
	var c net.Conn
	p.node.Must(t, func() (err error) {
		d := net.Dialer{Timeout: patience}
		if source.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
		}
		c, err = d.Dial("tcp", dst.String())
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// answer asks the pod on a new connection who answers.
func (p *pod) answer(t *testing.T, line string) string {
	t.Helper()
	c := p.dial(t, podAddr, netip.Addr{})
	defer c.Close()
	got, err := ask(c, line)
	if err != nil {
		t.Fatalf("asking the pod: %v", err)
	}
	return got
}

// answering serves the client's incoming connections with a word, until the tunnel ends.
func (c *client) answering(t *testing.T, word string) {
	t.Helper()
	var all sync.WaitGroup
	all.Go(func() {
		for {
			st, err := c.tun.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer st.Close()
				if _, err := wire.ReadKind(st); err != nil {
					return
				}
				if _, err := wire.ReadIncoming(st); err != nil {
					return
				}
				_ = wire.WriteIncomingReply(st, wire.IncomingReply{})
				for {
					if _, err := readLine(st); err != nil {
						return
					}
					if _, err := io.WriteString(st, word+"\n"); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = c.tun.Close()
		all.Wait()
	})
}

// TestSteal goes through what happens to the target's connections.
func TestSteal(t *testing.T) {
	self, ok := testnet.Isolated(t)
	if !ok {
		return
	}
	p := newPod(t, self)
	a := run(t, func(c *Config) { c.openMirror = noMirror })
	steal := wire.Subscribe{Port: podAddr.Port(), Mode: wire.Steal}

	t.Run("taken and given back", func(t *testing.T) {
		c := a.client(t)
		if c.welcome.StealBackend == "" || c.welcome.StealProblem != "" {
			t.Fatalf("welcome %+v", c.welcome)
		}
		before := p.dial(t, podAddr, netip.Addr{})
		mustAsk(t, before, "kept alive", "target")
		if r := c.subscribe(t, steal); r.Moved != 1 {
			t.Errorf("%d connections moved, want 1", r.Moved)
		}
		if _, err := ask(before, "gone?"); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("on the old connection: %v, want a reset", err)
		}
		for _, dst := range []netip.AddrPort{podAddr, podAddr6} {
			conn := p.dial(t, dst, netip.Addr{})
			st, in := c.incoming(t)
			if in.Mode != wire.Steal || in.Local != dst || in.Peer != addrPort(conn.LocalAddr()) {
				t.Errorf("incoming %+v, want %v to %v", in, conn.LocalAddr(), dst)
			}
			reply(t, st, 0)
			if _, err := io.WriteString(conn, "question\n"); err != nil {
				t.Fatal(err)
			}
			if line, err := readLine(st); line != "question" || err != nil {
				t.Errorf("the client read %q, %v", line, err)
			}
			_, _ = io.WriteString(st, "local\n")
			_ = st.CloseWrite()
			if b, err := io.ReadAll(conn); string(b) != "local\n" || err != nil {
				t.Errorf("the peer read %q, %v", b, err)
			}
			_ = conn.Close()
			_ = st.Close()
		}
		// What was taken goes on after the port is given back; what comes is the target's.
		open := p.dial(t, podAddr, netip.Addr{})
		st, _ := c.incoming(t)
		reply(t, st, 0)
		if r := c.request(t, wire.Control{Unsubscribe: &wire.Unsubscribe{Port: 8080}}); r.Error != "" {
			t.Error(r.Error)
		}
		if got := p.answer(t, "after"); got != "target" {
			t.Errorf("after giving back %q answers", got)
		}
		_, _ = io.WriteString(open, "still here\n")
		if line, err := readLine(st); line != "still here" || err != nil {
			t.Errorf("on the connection that was taken: %q, %v", line, err)
		}
	})

	t.Run("refused by the local process", func(t *testing.T) {
		c := a.client(t)
		c.subscribe(t, steal)
		conn := p.dial(t, podAddr, netip.Addr{})
		if _, err := io.WriteString(conn, "early\n"); err != nil {
			t.Fatal(err)
		}
		st, _ := c.incoming(t)
		reply(t, st, wire.Errno(syscall.ECONNREFUSED))
		if line, err := readLine(conn); line != "target" || err != nil {
			t.Errorf("got %q, %v", line, err)
		}
		if got := p.app.got(); got[len(got)-1] != "early" {
			t.Errorf("the target read %q", got)
		}
		// The same with a stream that fails before anything was sent.
		before := p.app.accepted.Load()
		conn = p.dial(t, podAddr, netip.Addr{})
		st, _ = c.incoming(t)
		_ = st.Reset()
		eventually(t, func() error {
			if p.app.accepted.Load() == before {
				return errors.New("the target has not got the connection")
			}
			return nil
		})
		mustAsk(t, conn, "again", "target")
	})

	t.Run("the beginning comes before the answer", func(t *testing.T) {
		c := a.client(t)
		c.subscribe(t, steal)
		conn := p.dial(t, podAddr, netip.Addr{})
		request := strings.Repeat("0123456789abcdef", 4096) + "\n"
		go func() { _, _ = io.WriteString(conn, request) }()
		st, _ := c.incoming(t)
		begin := make([]byte, maxHead)
		if _, err := io.ReadFull(st, begin); err != nil {
			t.Fatal(err)
		}
		// No more than that is kept, and so no more is sent.
		_ = st.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if n, err := st.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("%d more bytes before the answer, %v", n, err)
		}
		_ = st.SetReadDeadline(time.Now().Add(patience))
		reply(t, st, 0)
		if line, err := readLine(st); string(begin)+line+"\n" != request || err != nil {
			t.Errorf("the client read %d bytes of %d, %v", len(begin)+len(line)+1, len(request), err)
		}

		// A refusal gives the target all of it.
		conn = p.dial(t, podAddr, netip.Addr{})
		go func() { _, _ = io.WriteString(conn, request) }()
		st, _ = c.incoming(t)
		if _, err := io.ReadFull(st, begin); err != nil {
			t.Fatal(err)
		}
		reply(t, st, wire.Errno(syscall.ECONNREFUSED))
		if line, err := readLine(conn); line != "target" || err != nil {
			t.Errorf("after the refusal %q, %v", line, err)
		}
		if got := p.app.got(); got[len(got)-1]+"\n" != request {
			t.Errorf("the target read %d bytes of %d", len(got[len(got)-1])+1, len(request))
		}

		// Without a word, the local process may have acted on it: the target must not too.
		conn = p.dial(t, podAddr, netip.Addr{})
		go func() { _, _ = io.WriteString(conn, request) }()
		st, _ = c.incoming(t)
		if _, err := io.ReadFull(st, begin); err != nil {
			t.Fatal(err)
		}
		_ = st.Reset()
		if _, err := readLine(conn); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after a reset: %v", err)
		}
	})

	t.Run("a peer that has ended already", func(t *testing.T) {
		c := a.client(t)
		c.subscribe(t, steal)
		conn := p.dial(t, podAddr, netip.Addr{})
		_, _ = io.WriteString(conn, "all of it\n")
		_ = conn.(*net.TCPConn).CloseWrite()
		st, _ := c.incoming(t)
		if line, err := readLine(st); line != "all of it" || err != nil {
			t.Fatalf("the client read %q, %v", line, err)
		}
		reply(t, st, 0)
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("behind it: %v, want the end", err)
		}
		_, _ = io.WriteString(st, "answer\n")
		_ = st.Close()
		if b, err := io.ReadAll(conn); string(b) != "answer\n" || err != nil {
			t.Errorf("the peer read %q, %v", b, err)
		}
	})

	t.Run("the client is gone", func(t *testing.T) {
		c := a.client(t)
		c.subscribe(t, steal)
		served := p.dial(t, podAddr, netip.Addr{})
		st, _ := c.incoming(t)
		reply(t, st, 0)
		_, _ = io.WriteString(st, "here\n")
		if line, err := readLine(served); line != "here" || err != nil {
			t.Fatalf("the peer read %q, %v", line, err) // from now on it is the client's
		}
		waiting := p.dial(t, podAddr, netip.Addr{})
		c.incoming(t)
		_ = c.carrier.Close()
		eventually(t, func() error {
			// The client may have got the beginning of one, before it is known to be gone.
			c := p.dial(t, podAddr, netip.Addr{})
			defer c.Close()
			if got, err := ask(c, "who"); got != "target" {
				return fmt.Errorf("%q answers, %w", got, errors.Join(err))
			}
			return nil
		})
		mustAsk(t, waiting, "not answered yet", "target")
		// It might have come back over another carrier, but comes anew.
		a.client(t)
		if _, err := ask(served, "x"); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("on a connection that was served: %v, want a reset", err)
		}
	})

	t.Run("probes stay with the target", func(t *testing.T) {
		c := a.client(t)
		probed := steal
		probed.Probes = []wire.Probe{{Kind: wire.ProbeHTTP}}
		c.subscribe(t, probed)
		request := func(agent string) string {
			return "GET /healthz HTTP/1.1\r\nHost: x\r\nUser-Agent: " + agent + "\r\n\r\n"
		}
		probe := p.dial(t, podAddr, nodeAddr)
		_, _ = io.WriteString(probe, request("kube-probe/1.37"))
		if line, err := readLine(probe); line != "target" || err != nil {
			t.Errorf("the probe got %q, %v", line, err)
		}
		// From the node, but no probe: the client gets every byte.
		other := p.dial(t, podAddr, nodeAddr)
		_, _ = io.WriteString(other, request("curl/8"))
		st, _ := c.incoming(t)
		reply(t, st, 0)
		b := make([]byte, len(request("curl/8")))
		if _, err := io.ReadFull(st, b); err != nil || string(b) != request("curl/8") {
			t.Errorf("the client read %q, %v", b, err)
		}
		// Looks like one, but from elsewhere.
		_, _ = io.WriteString(p.dial(t, podAddr, netip.MustParseAddr("10.78.0.3")), request("kube-probe/1.37"))
		st, in := c.incoming(t)
		if in.Peer.Addr().String() != "10.78.0.3" {
			t.Errorf("incoming %+v", in)
		}
		reply(t, st, wire.Errno(syscall.ECONNREFUSED))
		// Unless the client wants them.
		probed.TakeProbes = true
		c.subscribe(t, probed)
		_, _ = io.WriteString(p.dial(t, podAddr, nodeAddr), request("kube-probe/1.37"))
		st, in = c.incoming(t)
		if in.Peer.Addr() != nodeAddr {
			t.Errorf("incoming %+v", in)
		}
		reply(t, st, wire.Errno(syscall.ECONNREFUSED))
	})

	t.Run("probes that are under way", func(t *testing.T) {
		c := a.client(t)
		under := p.dial(t, podAddr, netip.Addr{}) // from the gateway
		other := p.dial(t, podAddr, netip.MustParseAddr("10.78.0.3"))
		mustAsk(t, under, "x", "target")
		mustAsk(t, other, "x", "target")
		withProbes := steal
		withProbes.Probes = []wire.Probe{{Kind: wire.ProbeHTTP}}
		if r := c.subscribe(t, withProbes); r.Moved != 1 {
			t.Errorf("%d connections moved, want 1", r.Moved)
		}
		mustAsk(t, under, "y", "target")
		eventually(t, func() error {
			if _, err := ask(under, "y"); err == nil {
				return errors.New("it stays with the target for good")
			}
			return nil
		})
		_ = c.tun.Close()
	})

	t.Run("many at once", func(t *testing.T) {
		c := a.client(t)
		c.answering(t, "local")
		c.subscribe(t, steal)
		var all sync.WaitGroup
		for range 200 {
			conn := p.dial(t, podAddr, netip.Addr{})
			all.Go(func() {
				defer conn.Close()
				if got, err := ask(conn, "x"); got != "local" || err != nil {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
		all.Wait()
	})

	t.Run("resets pass both ways", func(t *testing.T) {
		c := a.client(t)
		c.subscribe(t, steal)
		conn := p.dial(t, podAddr, netip.Addr{})
		st, _ := c.incoming(t)
		reply(t, st, 0)
		// Once the answer has arrived: a reset before it hands the connection to the target.
		_, _ = io.WriteString(st, "x")
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		_ = st.Reset()
		if _, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after a reset by the client: %v", err)
		}
		conn = p.dial(t, podAddr, netip.Addr{})
		st, _ = c.incoming(t)
		reply(t, st, 0)
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
		if _, err := io.ReadAll(st); !isReset(err) {
			t.Errorf("after a reset by the peer: %v", err)
		}
	})

	t.Run("goodbye", func(t *testing.T) {
		c := a.client(t)
		c.subscribe(t, steal)
		_ = wire.WriteControl(c.st, wire.Control{Goodbye: &wire.Goodbye{}})
		c.ended(t)
		if err := a.wait(t); err != nil {
			t.Errorf("Run: %v", err)
		}
		if got := p.answer(t, "x"); got != "target" {
			t.Errorf("%q answers", got)
		}
	})
}

func TestMirror(t *testing.T) {
	self, ok := testnet.Isolated(t)
	if !ok {
		return
	}
	p := newPod(t, self)
	a := run(t, nil)
	c := a.client(t)
	if c.welcome.MirrorProblem != "" {
		t.Fatal(c.welcome.MirrorProblem)
	}
	c.subscribe(t, wire.Subscribe{Port: 8080, Mode: wire.Mirror})
	conn := p.dial(t, podAddr, netip.Addr{})
	mustAsk(t, conn, "first", "target")
	mustAsk(t, conn, "second", "target")
	st, in := c.incoming(t)
	if in.Mode != wire.Mirror || in.Local != podAddr || in.Peer != addrPort(conn.LocalAddr()) {
		t.Errorf("incoming %+v", in)
	}
	reply(t, st, 0)
	_ = conn.Close()
	if b, err := io.ReadAll(st); string(b) != "first\nsecond\n" || err != nil {
		t.Errorf("the copy is %q, %v", b, err)
	}
	_ = st.Close()

	// A client that refuses, resets, or goes costs the target nothing.
	for name, f := range map[string]func(){
		"refuses": func() { st, _ := c.incoming(t); reply(t, st, wire.Errno(syscall.ECONNREFUSED)) },
		"resets":  func() { st, _ := c.incoming(t); reply(t, st, 0); _ = st.Reset() },
	} {
		conn := p.dial(t, podAddr, netip.Addr{})
		mustAsk(t, conn, "x", "target")
		f()
		for range 3 {
			if got, err := ask(conn, "y"); got != "target" || err != nil {
				t.Errorf("a client that %s: %q, %v", name, got, err)
			}
		}
		_ = conn.Close()
	}

	// From mirror to steal and back, and then nothing.
	c.subscribe(t, wire.Subscribe{Port: 8080, Mode: wire.Steal})
	conn = p.dial(t, podAddr, netip.Addr{})
	for {
		st, in := c.incoming(t)
		reply(t, st, 0)
		if in.Peer != addrPort(conn.LocalAddr()) {
			continue // a connection of before, joined late
		}
		if in.Mode != wire.Steal {
			t.Errorf("incoming %+v", in)
		}
		break
	}
	c.subscribe(t, wire.Subscribe{Port: 8080, Mode: wire.Mirror})
	conn = p.dial(t, podAddr, netip.Addr{})
	mustAsk(t, conn, "x", "target")
	if _, in := c.incoming(t); in.Mode != wire.Mirror {
		t.Errorf("incoming %+v", in)
	}
	_ = c.carrier.Close()
	c.ended(t)
	mustAsk(t, conn, "y", "target")
}

// brokenSteal can't give ports back one by one.
type brokenSteal struct {
	stealer
	closed chan struct{}
}

func (b *brokenSteal) Release(uint16) error { return errors.New("the rule is stuck") }

func (b *brokenSteal) Close() error {
	defer close(b.closed)
	return b.stealer.Close()
}

func (b *brokenSteal) Flush(uint16, func(netip.Addr) bool) (int, error) {
	return 0, errors.New("no such right")
}

// TestStuckPort shows that a port which can't be given back takes the whole stealing down,
// and that the next session begins anew.
func TestStuckPort(t *testing.T) {
	self, ok := testnet.Isolated(t)
	if !ok {
		return
	}
	p := newPod(t, self)
	closed := make(chan struct{})
	first := true
	a := run(t, func(c *Config) {
		c.openMirror = noMirror
		c.openSteal = func(log *slog.Logger) (stealer, error) {
			s, err := openSteal(log)
			if !first || err != nil {
				return s, err
			}
			first = false
			return &brokenSteal{stealer: s, closed: closed}, nil
		}
	})
	c := a.client(t)
	for _, port := range []uint16{8080, 8081} {
		if r := c.subscribe(t, wire.Subscribe{Port: port, Mode: wire.Steal}); r.Moved != 0 {
			t.Errorf("result %+v", r)
		}
	}
	for len(c.notices) == 0 {
		if m := c.read(t); m.Notice != nil {
			c.notices = append(c.notices, *m.Notice)
		}
	}
	if n := c.notices[0]; n.Level != "warning" || n.Port != 8080 || !strings.Contains(n.Text, "no such right") {
		t.Errorf("notice %+v", n)
	}
	c.request(t, wire.Control{Unsubscribe: &wire.Unsubscribe{Port: 8081}})
	<-closed
	if got := p.answer(t, "x"); got != "target" {
		t.Errorf("%q answers", got)
	}
	_ = c.tun.Close()
	c = a.client(t)
	c.subscribe(t, wire.Subscribe{Port: 8080, Mode: wire.Steal})
	conn := p.dial(t, podAddr, netip.Addr{})
	st, _ := c.incoming(t)
	reply(t, st, 0)
	_, _ = io.WriteString(conn, "x\n")
	if line, err := readLine(st); line != "x" || err != nil {
		t.Errorf("the next session: %q, %v", line, err)
	}
}

func TestTooMany(t *testing.T) {
	in := newIncoming(slog.New(slog.DiscardHandler), nil, nil, restAfter)
	one, other := &link{}, &link{}
	one.taken.Store(maxTaken)
	if err := in.enter(one); !errors.Is(err, errTooMany) {
		t.Errorf("enter at a session's limit: %v", err)
	}
	if err := in.enter(other); err != nil {
		t.Errorf("enter for another session: %v", err)
	}
	in.leave(other)
	in.active = maxAllTaken
	for _, l := range []*link{other, nil} {
		if err := in.enter(l); !errors.Is(err, errTooMany) {
			t.Errorf("enter at the limit: %v", err)
		}
	}
	in.leave(nil)
	if err := in.enter(other); err != nil {
		t.Errorf("enter below the limit: %v", err)
	}
	in.active = 0
	in.close(0)
	if err := in.enter(nil); !errors.Is(err, errClosing) {
		t.Errorf("enter after close: %v", err)
	}
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}
