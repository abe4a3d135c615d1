// Package testnet makes network namespaces for tests of the agent: a pod, its clients, and
// a cable between them. A namespace is gone with the test and everything that ran in it.
//
// Package podtest is for tests that are about one pod and run in it: its threads live on, and
// its pod has no default route.
package testnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Namespace is a network namespace with its loopback interface up.
type Namespace struct {
	handle netns.NsHandle
}

// New makes a namespace for t, and skips t where that takes rights we don't have.
func New(t testing.TB) *Namespace {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	n := &Namespace{handle: netns.None()}
	err := onOwnThread(func() (err error) {
		if n.handle, err = netns.New(); err != nil {
			return fmt.Errorf("making a network namespace: %w", err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.handle.Close() })
	return n
}

// Do runs f on a thread of the namespace: sockets that f opens and processes that f starts
// belong to it. It returns f's error.
func (n *Namespace) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("entering a network namespace: %w", err)
		}
		return f()
	})
}

// Must is Do for what has to succeed.
func (n *Namespace) Must(t testing.TB, f func() error) {
	t.Helper()
	if err := n.Do(f); err != nil {
		t.Fatal(err)
	}
}

// ID is the namespace's inode, as in the link /proc/PID/ns/net.
func (n *Namespace) ID(t testing.TB) string {
	t.Helper()
	var id string
	n.Must(t, func() (err error) {
		id, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	})
	return id
}

// Cable connects two namespaces: interface eth0 in each, with these addresses. Routes to
// the other's prefixes follow from the addresses, and a default route of a leads to b's
// first address of each family.
func Cable(t testing.TB, a, b *Namespace, aAddrs, bAddrs []netip.Prefix) {
	t.Helper()
	a.Must(t, func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(b.handle),
		})
	})
	a.Must(t, func() error { return plug(aAddrs) })
	b.Must(t, func() error { return plug(bAddrs) })
	a.Must(t, connected)
	b.Must(t, connected)
	a.Must(t, func() error {
		seen := map[int]bool{}
		for _, p := range bAddrs {
			if seen[p.Addr().BitLen()] {
				continue
			}
			seen[p.Addr().BitLen()] = true
			if err := netlink.RouteAdd(&netlink.Route{Gw: net.IP(p.Addr().AsSlice())}); err != nil {
				return fmt.Errorf("adding a default route: %w", err)
			}
		}
		return nil
	})
}

func plug(addrs []netip.Prefix) error {
	eth, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, p := range addrs {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			a.Flags = 0x02 // IFA_F_NODAD: usable at once
		}
		if err := netlink.AddrAdd(eth, a); err != nil {
			return fmt.Errorf("adding address %s: %w", p, err)
		}
	}
	return netlink.LinkSetUp(eth)
}

// connected waits until the kernel has noticed that both ends are up; before that, it drops what is sent.
func connected() error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		switch state := eth.Attrs().OperState; {
		case state == netlink.OperUp || state == netlink.OperUnknown:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("eth0 is %v a minute after both of its ends were set up", state)
		}
	}
}

// onOwnThread runs f on a thread that ends with it. That is never the main thread, which does
// not end, and whose namespaces /proc/self shows as those of the process.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if syscall.Gettid() == os.Getpid() {
			done <- onOwnThread(f) // while the main thread is held
			runtime.UnlockOSThread()
			return
		}
		done <- f() // never unlocked
	}()
	return <-done
}

const isolatedEnv = "MIRRORD_TEST_ISOLATED"

// Isolated runs the calling test in a process of its own whose threads are all in a fresh
// network namespace, as an agent's worker is in a pod's. In that process it returns the
// namespace and true, and the test goes on; in the original one it waits, reports how that
// went, and returns false: the test must return then.
func Isolated(t *testing.T) (*Namespace, bool) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	if os.Getenv(isolatedEnv) == t.Name() {
		h, err := netns.Get()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = h.Close() })
		return &Namespace{handle: h}, true
	}
	var out []byte
	New(t).Must(t, func() (err error) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+regexp.QuoteMeta(t.Name())+"$", "-test.v", "-test.timeout=9m")
		cmd.Env = append(os.Environ(), isolatedEnv+"="+t.Name())
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		cmd.WaitDelay = time.Minute // for what it has left running, with its output open
		if out, err = cmd.CombinedOutput(); errors.Is(err, exec.ErrWaitDelay) {
			err = fmt.Errorf("something that it has started still runs: %w", err)
		}
		if err != nil {
			return fmt.Errorf("in a namespace of its own: %w\n%s", err, out)
		}
		return nil
	})
	t.Logf("in a namespace of its own:\n%s", out)
	return nil, false
}
