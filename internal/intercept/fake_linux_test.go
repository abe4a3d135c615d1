//go:build amd64 || arm64

package intercept

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// The addresses of the fake target. Everything else is local.
//
//	198.51.100.1, 2001:db8::1    the servers of the test, on loopback
//	198.51.100.2                 the same, as far away as fakeTarget says
//	198.51.100.3, 198.51.100.4   the same; the first lets go on what waits for a gate, the second waits until something does
//	198.51.100.61 ... 64         fail with the errno of failures
//	198.51.100.65                never answers
//	198.51.100.53                a name server, and every port 53
//	198.51.100.66                refused by Route with EPERM
var (
	targetPrefixes = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	failures       = map[string]syscall.Errno{
		"198.51.100.61": syscall.ECONNREFUSED,
		"198.51.100.62": syscall.ETIMEDOUT,
		"198.51.100.63": syscall.EHOSTUNREACH,
		"198.51.100.64": syscall.ENETUNREACH,
		"2001:db8::61":  syscall.ECONNREFUSED,
	}
)

// fakeTarget is a Network below which there are real servers on loopback.
type fakeTarget struct {
	// far is the delay of 198.51.100.2; with a gate, each connection to it takes something from that instead.
	far     time.Duration
	gate    chan struct{}
	waiting atomic.Int32 // at the gate
	// folder is what is the target's /target. Its abstract names start with
	// "target".
	folder string

	mu        sync.Mutex
	listening []netip.AddrPort
	onListen  func(netip.AddrPort)
	onBind    func(netip.AddrPort) Binding
	loopback  bool     // goes to the target too
	moved     []string // what Moved said
	sockets   int      // UDP sockets open at the target
}

func (n *fakeTarget) Route(p Protocol, dst netip.AddrPort) (Verdict, error) {
	if dst.Addr().Is4In6() {
		panic("a mapped address: " + dst.String())
	}
	switch {
	case dst.Port() == 53:
		return Resolve, nil
	case n.loopback && dst.Addr().IsLoopback():
		return Remote, nil
	case dst.Addr().String() == "198.51.100.66":
		return Refuse, syscall.EPERM
	case slices.ContainsFunc(targetPrefixes, func(p netip.Prefix) bool { return p.Contains(dst.Addr()) }):
		return Remote, nil
	}
	return Local, nil
}

func (n *fakeTarget) ResolvesNames() bool { return true }

func (n *fakeTarget) RouteUnix(name string) Verdict {
	if strings.HasPrefix(name, "/target/") || strings.HasPrefix(name, "@target") {
		return Remote
	}
	return Local
}

// DialUnix finds what only the laptop has in the path's own place.
func (n *fakeTarget) DialUnix(ctx context.Context, packets bool, name string) (UnixConn, error) {
	network := "unix"
	if packets {
		network = "unixpacket"
	}
	real := name
	if path, ok := strings.CutPrefix(name, "/target/"); ok {
		real = filepath.Join(n.folder, path)
		switch path {
		case "fallback":
			return nil, ErrLocal
		case "never":
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}
	c, err := net.Dial(network, real)
	if err != nil {
		return nil, err
	}
	return fakeUnix{c.(*net.UnixConn)}, nil
}

type fakeUnix struct{ *net.UnixConn }

// Join copies messages, which are small here, and bytes alike.
func (u fakeUnix) Join(ctx context.Context, near *net.UnixConn) {
	stop := context.AfterFunc(ctx, func() { _ = near.Close(); _ = u.Close() })
	defer stop()
	move := func(dst, src *net.UnixConn) {
		b := make([]byte, 1<<16)
		for {
			n, err := src.Read(b)
			if n == 0 || err != nil {
				_ = dst.CloseWrite()
				return
			}
			_, _ = dst.Write(b[:n])
		}
	}
	var both sync.WaitGroup
	both.Go(func() { move(near, u.UnixConn) })
	both.Go(func() { move(u.UnixConn, near) })
	both.Wait()
	_, _ = near.Close(), u.Close()
}

// realAddr is where a server of the target really is.
func realAddr(dst netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(loopbackLike(dst.Addr()), dst.Port())
}

func (n *fakeTarget) DialTCP(ctx context.Context, dst netip.AddrPort) (Conn, error) {
	switch a := dst.Addr().String(); a {
	case "198.51.100.65":
		<-ctx.Done()
		return nil, ctx.Err()
	case "198.51.100.2":
		if err := n.arrive(ctx); err != nil {
			return nil, err
		}
	case "198.51.100.3":
		n.gate <- struct{}{}
	case "198.51.100.4":
		for n.waiting.Load() == 0 {
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	default:
		if e, ok := failures[a]; ok {
			return nil, &net.OpError{Op: "dial", Err: e}
		}
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", realAddr(dst).String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// newGate is room for more than any program lets go on at a time.
func newGate() chan struct{} { return make(chan struct{}, 16) }

// arrive takes the time that 198.51.100.2 is away.
func (n *fakeTarget) arrive(ctx context.Context) error {
	var delay <-chan time.Time
	if n.gate == nil {
		delay = time.After(n.far)
	}
	n.waiting.Add(1)
	defer n.waiting.Add(-1)
	select {
	case <-n.gate:
	case <-delay:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

func (n *fakeTarget) OpenUDP(context.Context) (PacketConn, error) {
	p := &fakePackets{target: n, in: make(chan fakePacket, 64), done: make(chan struct{})}
	for _, a := range []string{"127.0.0.1:0", "[::1]:0"} {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(a)))
		if err != nil {
			return nil, err
		}
		p.conns = append(p.conns, c)
		p.wg.Go(func() { p.read(c) })
	}
	n.mu.Lock()
	n.sockets++
	n.mu.Unlock()
	return p, nil
}

func (n *fakeTarget) openSockets() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sockets
}

type fakePacket struct {
	b   []byte
	src netip.AddrPort
	err error
}

// fakePackets shows the servers of loopback under the target's addresses.
type fakePackets struct {
	target *fakeTarget
	conns  []*net.UDPConn
	in     chan fakePacket
	done   chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
}

func (p *fakePackets) read(c *net.UDPConn) {
	for {
		b := make([]byte, 1<<16)
		n, src, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		shown := netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), src.Port())
		if src.Addr().Unmap().Is6() {
			shown = netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), src.Port())
		}
		select {
		case p.in <- fakePacket{b: b[:n], src: shown}:
		case <-p.done:
			return
		}
	}
}

func (p *fakePackets) WriteTo(b []byte, dst netip.AddrPort) error {
	if e, ok := failures[dst.Addr().String()]; ok {
		select {
		case p.in <- fakePacket{err: &DatagramError{Addr: dst, Err: e}}:
		case <-p.done:
		}
		return nil
	}
	c := p.conns[0]
	if dst.Addr().Is6() {
		c = p.conns[1]
	}
	_, err := c.WriteToUDPAddrPort(b, realAddr(dst))
	return err
}

func (p *fakePackets) ReadFrom() ([]byte, netip.AddrPort, error) {
	select {
	case k := <-p.in:
		return k.b, k.src, k.err
	case <-p.done:
		return nil, netip.AddrPort{}, net.ErrClosed
	}
}

func (p *fakePackets) Close() error {
	p.once.Do(func() {
		close(p.done)
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.wg.Wait()
		p.target.mu.Lock()
		p.target.sockets--
		p.target.mu.Unlock()
	})
	return nil
}

// Exchange knows the names below test., which are all 198.51.100.1 and 2001:db8::1.
func (n *fakeTarget) Exchange(_ context.Context, stream bool, _ netip.AddrPort, query []byte) ([]byte, error) {
	var q dns.Msg
	if err := q.Unpack(query); err != nil {
		return nil, err
	}
	a := new(dns.Msg).SetReply(&q)
	a.RecursionAvailable = true
	name := q.Question[0].Name
	h := dns.RR_Header{Name: name, Class: dns.ClassINET, Ttl: 5}
	switch {
	case name == "silent.test.":
		return nil, errors.New("not answered")
	case !strings.HasSuffix(name, ".test."):
		a.Rcode = dns.RcodeNameError
	case q.Question[0].Qtype == dns.TypeA:
		h.Rrtype = dns.TypeA
		a.Answer = append(a.Answer, &dns.A{Hdr: h, A: net.IPv4(198, 51, 100, 1)})
	case q.Question[0].Qtype == dns.TypeTXT:
		h.Rrtype = dns.TypeTXT
		text := "datagram"
		if stream {
			text = "stream"
		}
		a.Answer = append(a.Answer, &dns.TXT{Hdr: h, Txt: []string{text}})
	}
	return a.Pack()
}

func (n *fakeTarget) Listening(addr netip.AddrPort) {
	n.mu.Lock()
	n.listening = append(n.listening, addr)
	f := n.onListen
	n.mu.Unlock()
	if f != nil {
		f(addr)
	}
}

// run is a program under interception.
type run struct {
	*process
	out    *output
	copied chan struct{} // closed at the end of the output
	t      *testing.T
}

// output collects what a program writes.
type output struct {
	mu   sync.Mutex
	b    bytes.Buffer
	more chan struct{} // closed and replaced with each write
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.more)
	o.more = make(chan struct{})
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

const testTime = 2 * time.Minute

func testTimes() times {
	return times{sweep: 100 * time.Millisecond, idle: 2 * time.Minute, announce: 5 * time.Second}
}

// launch starts a program whose output is collected, and ends it with the test.
func launch(t *testing.T, n Network, change func(*Options, *times), argv ...string) *run {
	t.Helper()
	needNamespace(t)
	path, err := exec.LookPath(argv[0])
	if err != nil {
		t.Skipf("%s is not installed", argv[0])
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Path: path, Args: argv, Env: os.Environ(), Stdout: pw, Stderr: pw, Network: n, TranslatePeers: true}
	o.Env = slices.DeleteFunc(o.Env, func(v string) bool { return strings.HasPrefix(v, roleVar+"=") })
	tm := testTimes()
	if change != nil {
		change(&o, &tm)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	p, err := start(t.Context(), log, o, tm)
	_ = pw.Close()
	if err != nil {
		_ = pr.Close()
		t.Fatalf("start %v: %v", argv, err)
	}
	r := &run{process: p, out: &output{more: make(chan struct{})}, copied: make(chan struct{}), t: t}
	go func() {
		defer close(r.copied)
		_, _ = io.Copy(r.out, pr)
	}()
	t.Cleanup(func() {
		_ = p.Close()
		_ = pr.SetReadDeadline(time.Now().Add(time.Second)) // a daemon may hold the other end
		<-r.copied
		_ = pr.Close()
	})
	return r
}

// exit waits for the program and returns its code and output.
func (r *run) exit() (int, string) {
	r.t.Helper()
	done := make(chan struct{})
	var state *os.ProcessState
	go func() {
		defer close(done)
		state, _ = r.Wait()
	}()
	select {
	case <-done:
	case <-time.After(testTime):
		out := r.out.String()
		_ = r.Signal(syscall.SIGKILL)
		<-done
		r.t.Fatalf("the program did not end; its output:\n%s", out)
	}
	r.t.Logf("ended: %v", state)
	return state.ExitCode(), r.settledOutput()
}

// settledOutput is the output once the pipe has ended: what the program left behind may still write.
func (r *run) settledOutput() string {
	select {
	case <-r.copied:
	case <-time.After(testTime):
	}
	return r.out.String()
}

// succeed waits for exit code 0 and returns the output.
func (r *run) succeed() string {
	r.t.Helper()
	code, out := r.exit()
	if code != 0 {
		r.t.Fatalf("exit code %d; output:\n%s", code, out)
	}
	return out
}

// expect waits until the output contains the text.
func (r *run) expect(text string) {
	r.t.Helper()
	deadline := time.After(testTime)
	for {
		r.out.mu.Lock()
		have, more := r.out.b.String(), r.out.more
		r.out.mu.Unlock()
		if strings.Contains(have, text) {
			return
		}
		select {
		case <-more:
		case <-deadline:
			r.t.Fatalf("no %q in the output:\n%s", text, have)
		}
	}
}

// serveTCP runs a server of the target and returns its port.
func serveTCP(t *testing.T, network string, handle func(*net.TCPConn)) string {
	t.Helper()
	needNamespace(t)
	addr := "127.0.0.1:0"
	if network == "tcp6" {
		addr = "[::1]:0"
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func echo(c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
}

// serveUDP echoes datagrams, each with the sender's port before it when it begins with '?',
// and returns its port.
func serveUDP(t *testing.T, addr string) string {
	t.Helper()
	needNamespace(t)
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			answer := b[:n]
			if n > 0 && b[0] == '?' {
				_, port, _ := net.SplitHostPort(from.String())
				answer = []byte(port)
			}
			_, _ = c.WriteTo(answer, from)
		}
	}()
	t.Cleanup(func() { _ = c.Close(); <-done })
	_, port, _ := net.SplitHostPort(c.LocalAddr().String())
	return port
}

func testdata(name string) string {
	path, _ := filepath.Abs(filepath.Join("testdata", name))
	return path
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testTime); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so after %v: %s", testTime, what)
		}
	}
}
