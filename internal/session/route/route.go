// Package route decides where the local process's connections, datagrams and name lookups go:
// to the target, to the laptop's own network, or to the resolver of the session. It knows the
// configuration, what the process listens on and which names it has looked up, and does no
// input or output.
//
// In the order of the checks:
//
//   - port 0 and addresses that mean something only on this machine (unspecified,
//     multicast, broadcast, fe80::/10) stay local, and so do datagrams to the broadcast
//     addresses of the networks that it is in;
//   - port 53 is answered by the session when names resolve at the target, whatever the
//     address: a process may use the laptop's name server or one of its own choice. The DNS
//     filter then decides by name;
//   - with local name resolution, port 53 of the laptop's own name servers and of
//     loopback addresses stays local, or names would not resolve at all under
//     outgoing-remote. With names in the outgoing filter the session passes these queries
//     on itself, to know which addresses the names have;
//   - without outgoing traffic of that protocol, everything is local;
//   - loopback is the target's localhost, as for a process in the pod, except for ports
//     that the process itself listens on, and except with ignore_localhost;
//   - the outgoing filter decides by protocol, port, and address or the names that the process
//     looked up to get it. Nothing is looked up again: what a process connects to may have
//     other addresses by now;
//   - the rest goes out from the target. With feature.network.ipv6 off, IPv6 is refused
//     with ENETUNREACH there, as on a machine without IPv6.
package route

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/pattern"
)

// dnsPort is where name servers listen (RFC 1035, section 4.2).
const dnsPort = 53

// Table answers for one session. Its methods may be called at once from any goroutine and
// do not block.
type Table struct {
	network     config.Network
	nameServers map[netip.Addr]bool
	connections *filter // of connections and datagrams; nil without one
	lookups     *filter // of names; nil without one
	sockets     []*pattern.Pattern
	book        book
	broadcasts  map[netip.Addr]bool // of the laptop's networks

	mu   sync.RWMutex
	owns map[uint16]bool
}

// New makes a table. NameServers are the laptop's own, see [NameServers]. It fails for an
// entry of a filter that can't be read.
func New(network config.Network, nameServers []netip.Addr) (*Table, error) {
	t := &Table{network: network, nameServers: make(map[netip.Addr]bool), owns: make(map[uint16]bool)}
	for _, a := range nameServers {
		t.nameServers[a.Unmap().WithZone("")] = true
	}
	var err error
	if t.connections, err = newFilter(network.Outgoing.Filter, config.ParseOutgoingEntry); err != nil {
		return nil, fmt.Errorf("feature.network.outgoing.filter: %w", err)
	}
	if t.lookups, err = newFilter(network.DNS.Filter, config.ParseDNSEntry); err != nil {
		return nil, fmt.Errorf("feature.network.dns.filter: %w", err)
	}
	for _, text := range network.Outgoing.UnixStreams {
		p, err := pattern.Compile(text)
		if err != nil {
			return nil, fmt.Errorf("feature.network.outgoing.unix_streams: %w", err)
		}
		t.sockets = append(t.sockets, p)
	}
	return t, nil
}

// LearnNetworks records the networks that the laptop is in. It is called before the first decision.
func (t *Table) LearnNetworks(networks []netip.Prefix) {
	t.broadcasts = make(map[netip.Addr]bool)
	for _, n := range networks {
		// RFC 919: all bits of the host are set. A network of two addresses has none (RFC 3021).
		if a := n.Addr().Unmap(); a.Is4() && n.Bits() > 0 && n.Bits() < 31 {
			b := a.As4()
			host := ^uint32(0) >> n.Bits()
			t.broadcasts[netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(b[:])|host)))] = true
		}
	}
}

// RouteUnix decides about a Unix socket, a path or "@" and an abstract name, of which the "@" is
// not compared. A pattern that takes too long does not match.
func (t *Table) RouteUnix(name string) intercept.Verdict {
	name = strings.TrimPrefix(name, "@")
	for _, p := range t.sockets {
		if ok, err := p.Match(name); ok && err == nil {
			return intercept.Remote
		}
	}
	return intercept.Local
}

// ResolvesNames says whether lookups have to take the form of DNS queries that the session
// sees: because the target answers them, or because their answers decide about connections.
func (t *Table) ResolvesNames() bool { return t.network.DNS.Enabled || t.needsNames() }

func (t *Table) needsNames() bool {
	return (t.network.Outgoing.TCP || t.network.Outgoing.UDP) && t.connections.hasNames()
}

// NameIsRemote says whether a name is resolved at the target.
func (t *Table) NameIsRemote(name string) bool { return t.network.DNS.Enabled && t.lookups.name(name) }

// Learn records that the process got the addresses by looking the name up.
func (t *Table) Learn(name string, addrs []netip.Addr) {
	if t.connections.hasNames() {
		t.book.learn(name, addrs)
	}
}

// Owns records that the process listens on a TCP port.
func (t *Table) Owns(port uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.owns[port] = true
}

// Disowns records that nobody listens on the port any more.
func (t *Table) Disowns(port uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.owns, port)
}

func (t *Table) isOwn(port uint16) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.owns[port]
}

// Route decides about one destination. The error is the errno of a Refuse.
func (t *Table) Route(p intercept.Protocol, dst netip.AddrPort) (intercept.Verdict, error) {
	ip, port := dst.Addr().Unmap(), dst.Port()
	if port == 0 || !crossesMachines(ip) || p == intercept.UDP && t.broadcasts[ip] {
		return intercept.Local, nil
	}
	if port == dnsPort {
		switch {
		case t.network.DNS.Enabled:
			return intercept.Resolve, nil
		case (ip.IsLoopback() || t.nameServers[ip.WithZone("")]) && t.needsNames():
			return intercept.Resolve, nil
		case ip.IsLoopback() || t.nameServers[ip.WithZone("")]:
			return intercept.Local, nil
		}
	}
	if !t.outgoing(p) {
		return intercept.Local, nil
	}
	if ip.IsLoopback() {
		if t.network.Outgoing.IgnoreLocalhost || p == intercept.TCP && t.isOwn(port) {
			return intercept.Local, nil
		}
	}
	if !t.connections.connection(p, netip.AddrPortFrom(ip, port), t.book.of(ip)) {
		return intercept.Local, nil
	}
	if ip.Is6() && !t.network.IPv6 {
		return intercept.Refuse, syscall.ENETUNREACH
	}
	return intercept.Remote, nil
}

func (t *Table) outgoing(p intercept.Protocol) bool {
	switch p {
	case intercept.TCP:
		return t.network.Outgoing.TCP
	case intercept.UDP:
		return t.network.Outgoing.UDP
	}
	return false
}

// crossesMachines is false for addresses whose meaning belongs to this machine or its link:
// there is nothing that the target could be asked for.
func crossesMachines(ip netip.Addr) bool {
	switch {
	case !ip.IsValid(), ip.IsUnspecified(), ip.IsMulticast():
		return false
	case ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return false
	case ip.Is6() && ip.IsLinkLocalUnicast():
		// A zone names an interface of this machine. 169.254.0.0/16 has none: cloud
		// metadata services live there, and the target's is wanted.
		return false
	}
	return true
}
