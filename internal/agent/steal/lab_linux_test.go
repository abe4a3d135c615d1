package steal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// Environment variables that tell a re-executed test binary what it is.
const (
	envInPod = "STEAL_TEST_IN_POD"
	envHold  = "STEAL_TEST_HOLD" // a backend: hold a steal until killed
)

const (
	podPort   = 8080
	otherPort = 8081
)

var (
	podIP4    = netip.MustParseAddr("10.77.0.2")
	podIP6    = netip.MustParseAddr("fd77::2")
	clientIP4 = netip.MustParseAddr("10.77.0.1")
	clientIP6 = netip.MustParseAddr("fd77::1")
	loop4     = netip.MustParseAddr("127.0.0.1")
	loop6     = netip.MustParseAddr("::1")
)

func TestMain(m *testing.M) {
	if b := os.Getenv(envHold); b != "" {
		hold(Backend(b))
		return
	}
	goleak.VerifyTestMain(m)
}

// lab is a pod's network namespace, which the test process lives in, joined by a veth pair
// to a client's.
type lab struct{ client netns.NsHandle }

// inPod runs body in a process of its own that lives in a fresh network namespace.
func inPod(t *testing.T, clone uintptr, body func(*testing.T, *lab)) {
	t.Helper()
	if os.Getenv(envInPod) != "" {
		body(t, newLab(t))
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+regexp.QuoteMeta(t.Name())+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), envInPod+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | clone, Pdeathsig: syscall.SIGKILL}
	if clone&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in the pod: %v\n%s", err, out)
	}
	if testing.Verbose() {
		t.Logf("in the pod:\n%s", out)
	}
}

func newLab(t *testing.T) *lab {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pod, err := netns.Get()
	must(err)
	defer pod.Close()
	client, err := netns.New()
	must(err)
	must(netns.Set(pod))
	t.Cleanup(func() { client.Close() })

	must(netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(client)),
	}))
	for _, side := range []struct {
		ns  netns.NsHandle
		ips []netip.Addr
	}{{pod, []netip.Addr{podIP4, podIP6}}, {client, []netip.Addr{clientIP4, clientIP6}}} {
		h, err := netlink.NewHandleAt(side.ns)
		must(err)
		lo, err := h.LinkByName("lo")
		must(err)
		must(h.LinkSetUp(lo))
		eth, err := h.LinkByName("eth0")
		must(err)
		must(h.LinkSetUp(eth))
		for _, ip := range side.ips {
			bits := 24
			if ip.Is6() {
				bits = 64
			}
			must(h.AddrAdd(eth, &netlink.Addr{
				IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(bits, ip.BitLen())}, Flags: unix.IFA_F_NODAD,
			}))
		}
		h.Close()
	}
	return &lab{client: client}
}

// dial connects from the client's namespace, or from the pod for its loopback.
func (l *lab) dial(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	if dst.Addr().IsLoopback() {
		return d.DialContext(ctx, "tcp", dst.String())
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pod, err := netns.Get()
	if err != nil {
		return nil, err
	}
	defer pod.Close()
	if err := netns.Set(l.client); err != nil {
		return nil, err
	}
	defer func() {
		if err := netns.Set(pod); err != nil {
			panic(err) // A thread in the wrong namespace spoils every later test.
		}
	}()
	return d.DialContext(ctx, "tcp", dst.String())
}

// httpClient returns a client that connects from the client's namespace.
func (l *lab) httpClient(t *testing.T, keepAlive bool) *http.Client {
	tr := &http.Transport{
		DisableKeepAlives:   !keepAlive,
		MaxIdleConnsPerHost: 64,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return l.dial(ctx, netip.MustParseAddrPort(addr))
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

func get(c *http.Client, dst netip.AddrPort) (string, error) {
	resp, err := c.Get("http://" + dst.String() + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// wantFrom checks who answers dst: "app" or "agent".
func wantFrom(t *testing.T, c *http.Client, dst netip.AddrPort, want string) string {
	t.Helper()
	got, err := get(c, dst)
	if err != nil {
		t.Fatalf("%v: %v", dst, err)
	}
	if name, _, _ := strings.Cut(got, " "); name != want {
		t.Fatalf("%v was answered by %q, want %q", dst, got, want)
	}
	return got
}

func serve(t *testing.T, ln net.Listener, name string) {
	t.Helper()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		fmt.Fprintf(w, "%s %s %s", name, r.RemoteAddr, local)
	})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}()
	t.Cleanup(func() { srv.Close(); <-ended })
}

// app serves as the pod's application until the test ends.
func app(t *testing.T, network, addr string) {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, ln, "app")
}

// acceptor makes a Stealer a net.Listener.
type acceptor struct{ *Stealer }

func (a acceptor) Accept() (net.Conn, error) { return a.Stealer.Accept() }
func (a acceptor) Addr() net.Addr            { return a.listeners[0].Addr() }

func open(t *testing.T, b Backend) *Stealer {
	t.Helper()
	s, err := Open(slog.New(slog.DiscardHandler), Options{Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func steal(t *testing.T, s *Stealer, port uint16) {
	t.Helper()
	if err := s.Steal(port); err != nil {
		t.Fatal(err)
	}
}

// hold is the process of [TestKill]: it steals, answers as the agent, and never ends.
func hold(b Backend) {
	s, err := Open(slog.New(slog.DiscardHandler), Options{Backend: b})
	if err == nil {
		err = s.Steal(podPort)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("holding")
	err = http.Serve(acceptor{s}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "agent "+r.RemoteAddr)
	}))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func startHolding(t *testing.T, b Backend) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), envHold+"="+string(b))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "holding\n" {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("the holder said %q, %v", line, err)
	}
	return cmd
}
