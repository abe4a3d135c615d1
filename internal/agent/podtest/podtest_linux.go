// Package podtest gives tests a pod: a process of their own in a fresh network namespace,
// joined by a veth pair to the namespace of a client. Only tests import it.
package podtest

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// envInPod tells a re-executed test binary that it is in its namespace.
const envInPod = "PODTEST_IN_POD"

// IPs are the addresses of the pod and its client, of each family.
type IPs struct{ V4, V6 netip.Addr }

// Pod is what [Run] gives to a test.
type Pod struct {
	// Pod and Client are the addresses of the two ends of the veth pair, each named eth0.
	Pod, Client IPs

	client netns.NsHandle
}

// Run runs body in a process of its own that lives in a fresh network namespace; clone are
// more flags of clone(2), such as CLONE_NEWUSER. It skips the test without root. A test
// calls it once, before anything else.
func Run(t *testing.T, clone uintptr, body func(*testing.T, *Pod)) {
	t.Helper()
	if os.Getenv(envInPod) != "" {
		body(t, newPod(t))
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe",
		"-test.run=^"+regexp.QuoteMeta(t.Name())+"$", "-test.v", "-test.timeout=9m")
	cmd.Env = append(os.Environ(), envInPod+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | clone, Pdeathsig: syscall.SIGKILL}
	if clone&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in the pod: %v\n%s", err, out)
	}
	if testing.Verbose() {
		t.Logf("in the pod:\n%s", out)
	}
}

func newPod(t *testing.T) *Pod {
	t.Helper()
	p := &Pod{
		Pod:    IPs{netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("fd77::2")},
		Client: IPs{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1")},
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pod, err := netns.Get()
	check(t, err)
	defer pod.Close()
	p.client, err = netns.New()
	check(t, err)
	check(t, netns.Set(pod))
	t.Cleanup(func() { p.client.Close() })
	check(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(p.client)),
	}))
	configure(t, pod, p.Pod)
	configure(t, p.client, p.Client)
	return p
}

// configure brings lo and eth0 of a namespace up.
func configure(t *testing.T, ns netns.NsHandle, ips IPs) {
	t.Helper()
	h, err := netlink.NewHandleAt(ns)
	check(t, err)
	defer h.Close()
	for _, name := range []string{"lo", "eth0"} {
		l, err := h.LinkByName(name)
		check(t, err)
		check(t, h.LinkSetUp(l))
	}
	eth, err := h.LinkByName("eth0")
	check(t, err)
	for _, n := range []netip.Prefix{netip.PrefixFrom(ips.V4, 24), netip.PrefixFrom(ips.V6, 64)} {
		check(t, h.AddrAdd(eth, &netlink.Addr{
			IPNet: &net.IPNet{IP: n.Addr().AsSlice(), Mask: net.CIDRMask(n.Bits(), n.Addr().BitLen())},
			Flags: unix.IFA_F_NODAD,
		}))
	}
}

// Dial connects from the client's namespace, or, to a loopback address, from the pod.
func (p *Pod) Dial(ctx context.Context, dst netip.AddrPort) (c net.Conn, err error) {
	var d net.Dialer
	if dst.Addr().IsLoopback() {
		return d.DialContext(ctx, "tcp", dst.String())
	}
	ierr := p.InClient(func() { c, err = d.DialContext(ctx, "tcp", dst.String()) })
	if ierr != nil {
		return nil, ierr
	}
	return c, err
}

// ClientNS is a descriptor of the client's network namespace.
func (p *Pod) ClientNS() int { return int(p.client) }

// InClient runs f on a thread that is in the client's network namespace.
func (p *Pod) InClient(f func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pod, err := netns.Get()
	if err != nil {
		return err
	}
	defer pod.Close()
	if err := netns.Set(p.client); err != nil {
		return err
	}
	defer func() {
		if err := netns.Set(pod); err != nil {
			panic(err) // A thread in the wrong namespace would spoil every later test.
		}
	}()
	f()
	return nil
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
