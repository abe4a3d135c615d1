package machine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/test/cluster/internal/layout"
)

// lastResort is the metric of the routes that keep the cluster's addresses from leaving by the machine's own links: any
// other route to them comes first.
const lastResort = 4_000_000

// FreeSlot returns the first slot whose link name and addresses nothing on this machine uses. The caller holds LockSlots
// until it has made the link.
func FreeSlot(ipv6 bool) (layout.Ranges, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return layout.Ranges{}, fmt.Errorf("network links: %w", err)
	}
	names := map[string]bool{}
	for _, l := range links {
		names[l.Attrs().Name] = true
	}
	used, err := usedPrefixes()
	if err != nil {
		return layout.Ranges{}, err
	}
	var last error
	for slot := range layout.Slots {
		r := layout.Ranges{Slot: slot, IPv6: ipv6}
		if names[r.Link()] {
			last = fmt.Errorf("link %s exists", r.Link())
			continue
		}
		if taken, ok := overlapping(used, r); ok {
			last = fmt.Errorf("%v is in use", taken)
			continue
		}
		return r, nil
	}
	return layout.Ranges{}, fmt.Errorf("no address range is left for another cluster on this machine (the last: %w); end one with \"cluster down\" in its checkout", last)
}

func overlapping(used []netip.Prefix, r layout.Ranges) (netip.Prefix, bool) {
	for _, p := range used {
		if p.Overlaps(r.Net()) || p.Overlaps(r.Net6()) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// usedPrefixes are those of every address and every route, except default routes.
func usedPrefixes() ([]netip.Prefix, error) {
	var used []netip.Prefix
	add := func(n *net.IPNet) {
		if n == nil {
			return
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		bits, _ := n.Mask.Size()
		if ok && bits > 0 {
			used = append(used, netip.PrefixFrom(addr.Unmap(), bits))
		}
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("network addresses: %w", err)
	}
	for _, a := range addrs {
		add(a.IPNet)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("network routes: %w", err)
	}
	for _, r := range routes {
		add(r.Dst)
	}
	return used, nil
}

// Connect joins the network namespace of the process pid to this machine: a pair of links with addresses on both ends,
// routes to pods and services on the machine, and routes that keep every other address of the cluster's ranges here.
// The node gets no default route: nothing in the cluster can reach further than this machine.
func Connect(pid int, r layout.Ranges) error {
	if err := connect(pid, r); err != nil {
		return fmt.Errorf("network of the node: %w", err)
	}
	return nil
}

func connect(pid int, r layout.Ranges) error {
	for _, p := range prefixes(r.IPv6, r.Net(), r.Net6()) {
		if err := netlink.RouteReplace(unreachable(p)); err != nil {
			return fmt.Errorf("unreachable route %v: %w", p, err)
		}
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: r.Link()}, PeerName: "eth0", PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("link %s: %w", r.Link(), err)
	}
	here, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer here.Close()
	if r.IPv6 { // a machine may have IPv6 and yet switch it off for new links
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+r.Link()+"/disable_ipv6", []byte("0"), 0); err != nil {
			return err
		}
	}
	if err := configure(here, r.Link(), prefixes(r.IPv6, r.Machine(), r.Machine6()), nil); err != nil {
		return err
	}
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	there, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer there.Close()
	// The node's route to the services only exists so that packets to them reach kube-proxy's rules at all.
	if err := configure(there, "eth0", prefixes(r.IPv6, r.Node(), r.Node6()), prefixes(r.IPv6, r.Services(), r.Services6())); err != nil {
		return err
	}
	link, err := here.LinkByName(r.Link())
	if err != nil {
		return err
	}
	for _, p := range []struct {
		dst netip.Prefix
		via netip.Prefix
	}{{r.Pods(), r.Node()}, {r.Services(), r.Node()}, {r.Pods6(), r.Node6()}, {r.Services6(), r.Node6()}} {
		if p.dst.Addr().Is6() && !r.IPv6 {
			continue
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(p.dst), Gw: p.via.Addr().AsSlice()}
		if err := here.RouteAdd(route); err != nil {
			return fmt.Errorf("route %v: %w", p.dst, err)
		}
	}
	return nil
}

// configure gives the link its addresses, sets it up, and adds routes to what is directly behind it.
func configure(h *netlink.Handle, name string, addrs, routes []netip.Prefix) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	for _, p := range addrs {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // no second of waiting for duplicates
		}
		if err := h.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("link %s: address %v: %w", name, p, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("link %s up: %w", name, err)
	}
	for _, p := range routes {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(p), Scope: unix.RT_SCOPE_LINK}
		if p.Addr().Is6() {
			route.Scope = unix.RT_SCOPE_UNIVERSE // IPv6 knows no other
		}
		if err := h.RouteAdd(route); err != nil {
			return fmt.Errorf("link %s: route %v: %w", name, p, err)
		}
	}
	return nil
}

// Disconnect removes what Connect made. It succeeds when there is nothing to remove.
func Disconnect(r layout.Ranges) error {
	var errs []error
	link, err := netlink.LinkByName(r.Link())
	switch {
	case errors.As(err, new(netlink.LinkNotFoundError)):
	case err != nil:
		errs = append(errs, err)
	default:
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("link %s: %w", r.Link(), err))
		}
	}
	for _, p := range prefixes(r.IPv6, r.Net(), r.Net6()) {
		if err := netlink.RouteDel(unreachable(p)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("unreachable route %v: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

func unreachable(p netip.Prefix) *netlink.Route {
	return &netlink.Route{Type: unix.RTN_UNREACHABLE, Dst: ipNet(p), Priority: lastResort}
}

func prefixes(ipv6 bool, four, six netip.Prefix) []netip.Prefix {
	if !ipv6 {
		return []netip.Prefix{four}
	}
	return []netip.Prefix{four, six}
}

func ipNet(p netip.Prefix) *net.IPNet {
	p = p.Masked()
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
