package resolver

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// hosts is what a hosts file says, hosts(5).
type hosts struct {
	addrs map[string][]netip.Addr // by absolute name in lower case, in the file's order
	names map[netip.Addr]string   // the first line's canonical name, absolute, as written
}

// maxHostsNames bounds the names that are kept of one file.
const maxHostsNames = 100_000

// parseHosts reads a hosts file, skipping what it doesn't understand. Lines for the same
// name add up, as in glibc.
func parseHosts(text string) hosts {
	h := hosts{addrs: map[string][]netip.Addr{}, names: map[netip.Addr]string{}}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		a, err := netip.ParseAddr(f[0])
		if err != nil {
			continue
		}
		a = a.Unmap().WithZone("")
		for i, name := range f[1:] {
			if _, ok := dns.IsDomainName(name); !ok || len(h.addrs) >= maxHostsNames {
				continue
			}
			key := dns.CanonicalName(name)
			if !slices.Contains(h.addrs[key], a) {
				h.addrs[key] = append(h.addrs[key], a)
			}
			if _, ok := h.names[a]; !ok && i == 0 {
				h.names[a] = dns.Fqdn(name)
			}
		}
	}
	return h
}

// localTTL is the TTL of answers from the hosts file, in seconds: nobody may keep them.
const localTTL = 0

// answer returns the records that the file has for a question. The second result is false
// when the question goes on to the name servers.
//
// A name with addresses of one family only has no record of the other: getaddrinfo asks
// for both and is content with what the file gave.
func (h hosts) answer(q dns.Question) ([]dns.RR, bool) {
	name := dns.CanonicalName(q.Name)
	switch q.Qtype {
	case dns.TypeA, dns.TypeAAAA:
		addrs := h.addrs[name]
		if localhost(name) {
			// RFC 6761, section 6.3: always the loopback, whatever the file says.
			addrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
		}
		return addressRecords(q, addrs), len(addrs) > 0
	case dns.TypePTR:
		a, ok := reverse(name)
		if !ok {
			return nil, false
		}
		host, ok := h.names[a]
		if !ok && a.IsLoopback() {
			host, ok = "localhost.", true
		}
		if !ok {
			return nil, false
		}
		return []dns.RR{&dns.PTR{Hdr: header(q), Ptr: host}}, true
	}
	return nil, localhost(name)
}

func addressRecords(q dns.Question, addrs []netip.Addr) []dns.RR {
	var rrs []dns.RR
	for _, a := range addrs {
		switch {
		case a.Is4() && q.Qtype == dns.TypeA:
			rrs = append(rrs, &dns.A{Hdr: header(q), A: a.AsSlice()})
		case a.Is6() && q.Qtype == dns.TypeAAAA:
			rrs = append(rrs, &dns.AAAA{Hdr: header(q), AAAA: a.AsSlice()})
		}
	}
	return rrs
}

func header(q dns.Question) dns.RR_Header {
	return dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: q.Qclass, Ttl: localTTL}
}

func localhost(name string) bool {
	return name == "localhost." || strings.HasSuffix(name, ".localhost.")
}

// reverse returns the address that a name under in-addr.arpa or ip6.arpa stands for.
func reverse(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		l := strings.Split(rest, ".")
		if len(l) != 4 {
			return netip.Addr{}, false
		}
		slices.Reverse(l)
		a, err := netip.ParseAddr(strings.Join(l, "."))
		return a, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa.")
	l := strings.Split(rest, ".")
	if !ok || len(l) != 32 {
		return netip.Addr{}, false
	}
	slices.Reverse(l)
	var b strings.Builder
	for i, d := range l {
		if len(d) != 1 {
			return netip.Addr{}, false
		}
		if i > 0 && i%4 == 0 {
			b.WriteByte(':')
		}
		b.WriteString(d)
	}
	a, err := netip.ParseAddr(b.String())
	return a.Unmap(), err == nil
}
