package layout

import (
	"fmt"
	"net/netip"
)

// Slots is how many clusters can run on one machine: each has address ranges and names of its own.
const Slots = 16

// NodeName is the name of the only node.
const NodeName = "node1"

// Ranges are the addresses of a cluster. They follow from its slot, 0 to Slots-1. All IPv4 addresses lie in Net, all
// IPv6 ones in Net6.
type Ranges struct {
	Slot int
	IPv6 bool // dual stack; false where the machine has no IPv6
}

func (r Ranges) v4(last string) string { return fmt.Sprintf("10.%d.%s", 200+r.Slot, last) }
func (r Ranges) v6(last string) string { return fmt.Sprintf("fd6d:6972:%x%s", 0x7200+r.Slot, last) }

// Net holds every IPv4 address of the cluster.
func (r Ranges) Net() netip.Prefix { return netip.MustParsePrefix(r.v4("0.0/16")) }

// Net6 holds every IPv6 address of the cluster.
func (r Ranges) Net6() netip.Prefix { return netip.MustParsePrefix(r.v6("::/48")) }

// Machine is the address of the machine's end of the link.
func (r Ranges) Machine() netip.Prefix { return netip.MustParsePrefix(r.v4("0.1/24")) }

// Machine6 is Machine for IPv6.
func (r Ranges) Machine6() netip.Prefix { return netip.MustParsePrefix(r.v6("::1/64")) }

// Node is the address of the node's end of the link.
func (r Ranges) Node() netip.Prefix { return netip.MustParsePrefix(r.v4("0.2/24")) }

// Node6 is Node for IPv6.
func (r Ranges) Node6() netip.Prefix { return netip.MustParsePrefix(r.v6("::2/64")) }

// Services is the range of ClusterIPs.
func (r Ranges) Services() netip.Prefix { return netip.MustParsePrefix(r.v4("64.0/20")) }

// Services6 is Services for IPv6.
func (r Ranges) Services6() netip.Prefix { return netip.MustParsePrefix(r.v6(":1::/112")) }

// Kubernetes is the ClusterIP of the API server, by definition the first of its range.
func (r Ranges) Kubernetes() netip.Addr { return r.Services().Addr().Next() }

// DNS is the ClusterIP of the cluster's DNS server.
func (r Ranges) DNS() netip.Addr { return netip.MustParseAddr(r.v4("64.10")) }

// Pods is the range of pod addresses.
func (r Ranges) Pods() netip.Prefix { return netip.MustParsePrefix(r.v4("128.0/20")) }

// Pods6 is Pods for IPv6.
func (r Ranges) Pods6() netip.Prefix { return netip.MustParsePrefix(r.v6(":2::/64")) }

// Server is the URL of the API server.
func (r Ranges) Server() string { return "https://" + r.Node().Addr().String() + ":6443" }

// Link is the name of the machine's end of the link.
func (r Ranges) Link() string { return fmt.Sprintf("mirrordcl%d", r.Slot) }

// Cgroup is the name of the control group that holds every pod.
func (r Ranges) Cgroup() string { return fmt.Sprintf("mirrord-cluster-%d", r.Slot) }
