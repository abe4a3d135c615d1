package machine

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/test/cluster/internal/layout"
)

// inOwnNetwork runs the test on a thread of its own, in a network namespace of its own, which stands for the machine.
// The thread ends with it.
func inOwnNetwork(t *testing.T, test func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make network namespaces")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked, so that the thread is thrown away
		ns, err := netns.New()
		if err != nil {
			t.Errorf("network namespace: %v", err)
			return
		}
		defer ns.Close()
		test()
	}()
	<-done
}

// sleeper starts a process in another network namespace, which stands for the node.
func sleeper(t *testing.T) int {
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Errorf("sleep: %v", err)
		return 0
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait() // killed
	})
	return cmd.Process.Pid
}

func routes(t *testing.T) []netlink.Route {
	t.Helper()
	list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Error(err)
	}
	return list
}

func TestConnectAndDisconnect(t *testing.T) {
	inOwnNetwork(t, func() {
		pid := sleeper(t)
		before := routes(t)
		r, err := FreeSlot(true)
		if err != nil || r.Slot != 0 {
			t.Errorf("free slot: %+v, %v", r, err)
			return
		}
		if err := Connect(pid, r); err != nil {
			t.Error(err)
			return
		}
		for _, dst := range []string{r.Pods().Addr().Next().String(), r.Services6().Addr().Next().String()} {
			got, err := netlink.RouteGet(net.ParseIP(dst))
			if err != nil || len(got) != 1 || got[0].Gw == nil {
				t.Errorf("route to %s: %v, %v", dst, got, err)
			}
		}
		// An address of the cluster's range that nobody has stays on this machine.
		if got, err := netlink.RouteGet(net.ParseIP("10.200.250.1")); err == nil {
			t.Errorf("route to an unused address: %v", got)
		}
		if other, err := FreeSlot(true); err != nil || other.Slot != 1 {
			t.Errorf("second slot: %+v, %v", other, err)
		}
		for range 2 { // also when nothing is left
			if err := Disconnect(r); err != nil {
				t.Error(err)
			}
		}
		if after := routes(t); len(after) != len(before) {
			t.Errorf("routes before %v, after %v", before, after)
		}
		if again, err := FreeSlot(true); err != nil || again.Slot != 0 {
			t.Errorf("slot after the end: %+v, %v", again, err)
		}
	})
}

func TestFreeSlotAvoidsForeignAddresses(t *testing.T) {
	inOwnNetwork(t, func() {
		link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}}
		if err := netlink.LinkAdd(link); err != nil {
			t.Skipf("dummy link: %v", err)
		}
		addr := &netlink.Addr{IPNet: ipNet(layout.Ranges{Slot: 0}.Pods())}
		addr.IP = addr.IP.To4()
		addr.IP[3] = 9
		if err := netlink.AddrAdd(link, addr); err != nil {
			t.Error(err)
		}
		if r, err := FreeSlot(true); err != nil || r.Slot != 1 {
			t.Errorf("slot: %+v, %v", r, err)
		}
	})
}

func TestLockWaits(t *testing.T) {
	dir := t.TempDir()
	release, err := Lock(dir, func() { t.Error("waited for a free lock") })
	if err != nil {
		t.Fatal(err)
	}
	waiting, got := make(chan struct{}), make(chan error)
	go func() {
		release, err := Lock(dir, func() { close(waiting) })
		if err == nil {
			release()
		}
		got <- err
	}()
	<-waiting
	release()
	select {
	case err := <-got:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Minute):
		t.Error("the lock was not passed on")
	}
}

func TestMakeCgroupV2HandsControllersDown(t *testing.T) {
	root := t.TempDir() // plain files: what is written stays to be seen
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("cpuset cpu io memory pids\n")
	for range 2 {
		if err := makeCgroupV2(root, "cluster"); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{root, filepath.Join(root, "cluster")} {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
		if err != nil || !strings.HasPrefix(string(b), "+") {
			t.Errorf("%s: %q, %v", dir, b, err)
		}
	}
	write("cpu io\n")
	if err := makeCgroupV2(root, "other"); err == nil || !strings.Contains(err.Error(), "cpuset") {
		t.Errorf("without a controller: %v", err)
	}
}

func TestRemoveTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "top")
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := removeTree(dir); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
}
