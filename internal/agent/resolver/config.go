package resolver

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Limits of glibc's resolver (resolv.h) and, for the search list, ours: glibc has none.
const (
	maxNameservers = 3
	maxSearch      = 32
	maxNdots       = 15
	maxTimeout     = 30
	maxAttempts    = 5
)

// config is what a resolv.conf says, resolv.conf(5).
type config struct {
	servers  []netip.AddrPort
	search   []string // absolute names in lower case, with the final dot; "." is possible
	ndots    int
	timeout  time.Duration // of one attempt at one server
	attempts int
	rotate   bool
	useVC    bool // ask over TCP only
	edns0    bool
	noAAAA   bool
}

// parseConfig reads a resolv.conf. Like glibc it skips what it doesn't understand: a file
// that works for the target must work here. Hostname is for the search list of a file that
// has none: its domain, if it has one. Port is the name servers' port.
func parseConfig(text, hostname string, port uint16) config {
	c := config{ndots: 1, timeout: 5 * time.Second, attempts: 2}
	searched := false
	for line := range strings.Lines(text) {
		if line[0] == ';' || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil && len(c.servers) < maxNameservers {
				c.servers = append(c.servers, netip.AddrPortFrom(a.Unmap(), port))
			}
		case "domain":
			c.search, searched = searchList(f[1:2]), true
		case "search":
			c.search, searched = searchList(f[1:]), true
		case "options":
			for _, o := range f[1:] {
				c.option(o)
			}
		}
	}
	if len(c.servers) == 0 {
		c.servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)}
	}
	if _, domain, ok := strings.Cut(hostname, "."); ok && !searched {
		c.search = searchList([]string{domain})
	}
	return c
}

func (c *config) option(o string) {
	name, value, _ := strings.Cut(o, ":")
	number := func(lowest, highest int) (int, bool) {
		n, err := strconv.Atoi(value)
		return max(lowest, min(n, highest)), err == nil
	}
	switch name {
	case "ndots":
		if n, ok := number(0, maxNdots); ok {
			c.ndots = n
		}
	case "timeout":
		if n, ok := number(1, maxTimeout); ok {
			c.timeout = time.Duration(n) * time.Second
		}
	case "attempts":
		if n, ok := number(1, maxAttempts); ok {
			c.attempts = n
		}
	case "rotate":
		c.rotate = true
	case "use-vc":
		c.useVC = true
	case "edns0":
		c.edns0 = true
	case "no-aaaa":
		c.noAAAA = true
	}
}

func searchList(domains []string) []string {
	var out []string
	for _, d := range domains {
		if _, ok := dns.IsDomainName(d); ok && len(out) < maxSearch {
			out = append(out, dns.CanonicalName(d))
		}
	}
	return out
}

// candidate is a name to ask for.
type candidate struct {
	name string // absolute
	// decides says that its failure is the answer when no other candidate has one: what
	// glibc does for a name that was first asked as it is.
	decides bool
}

// candidates returns the names to ask for qname, an absolute name in wire notation, in the
// order of glibc's res_search.
func (c *config) candidates(qname string) []candidate {
	first := dns.CountLabel(qname)-1 >= c.ndots || c.isExpanded(qname)
	list := []candidate{}
	if first {
		list = append(list, candidate{name: qname, decides: true})
	}
	if c.isExpanded(qname) {
		return list
	}
	tried := first
	for _, d := range c.search {
		switch name := qname + d; {
		case d == "." && !tried:
			// The root in the list stands for the name itself.
			list, tried = append(list, candidate{name: qname}), true
		case d != "." && fits(name):
			list = append(list, candidate{name: name})
		}
	}
	if !tried {
		list = append(list, candidate{name: qname})
	}
	return list
}

// isExpanded says that the search list does not apply to an absolute name: it ends in one
// of its domains, or it is the name of an address (RFC 1035, section 3.5), or the root.
func (c *config) isExpanded(qname string) bool {
	if qname == "." || dns.IsSubDomain("arpa.", qname) {
		return true
	}
	for _, d := range c.search {
		if d != "." && dns.IsSubDomain(d, qname) {
			return true
		}
	}
	return false
}

// fits reports whether a name is short enough for a DNS message (RFC 1035, section 2.3.4).
func fits(name string) bool {
	_, ok := dns.IsDomainName(name)
	return ok
}
