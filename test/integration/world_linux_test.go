package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/agent/testnet"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

// Addresses of the world. Nothing leads there from the laptop.
var (
	podIP     = netip.MustParseAddr("10.9.0.2")
	podIP6    = netip.MustParseAddr("fd09::2")
	clusterIP = netip.MustParseAddr("10.9.0.1")
	cluster6  = netip.MustParseAddr("fd09::1")
	dnsIP     = netip.MustParseAddr("10.9.0.53")

	service    = netip.AddrPortFrom(clusterIP, 7000) // says who asks, over TCP and UDP
	service6   = netip.AddrPortFrom(cluster6, 7000)
	sink       = netip.AddrPortFrom(clusterIP, 7001) // counts what it gets, over TCP and UDP
	echo       = netip.AddrPortFrom(clusterIP, 7002) // sends datagrams back
	echo6      = netip.AddrPortFrom(cluster6, 7002)
	closedPort = netip.AddrPortFrom(clusterIP, 7999)
	podApp     = netip.AddrPortFrom(podIP, 8080)
	podApp6    = netip.AddrPortFrom(podIP6, 8080)
	laptopDNS  = netip.MustParseAddrPort("127.0.0.1:53")
)

// world is a pod and the cluster around it; the test's own process is the laptop.
type world struct {
	t       *testing.T
	dir     string
	agent   string // the binary
	pod     *testnet.Namespace
	cluster *testnet.Namespace
	app     *exec.Cmd // the pod's process
	sunk    chan int  // bytes of each connection or datagram to the sink
	signed  *signed   // what the cluster's name server knows besides
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), pod: testnet.New(t), cluster: testnet.New(t), sunk: make(chan int, 100)}
	w.buildAgent()
	w.laptopAddress()
	testnet.Cable(t, w.pod, w.cluster,
		[]netip.Prefix{netip.PrefixFrom(podIP, 24), netip.PrefixFrom(podIP6, 64)},
		[]netip.Prefix{netip.PrefixFrom(clusterIP, 24), netip.PrefixFrom(dnsIP, 24), netip.PrefixFrom(cluster6, 64)})
	w.in(w.cluster, func() {
		w.serveTCP(service)
		w.serveTCP(service6)
		w.serveUDP(service, saw)
		w.serveSink()
		w.serveUDP(echo, same)
		w.serveUDP(echo6, same)
		w.signed = newSigned(t)
		w.serveDNS(netip.AddrPortFrom(dnsIP, 53), w.signed, map[string]string{
			"shop.demo.svc.cluster.local.": clusterIP.String(),
			"api.partner.example.":         "192.0.2.7",
		})
	})
	w.serveDNS(laptopDNS, nil, map[string]string{"printer.office.example.": "192.0.2.99"})
	w.startPod()
	return w
}

func (w *world) buildAgent() {
	w.t.Helper()
	w.agent = filepath.Join(w.dir, "mirrord-agent")
	cmd := exec.CommandContext(w.t.Context(), "go", "build", "-o", w.agent, "github.com/mirrord-go/mirrord/cmd/mirrord-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("building the agent: %v\n%s", err, out)
	}
}

// in runs f in a namespace; sockets that it opens stay there.
func (w *world) in(n *testnet.Namespace, f func()) {
	w.t.Helper()
	n.Must(w.t, func() error { f(); return nil })
}

// serveTCP answers every connection with the address that it came from.
func (w *world) serveTCP(at netip.AddrPort) {
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = l.Close() })
	go answer(l, "service")
}

// answer tells each connection, line by line, who it came from and what was heard.
func answer(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for s := bufio.NewScanner(c); s.Scan(); {
				if _, err := fmt.Fprintf(c, "%s saw %s: %s\n", name, host(c.RemoteAddr()), s.Text()); err != nil {
					return
				}
			}
		}()
	}
}

func host(a net.Addr) string {
	h, _, _ := net.SplitHostPort(a.String())
	return strings.TrimPrefix(h, "::ffff:")
}

// serveUDP answers each datagram.
func (w *world) serveUDP(at netip.AddrPort, answer func(from net.Addr, datagram []byte) []byte) {
	c, err := net.ListenPacket("udp", at.String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	go func() {
		b := make([]byte, 65535)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(answer(from, b[:n]), from)
		}
	}()
}

// saw says whom the service saw.
func saw(from net.Addr, datagram []byte) []byte {
	return fmt.Appendf(nil, "service saw %s: %s\n", host(from), datagram)
}

// same is an echo.
func same(_ net.Addr, datagram []byte) []byte { return datagram }

// serveSink counts.
func (w *world) serveSink() {
	l, err := net.Listen("tcp", sink.String())
	if err != nil {
		w.t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", sink.String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = l.Close(); _ = pc.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n, err := io.Copy(io.Discard, c)
			if err != nil {
				n = -1
			}
			_ = c.Close()
			w.sunk <- int(n)
		}
	}()
	go func() {
		b := make([]byte, 65535)
		for {
			n, _, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			w.sunk <- n
		}
	}()
}

// laptopAddress gives the laptop an address beside 127.0.0.1, as every laptop has; the C
// library takes one without for a machine without IPv4. It leads nowhere.
func (w *world) laptopAddress() {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(198, 51, 100, 7), Mask: net.CIDRMask(32, 32)}})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// serveDNS is a name server over UDP and TCP that knows A and TXT records of some names, and a signed zone, which may be nil.
func (w *world) serveDNS(at netip.AddrPort, zone *signed, names map[string]string) {
	handler := dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
		if zone.answer(rw, q) {
			return
		}
		m := new(dns.Msg)
		m.SetReply(q)
		name := q.Question[0].Name
		ip, ok := names[strings.ToLower(name)]
		header := dns.RR_Header{Name: name, Class: dns.ClassINET, Rrtype: q.Question[0].Qtype, Ttl: 5}
		switch {
		case !ok:
			m.Rcode = dns.RcodeNameError
		case q.Question[0].Qtype == dns.TypeA:
			m.Answer = []dns.RR{&dns.A{Hdr: header, A: net.ParseIP(ip)}}
		case q.Question[0].Qtype == dns.TypeTXT:
			m.Answer = []dns.RR{&dns.TXT{Hdr: header, Txt: []string{"text of " + name}}}
		}
		_ = rw.WriteMsg(m)
	})
	pc, err := net.ListenPacket("udp", at.String())
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		w.t.Cleanup(func() { _ = s.Shutdown() })
	}
}

// startPod starts the pod's application, with a resolv.conf of its own.
func (w *world) startPod() {
	w.t.Helper()
	resolv := filepath.Join(w.dir, "resolv.conf")
	text := fmt.Sprintf("nameserver %s\nsearch demo.svc.cluster.local svc.cluster.local\noptions ndots:5\n", dnsIP)
	if err := os.WriteFile(resolv, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	w.app = exec.Command(os.Args[0], "pod", resolv)
	w.app.Env = []string{childEnv + "=1", "FROM_POD=yes", "PATH=/pod"}
	w.app.Stderr = os.Stderr
	w.app.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := w.app.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	// The parent-death signal follows the thread, so that one has to live as long as we do.
	started, done := make(chan error), make(chan struct{})
	go func() {
		_ = w.pod.Do(func() error {
			started <- w.app.Start()
			<-done
			return nil
		})
	}()
	if err := <-started; err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = w.app.Process.Kill()
		_ = w.app.Wait()
		close(done)
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		w.t.Fatalf("the pod's application said %q, %v", line, err)
	}
}

// runPod is the pod's application.
func runPod(resolv string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return err
	}
	if err := unix.Mount(resolv, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting resolv.conf: %w", err)
	}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", podApp.Port()))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	answer(l, "pod")
	return nil
}

// dialFrom connects from a namespace.
func (w *world) dialFrom(n *testnet.Namespace, dst netip.AddrPort) (c net.Conn, err error) {
	err = n.Do(func() (err error) {
		c, err = (&net.Dialer{Timeout: patience}).Dial("tcp", dst.String())
		return err
	})
	return c, err
}

// ask sends a line to the pod's port as a client in the cluster and returns the answer.
func (w *world) ask(dst netip.AddrPort, line string) (string, error) {
	c, err := w.dialFrom(w.cluster, dst)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return askOn(c, line)
}

func askOn(c net.Conn, line string) (string, error) {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	s, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSuffix(s, "\n"), err
}

// within waits for f to succeed.
func within(t *testing.T, d time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("after %v: %v", d, err)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// podServes checks that the pod itself answers its clients, soon.
func (w *world) podServes(t *testing.T) {
	t.Helper()
	within(t, patience, func() error {
		got, err := w.ask(podApp, "hello")
		if err == nil && got != fmt.Sprintf("pod saw %s: hello", clusterIP) {
			err = fmt.Errorf("the answer is %q", got)
		}
		return err
	})
}

// output collects what a process prints and lets a test wait for a line of it.
type output struct {
	mu    sync.Mutex
	lines []string
	more  chan struct{}
	done  chan struct{} // closed at its end
}

func newOutput(r io.Reader) *output {
	o := &output{more: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(o.done)
		for s := bufio.NewScanner(r); s.Scan(); {
			o.mu.Lock()
			o.lines = append(o.lines, s.Text())
			close(o.more)
			o.more = make(chan struct{})
			o.mu.Unlock()
		}
	}()
	return o
}

func (o *output) all() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.lines...)
}

// await waits for a line.
func (o *output) await(ctx context.Context, want string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		o.mu.Lock()
		more, lines := o.more, o.lines
		o.mu.Unlock()
		for _, l := range lines {
			if l == want {
				return nil
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), fmt.Errorf("no line %q in %q", want, lines))
		}
	}
}
