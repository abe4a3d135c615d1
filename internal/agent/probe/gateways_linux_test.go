package probe

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func TestGateways(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	runtime.LockOSThread() // Never unlocked: the thread ends with the test.
	ns, err := netns.New()
	check(err)
	defer ns.Close()
	got, err := Gateways()
	check(err)
	if len(got) != 0 {
		t.Errorf("without routes: %v", got)
	}

	check(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer0"}))
	eth, err := netlink.LinkByName("eth0")
	check(err)
	peer, err := netlink.LinkByName("peer0")
	check(err)
	check(netlink.LinkSetUp(peer))
	check(netlink.LinkSetUp(eth))
	for _, cidr := range []string{"10.1.0.2/24", "fd01::2/64"} {
		a, err := netlink.ParseAddr(cidr)
		check(err)
		a.Flags = unix.IFA_F_NODAD
		check(netlink.AddrAdd(eth, a))
	}
	index := eth.Attrs().Index
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	_, other, _ := net.ParseCIDR("10.9.0.0/16")
	for _, r := range []netlink.Route{
		{LinkIndex: index, Gw: net.ParseIP("10.1.0.1")},
		{LinkIndex: index, Gw: net.ParseIP("fd01::1")},
		{LinkIndex: index, Gw: net.ParseIP("10.1.0.9"), Dst: other},
		{Dst: all, Priority: 7, MultiPath: []*netlink.NexthopInfo{
			{LinkIndex: index, Gw: net.ParseIP("10.1.0.3")}, {LinkIndex: index, Gw: net.ParseIP("10.1.0.4")},
		}},
	} {
		check(netlink.RouteAdd(&r))
	}
	got, err = Gateways()
	check(err)
	want := []netip.Addr{
		netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.3"),
		netip.MustParseAddr("10.1.0.4"), netip.MustParseAddr("fd01::1"),
	}
	less := cmpopts.SortSlices(func(a, b netip.Addr) bool { return a.Less(b) })
	if d := cmp.Diff(want, got, less, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("gateways (-want +got):\n%s", d)
	}
}
