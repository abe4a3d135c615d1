package probe

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Gateways returns the gateways of the default routes, of both families, in the network
// namespace of the calling thread.
func Gateways() ([]netip.Addr, error) {
	var out []netip.Addr
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("listing routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst != nil {
				if ones, _ := r.Dst.Mask.Size(); ones != 0 {
					continue
				}
			}
			hops := []net.IP{r.Gw, via(r.Via)}
			for _, h := range r.MultiPath {
				hops = append(hops, h.Gw, via(h.Via))
			}
			for _, ip := range hops {
				if a, ok := netip.AddrFromSlice(ip); ok {
					out = append(out, a.Unmap())
				}
			}
		}
	}
	return out, nil
}

// via is the gateway of an IPv4 route that is an IPv6 address.
func via(d netlink.Destination) net.IP {
	if v, ok := d.(*netlink.Via); ok {
		return v.Addr
	}
	return nil
}
